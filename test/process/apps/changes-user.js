// Answers with its process. After it listens, it changes to a user without rights. It knows nothing of passfd.
import { createServer } from 'node:http';

const server = createServer((request, response) => {
  response.end(`process ${process.pid} of user ${process.getuid()}\n`);
});
server.listen(0, '127.0.0.1', () => {
  process.setgid(65_534);
  process.setuid(65_534);
  console.log('listening', server.address().port);
});
