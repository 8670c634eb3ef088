// Variant 1: a parent passes clients to a child that it starts, through a Pipe. The child answers the clients.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import { listen } from 'passfd';
import { Connection, Pipe, recvHandle, sendHandle } from 'passfd/multiprocessing';

import { formatPeer, readArguments, readPort } from './command-line.js';
import { serve } from './echo.js';

/** The child's end of the pipe: the first descriptor after stdin, stdout and stderr. */
const CHILD_END = 3;

if (process.env['PASSFD_EXAMPLE_CHILD'] === undefined) {
  await beParent();
} else {
  using server = new Connection(CHILD_END);
  await serve(() => recvHandle(server), 'CHILD');
}

async function beParent(): Promise<void> {
  const usage = 'pipe port';
  const [portText] = readArguments(usage);
  const clients = await listen({ host: '127.0.0.1', port: readPort(portText, usage) });
  let child = startChild();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      child.close();
      clients.close().catch((error: unknown) => {
        throw error;
      });
    });
  }

  console.log(`SERVER: Listening on ${formatPeer(clients.address)}`);
  for await (const client of clients) {
    using owned = client;
    console.log(`SERVER: Got connection from ${formatPeer(owned)}`);
    try {
      await sendHandle(child, owned);
    } catch (error) {
      if (clients.closed) return;
      console.log(`SERVER: Lost the child: ${(error as Error).message}`);
      child.close();
      child = startChild();
      await sendHandle(child, owned);
    }
  }
}

/** @returns the parent's end of the pipe; the child exits when it is closed */
function startChild(): Connection {
  const [parentEnd, childEnd] = Pipe();
  spawn(process.execPath, [fileURLToPath(import.meta.url)], {
    env: { ...process.env, PASSFD_EXAMPLE_CHILD: 'true' },
    stdio: ['ignore', 'inherit', 'inherit', childEnd.fd],
  });
  childEnd.close();
  return parentEnd;
}
