// Variant 3, the worker: receives one descriptor with each byte from a plain Unix socket, and answers `OK`.
import { connect, PassfdError, type Descriptor } from 'passfd';

import { readArguments } from './command-line.js';
import { serve } from './echo.js';

const [address = ''] = readArguments('raw-worker server_address');

await using server = await connect(address, { waitForListener: true });
await serve(receiveClient, 'WORKER');

async function receiveClient(): Promise<Descriptor> {
  using message = await server.receiveExactly(1, { descriptors: 1 });
  if (!message) throw new PassfdError('ERR_EOF', 'The server closed the connection');
  // Answer before a byte of the client is read. Until then the server keeps its copy, and can pass it to another worker.
  await server.send(Buffer.from('OK'));
  return message.takeDescriptor();
}
