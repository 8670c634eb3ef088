// An HTTP server without any code for passfd. `npm start` runs it in two processes. Usage: `app.js [PORT]`
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';

const server = createServer((_request, response) => {
  response.end(`hello from worker ${process.env['PASSFD_WORKER_ID'] ?? 'none'}, process ${process.pid}\n`);
});

/** The command line's path, so that what is printed works in every directory. */
const passfd = `node "${fileURLToPath(new URL('../src/cli/main.js', import.meta.url))}"`;

server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
  // Every worker gets here; one of them prints.
  if (process.env['PASSFD_WORKER_ID'] !== '1') return;
  const { port } = server.address() as AddressInfo;
  console.log(`
The app listens on port ${port}. In another terminal, ask it twice:

    curl http://127.0.0.1:${port}
    curl http://127.0.0.1:${port}

Then show the connections per worker:

    ${passfd} status

Ctrl-C stops the app.
`);
});
