// Handles SIGTERM, and goes on. It knows nothing of passfd.
import { createServer } from 'node:net';

process.on('SIGTERM', () => {
  console.log('told to end');
});
setInterval(() => {}, 60_000);
createServer().listen(0, '127.0.0.1', () => {
  console.log(`process ${process.pid} listens`);
});
