// An ordinary node:http server, as an ES module. It knows nothing of passfd.
import { createServer } from 'node:http';

const server = createServer((request, response) => {
  response.end(`${process.env.PASSFD_WORKER_ID ?? 'alone'} ${request.socket.remoteAddress ?? ''}`);
});
server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
