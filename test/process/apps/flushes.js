// Echoes, and has something to do at SIGTERM, behind which nothing keeps it. It knows nothing of passfd.
import { createServer } from 'node:net';

const server = createServer((socket) => {
  socket.pipe(socket);
});
process.on('SIGTERM', () => {
  console.log('flushed');
  server.close();
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
