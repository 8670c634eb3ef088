// Serves one client at a time: it reads a line, and closes when the next line comes.
import { createServer } from 'node:net';

const server = createServer((socket) => {
  socket.on('error', () => {});
  socket.once('data', (line) => {
    socket.write(line);
    socket.once('data', (last) => socket.end(last));
  });
});
server.maxConnections = 1;
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
