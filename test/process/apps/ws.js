// An ordinary ws server: sends its worker id, then echoes.
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const server = createServer();
new WebSocketServer({ server }).on('connection', (socket) => {
  socket.send(process.env.PASSFD_WORKER_ID ?? 'alone');
  socket.on('message', (message) => {
    socket.send(String(message));
  });
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
