// Closes its server at SIGTERM, and at a request to recycle, and then exits with code 0. It knows nothing of passfd.
import { createServer } from 'node:http';

const server = createServer((request, response) => {
  if (request.url === '/recycle') server.close();
  response.setHeader('connection', 'close').end(`${process.pid} ${process.env.RELEASE ?? ''}`);
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
process.once('SIGTERM', () => {
  server.close();
});
