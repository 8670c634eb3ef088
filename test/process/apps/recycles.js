// Closes its server at SIGTERM, and when it is asked to recycle, and ends with code 0 then. It knows nothing of passfd.
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
