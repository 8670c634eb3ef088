// Variant 3, the worker: takes one descriptor with each byte that comes over a plain Unix socket, and answers `OK`.
import { connect, PassfdError, type Descriptor } from 'passfd';

import { readArguments } from './command-line.js';
import { serve } from './echo.js';

const [address = ''] = readArguments('raw-worker server_address');

await using server = await connect(address, { waitForListener: true });
await serve(receiveClient, 'WORKER');

async function receiveClient(): Promise<Descriptor> {
  using message = await server.receiveExactly(1, { descriptors: 1 });
  if (!message) throw new PassfdError('ERR_EOF', 'The server closed the connection');
  // Before a byte of the client is read: until then the server keeps its copy, and can pass it to another worker.
  await server.send(Buffer.from('OK'));
  return message.takeDescriptor();
}
