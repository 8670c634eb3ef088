// An ordinary HTTP server that knows nothing of passfd: `npm start` runs it in two processes. `app.js [PORT]`
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

const server = createServer((_request, response) => {
  response.end(`hello from worker ${process.env['PASSFD_WORKER_ID'] ?? 'none'}, process ${process.pid}\n`);
});

server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
  // Every worker is called back; one is enough to say it.
  if (process.env['PASSFD_WORKER_ID'] !== '1') return;
  const { port } = server.address() as AddressInfo;
  console.log(`
Two workers share port ${port}. Try it in another terminal, twice:

    curl http://127.0.0.1:${port}

and see who was given what:

    npx passfd status

Ctrl-C ends both.
`);
});
