// An echo server that all workers share, and one that only this process has.
import { createServer } from 'node:net';

const shared = createServer((socket) => socket.on('error', () => {}).pipe(socket));
const own = createServer();
own.listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => {
  shared.listen(0, '127.0.0.1', () => {
    console.log('listening', shared.address().port);
  });
});
