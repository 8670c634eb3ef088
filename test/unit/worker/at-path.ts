// A worker that joins by a path where one played dispatcher follows another.
import assert from 'node:assert/strict';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join as joinPath } from 'node:path';

import { listen, type Acceptor } from '../../../src/fd/index.js';
import { Listener } from '../../../src/multiprocessing/index.js';
import { join, type JoinOptions, type Worker } from '../../../src/worker/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { temporaryDirectory } from '../../support/files.js';
import { PlayedDispatcher } from './played-dispatcher.js';

/** A server that echoes. */
export function echo(): Server {
  return createServer((socket) => socket.pipe(socket).on('error', () => undefined));
}

export interface Scene {
  readonly worker: Worker;
  readonly acceptor: Acceptor;
  readonly listener: Listener;
  readonly dispatcher: PlayedDispatcher;
  /** The present dispatcher dies, and the worker connects to the next one, which has not read anything yet. */
  readonly next: () => Promise<PlayedDispatcher>;
  /** A client whose connection was handed off, and the worker has adopted. */
  readonly client: () => Promise<Socket>;
}

/**
 * A test of a worker that joins by a path where one dispatcher follows another.
 * @param isDirect whether the first dispatcher governs who accepts
 */
export function atPath(
  body: (scene: Scene) => Promise<void>,
  options: JoinOptions = {},
  isDirect = false,
): () => Promise<void> {
  return keepsDescriptors(async () => {
    await using directory = await temporaryDirectory();
    const control = joinPath(directory.path, 'control');
    const listener = await Listener(control);
    const acceptor = await listen({ host: '127.0.0.1', port: 0 });
    assert.ok('port' in acceptor.address);
    const { port } = acceptor.address;
    const joining = join({ control, ...options });
    const dispatchers = [new PlayedDispatcher((await listener.accept()).socket)];
    const [dispatcher] = dispatchers;
    assert.ok(dispatcher);
    dispatcher.isDirect = isDirect;
    const [worker] = await Promise.all([joining, dispatcher.welcome()]);
    const server = echo();
    await Promise.all([worker.serve(server), dispatcher.grant(acceptor)]);
    const clients: Socket[] = [];
    try {
      await body({
        worker,
        acceptor,
        listener,
        dispatcher,
        next: async () => {
          dispatchers.at(-1)?.socket.destroy();
          const next = new PlayedDispatcher((await listener.accept()).socket);
          dispatchers.push(next);
          return next;
        },
        client: async () => {
          const client = connect(port, '127.0.0.1');
          clients.push(client);
          using connection = await acceptor.accept();
          await dispatcher.handOff([connection]);
          await dispatcher.hears('adopted');
          return client;
        },
      });
    } finally {
      for (const client of clients) client.destroy();
      server.close();
      await worker.close();
      for (const { socket } of dispatchers) socket.destroy();
      await acceptor.close();
      await listener.close();
    }
  });
}
