// Variant 3, the server: sends one byte `x` with one descriptor for each client over a plain Unix socket, and waits for `OK`.
import { listen, StreamSocket, type Descriptor } from 'passfd';

import { formatPeer, readArguments, readPort } from './command-line.js';

const usage = 'raw-server server_address port';
const [address = '', portText] = readArguments(usage);
const port = readPort(portText, usage);

const workers = await listen(address);
const clients = await listen({ host: '127.0.0.1', port });
let worker: StreamSocket | undefined;

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    worker?.destroy();
    Promise.all([clients.close(), workers.close()]).catch((error: unknown) => {
      throw error;
    });
  });
}

console.log(`SERVER: Listening on ${formatPeer(clients.address)}`);
for await (const client of clients) {
  using owned = client;
  console.log(`SERVER: Got connection from ${formatPeer(owned)}`);
  await passOn(owned);
}

/**
 * Passes a client to the worker, and keeps its copy until the worker answers `OK`. If there is no worker, or the worker dies
 * before it answers, the client waits for the next worker.
 */
async function passOn(client: Descriptor): Promise<void> {
  for (;;) {
    try {
      worker ??= new StreamSocket(await workers.accept());
      await worker.send(Buffer.from('x'), [client], { blocking: true });
      using answer = await worker.receiveExactly(2);
      if (answer?.bytes.toString() === 'OK') return;
      throw new Error(answer ? 'it did not answer OK' : 'it closed the connection');
    } catch (error) {
      if (clients.closed) return;
      console.log(`SERVER: Lost the worker: ${(error as Error).message}`);
      worker?.destroy();
      worker = undefined;
    }
  }
}
