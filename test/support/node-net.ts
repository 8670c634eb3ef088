// A client and a server of `node:net`, connected over loopback or a Unix socket.
import { once } from 'node:events';
import { connect, createServer, type ServerOpts, type Server, type Socket } from 'node:net';

import { temporaryDirectory } from './files.js';

/** Both ends of a connection as plain Node has them, and the server that it came to. */
export interface Connection {
  readonly server: Server;
  /** Where the test stands for the client out in the world. */
  readonly client: Socket;
  /** What the server's 'connection' event brought. */
  readonly socket: Socket;
}

export const transports = ['tcp', 'unix'] as const;

/**
 * Connects, and runs `body` inside the server's 'connection' event, before the server has read a byte. Everything is
 * closed when the promise that it returned is settled.
 */
export async function inConnectionEvent(
  transport: (typeof transports)[number],
  body: (connection: Connection) => Promise<void>,
  options: ServerOpts = {},
): Promise<void> {
  await using directory = await temporaryDirectory();
  const server = createServer({ allowHalfOpen: true, ...options });
  if (transport === 'tcp') server.listen(0, '127.0.0.1');
  else server.listen(`${directory.path}/s`);
  await once(server, 'listening');
  const address = server.address();
  const target =
    typeof address === 'string' ? { path: address } : { host: '127.0.0.1', port: address?.port ?? 0 };
  const client = connect({ ...target, allowHalfOpen: true });
  const sockets: Socket[] = [client];
  try {
    await new Promise<void>((resolve, reject) => {
      client.on('error', reject);
      server.on('connection', (socket) => {
        sockets.push(socket);
        body({ server, client, socket }).then(resolve, reject);
      });
    });
  } finally {
    for (const socket of sockets) socket.destroy();
    if (server.listening) {
      server.close();
      await once(server, 'close');
    }
  }
}

/** Everything that a Node socket brings until its end. */
export async function textUntilEnd(socket: Socket): Promise<string> {
  let text = '';
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) text += String(chunk);
  return text;
}
