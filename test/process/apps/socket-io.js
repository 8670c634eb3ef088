// An ordinary Socket.IO server with its default transports: long polling first, whose requests must all come to one worker.
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const server = createServer();
new Server(server).on('connection', (socket) => {
  socket.emit('worker', process.env.PASSFD_WORKER_ID ?? 'alone');
  socket.on('echo', (words, answer) => {
    answer(words);
  });
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
