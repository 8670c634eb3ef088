// Variant 2, the worker: joins the server at its Unix path, and answers the clients that it receives.
import { Client, recvHandle } from 'passfd/multiprocessing';

import { readArguments } from './command-line.js';
import { serve } from './echo.js';

/** The longest time of a timer. The server accepts a worker only when it needs one, which may take days. */
const LONGEST_WAIT_MS = 2 ** 31 - 1;

const [address = ''] = readArguments('worker server_address');

await using server = await Client(address, {
  authkey: 'peekaboo',
  waitForListener: true,
  handshakeTimeoutMs: LONGEST_WAIT_MS,
});
await server.send(process.pid);
await serve(() => recvHandle(server), 'WORKER');
