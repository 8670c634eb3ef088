// An ordinary node:https server.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';

const file = (name) => readFileSync(new URL(name, import.meta.url));
const server = createServer({ key: file('key.pem'), cert: file('certificate.pem') }, (_request, response) => {
  response.end(process.env.PASSFD_WORKER_ID ?? 'alone');
});
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
