// Variant 2, the worker: joins the server at its Unix path, and answers the clients that it is passed.
import { Client, recvHandle } from 'passfd/multiprocessing';

import { readArguments } from './command-line.js';
import { serve } from './echo.js';

const [address = ''] = readArguments('worker server_address');

await using server = await Client(address, { authkey: 'peekaboo', waitForListener: true });
await server.send(process.pid);
await serve(() => recvHandle(server), 'WORKER');
