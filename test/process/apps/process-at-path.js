// Answers with its process, at a path. It knows nothing of passfd.
import { createServer } from 'node:http';

createServer((request, response) => {
  response.end(`process ${process.pid}\n`);
}).listen(process.env.SOCKET_PATH);
