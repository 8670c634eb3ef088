// Writes a line for each request, and answers with its process id. It knows nothing of passfd.
import { createServer } from 'node:http';

const server = createServer((request, response) => {
  console.log('asked for', request.url);
  response.end(String(process.pid));
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
