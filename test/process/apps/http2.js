// An ordinary node:http2 server over TLS, which also speaks HTTP/1.1.
import { readFileSync } from 'node:fs';
import { createSecureServer } from 'node:http2';

const file = (name) => readFileSync(new URL(name, import.meta.url));
const server = createSecureServer(
  { key: file('key.pem'), cert: file('certificate.pem'), allowHTTP1: true },
  (_request, response) => {
    response.end(process.env.PASSFD_WORKER_ID ?? 'alone');
  },
);
server.listen(0, '127.0.0.1', () => {
  console.log('listening', server.address().port);
});
