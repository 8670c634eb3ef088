// An ordinary node:http server, in TypeScript that Node itself strips.
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

const server: Server = createServer((_request, response) => {
  response.end(process.env.PASSFD_WORKER_ID ?? 'alone');
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', (server.address() as AddressInfo).port);
});
