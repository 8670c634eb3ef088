// Answers at once, but in worker 1 not before SIGUSR2.
import { createServer } from 'node:net';

const isStuck = process.env.PASSFD_WORKER_ID === '1';
const released = isStuck ? new Promise((resolve) => process.once('SIGUSR2', resolve)) : undefined;
const server = createServer((socket) => {
  socket.on('error', () => {});
  socket.once('data', async (line) => {
    if (released) await released;
    socket.end(line);
  });
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
