// Variant 2, the worker: joins the server at its Unix path, and answers the clients that it is passed.
import { Client, recvHandle } from 'passfd/multiprocessing';

import { readArguments } from './command-line.js';
import { serve } from './echo.js';

/** A server lets a worker in when it needs one, which may take days; this is as long as a timer can be. */
const LONGEST_WAIT_MS = 2 ** 31 - 1;

const [address = ''] = readArguments('worker server_address');

await using server = await Client(address, {
  authkey: 'peekaboo',
  waitForListener: true,
  handshakeTimeoutMs: LONGEST_WAIT_MS,
});
await server.send(process.pid);
await serve(() => recvHandle(server), 'WORKER');
