// Listens only in worker 1. In other workers it does some work and exits. It knows nothing of passfd.
import { createServer } from 'node:http';

if (process.env.PASSFD_WORKER_ID === '1' && process.argv[2] === 'serve') {
  const server = createServer((request, response) => response.end(String(process.pid)));
  server.listen(0, '127.0.0.1', () => {
    console.log('listening', server.address().port);
  });
} else {
  console.log('done', process.env.PASSFD_WORKER_ID);
}
