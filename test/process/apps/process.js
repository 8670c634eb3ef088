// Answers with its process. It knows nothing of passfd.
import { createServer } from 'node:http';

const server = createServer((request, response) => {
  response.end(`process ${process.pid}\n`);
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
