// Variant 2, the server: accepts TCP clients, and passes each to a worker that joins at a Unix path with the key.
import { listen, type Descriptor } from 'passfd';
import { Listener, sendHandle, type Connection } from 'passfd/multiprocessing';

import { formatPeer, readArguments, readPort } from './command-line.js';

/** A worker that knows the key and then does not say who it is must not keep the others out. */
const GREETING_TIMEOUT_MS = 5_000;

const usage = 'server server_address port';
const [address = '', portText] = readArguments(usage);

const workers = await Listener(address, { authkey: 'peekaboo' });
workers.on('refused', ({ message }) => {
  console.log(`SERVER: Refused a worker: ${message}`);
});
const clients = await listen({ host: '127.0.0.1', port: readPort(portText, usage) });
console.log(`SERVER: Listening on ${formatPeer(clients.address)}`);

let worker: Connection | undefined;

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    worker?.close();
    Promise.all([clients.close(), workers.close()]).catch((error: unknown) => {
      throw error;
    });
  });
}

for await (const client of clients) {
  using owned = client;
  console.log(`SERVER: Got connection from ${formatPeer(owned)}`);
  await passOn(owned);
}

/** Passes a client to the worker. Without one, or when it has died, the client waits for the next. */
async function passOn(client: Descriptor): Promise<void> {
  for (;;) {
    try {
      worker ??= await nextWorker();
      await sendHandle(worker, client);
      return;
    } catch (error) {
      if (clients.closed) return;
      console.log(`SERVER: Lost the worker: ${(error as Error).message}`);
      worker?.close();
      worker = undefined;
    }
  }
}

/** The next worker that knows the key; the first thing it says is its process id. */
async function nextWorker(): Promise<Connection> {
  const next = await workers.accept();
  try {
    const pid = await next.recv({ signal: AbortSignal.timeout(GREETING_TIMEOUT_MS) });
    console.log(`SERVER: Worker ${typeof pid === 'number' ? pid : 'without a pid'} joined`);
    return next;
  } catch (error) {
    next.close();
    throw error;
  }
}
