// Answers `/slow` when a request for `/now` comes, and everything else at once. It knows nothing of passfd.
import { createServer } from 'node:http';

const waiting = [];
const server = createServer((request, response) => {
  if (request.url === '/slow') {
    response.write('wait ');
    waiting.push(response);
  } else {
    if (request.url === '/now') for (const one of waiting.splice(0)) one.end('slow');
    response.end(`process ${process.pid}`);
  }
});
// It must not be closed by its own timeout while a test waits.
server.keepAliveTimeout = 60_000;
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
