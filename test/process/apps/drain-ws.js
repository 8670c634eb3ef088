// A ws server that handles drains without knowing passfd: it asks its clients to reconnect (code 1012).
import { subscribe } from 'node:diagnostics_channel';
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const server = createServer();
const sockets = new WebSocketServer({ server });
sockets.on('connection', (socket) => {
  socket.send(process.env.PASSFD_WORKER_ID ?? 'alone');
});
subscribe('passfd:drain', () => {
  for (const socket of sockets.clients) socket.close(1012, 'service restart');
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
