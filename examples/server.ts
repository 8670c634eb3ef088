// Variant 2, the server: accepts TCP clients, and passes each to a worker that joins at a Unix path and knows the key.
import { listen, type Descriptor } from 'passfd';
import { Listener, sendHandle, type Connection } from 'passfd/multiprocessing';

import { formatPeer, readArguments, readPort } from './command-line.js';

/** Time in which a worker has to send its process id. A silent worker must not keep the others out. */
const GREETING_TIMEOUT_MS = 5_000;

const usage = 'server server_address port';
const [address = '', portText] = readArguments(usage);
const port = readPort(portText, usage);

const workers = await Listener(address, { authkey: 'peekaboo' });
workers.on('refused', ({ message }) => {
  console.log(`SERVER: Refused a worker: ${message}`);
});
const clients = await listen({ host: '127.0.0.1', port });

const ending = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    ending.abort();
    const closed = worker.then((current) => {
      current.close();
    }, ignore);
    Promise.all([clients.close(), workers.close(), closed]).catch((error: unknown) => {
      throw error;
    });
  });
}

console.log(`SERVER: Listening on ${formatPeer(clients.address)}`);
let worker = nextWorker();
for await (const client of clients) {
  using owned = client;
  console.log(`SERVER: Got connection from ${formatPeer(owned)}`);
  await passOn(owned);
}

/** Passes a client to the worker. If there is none, or it has died, the client waits for the next worker. */
async function passOn(client: Descriptor): Promise<void> {
  for (;;) {
    let current;
    try {
      current = await worker;
      await sendHandle(current, client);
      return;
    } catch (error) {
      current?.close();
      if (ending.signal.aborted) return;
      console.log(`SERVER: Lost the worker: ${(error as Error).message}`);
      worker = nextWorker();
    }
  }
}

/** @returns the next worker; the promise rejects, for the caller that awaits it, if the worker could not join */
function nextWorker(): Promise<Connection> {
  const next = join();
  next.catch(ignore);
  return next;
}

/** Accepts a worker that knows the key. Its first message is its process id. */
async function join(): Promise<Connection> {
  const next = await workers.accept();
  try {
    const signal = AbortSignal.any([ending.signal, AbortSignal.timeout(GREETING_TIMEOUT_MS)]);
    const pid = await next.recv({ signal });
    console.log(`SERVER: Worker ${typeof pid === 'number' ? pid : 'without a pid'} joined`);
    return next;
  } catch (error) {
    next.close();
    throw error;
  }
}

function ignore(): undefined {
  return undefined;
}
