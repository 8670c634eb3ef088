// Answers at once, but in worker 1 only after a while.
import { createServer } from 'node:net';

const isSlow = process.env.PASSFD_WORKER_ID === '1';
const server = createServer((socket) => {
  socket.on('error', () => {});
  socket.once('data', (line) => {
    setTimeout(() => socket.end(line), isSlow ? 50 : 0);
  });
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
