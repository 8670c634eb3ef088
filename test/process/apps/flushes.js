// Echoes, and finishes some work at SIGTERM. After that nothing keeps it alive. It knows nothing of passfd.
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
