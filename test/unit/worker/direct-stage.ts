// The stage for a worker that accepts by itself: it has a board, and the listening socket in its custody.
import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

import type { Acceptor } from '../../../src/fd/index.js';
import type { Board } from '../../../src/fd/internal.js';
import type { JoinOptions } from '../../../src/worker/index.js';
import { openDescriptors } from '../../support/descriptors.js';
import { turns } from '../../support/loop.js';
import { LISTENER, onStage, type Stage } from './played-dispatcher.js';

export const KEY = 'the socket';

export const notLinux = process.platform === 'linux' ? false : 'only Linux has boards';

export const GREETING = 'hello';

/** A server that greets, and keeps what it gets. */
export function greeter(sockets: Socket[] = []): Server {
  return createServer((socket) => {
    sockets.push(socket.on('error', () => undefined));
    socket.resume();
    socket.write(GREETING);
  });
}

/** Nothing is accepted here, so a client stays in the backlog, where another holder of the socket finds it. */
export async function waitsInBacklog(stage: Stage, client: Socket): Promise<void> {
  await turns();
  using connection = await stage.acceptor.accept();
  const { remoteAddress: address } = connection;
  assert.ok('port' in address);
  assert.equal(address.port, client.localPort);
}

export interface DirectStage extends Stage {
  readonly board: Board;
  /** A client that has connected. Whoever watches the socket accepts it. */
  visitor(): Promise<Socket>;
}

/** A test whose dispatcher governs who accepts. Nothing stays open after it. */
export function directly(
  body: (stage: DirectStage) => Promise<void>,
  options: JoinOptions = {},
): () => Promise<void> {
  return onStage(
    async (stage) => {
      const board = await stage.dispatcher.giveBoard();
      await entrust(stage, stage.acceptor);
      const visitors: Socket[] = [];
      const visitor = async (): Promise<Socket> => {
        const client = await visit(stage.acceptor);
        visitors.push(client);
        return client;
      };
      try {
        await body({ ...stage, board, visitor });
      } finally {
        for (const client of visitors) client.destroy();
      }
    },
    options,
    true,
  );
}

/** Gives the worker a socket to keep, under its key. */
export async function entrust(
  { dispatcher }: Pick<Stage, 'dispatcher'>,
  acceptor: Acceptor,
  listener = LISTENER,
): Promise<void> {
  using descriptor = acceptor.duplicate();
  await dispatcher.entrust(listener, KEY, descriptor);
}

/** Has the worker serve, and says that it accepts by itself. Resolves when it does. */
export async function watching(stage: Stage, server: Server): Promise<void> {
  await serving(stage, server);
  const steps = recordSteps('watching');
  await stage.dispatcher.watch(true);
  await steps.next();
}

export async function serving({ worker, dispatcher, acceptor }: Stage, server: Server): Promise<void> {
  await Promise.all([worker.serve(server), dispatcher.grant(acceptor)]);
  while (!(await dispatcher.hears('ready')).listeners);
}

/** A client that has connected: it waits in the backlog, or was accepted. */
export async function visit({ address }: Acceptor): Promise<Socket> {
  const client = 'path' in address ? connect(address.path) : connect(address.port, address.host);
  client.on('error', () => undefined);
  await once(client, 'connect');
  return client;
}

/** What the client hears first. */
export async function heardBy(client: Socket): Promise<string> {
  const [words] = (await once(client, 'data')) as [Buffer];
  return String(words);
}

/** The counts of a place: how many were accepted, and how many of them are open. */
export function countsOf({ words }: Board, place = 0): readonly [accepted: number, open: number] {
  const index = 16 + 4 * place;
  return [Atomics.load(words, index), Atomics.load(words, index + 1)];
}

/** Resolves at the next steps of this kind in this process. Call `next` before another one can come. */
export function recordSteps(wanted: string): { next(): Promise<void> } {
  let seen = 0;
  let wake: (() => void) | undefined;
  const onStep = (step: unknown): void => {
    if (step !== wanted) return;
    seen++;
    wake?.();
  };
  subscribe('passfd:step', onStep);
  return {
    next: async () => {
      if (seen === 0) await new Promise<void>((resolve) => (wake = resolve));
      unsubscribe('passfd:step', onStep);
    },
  };
}

/** How many descriptors of this process are a socket. */
export function holdersOf(inode: string): number {
  const [, ino = ''] = inode.split(':');
  assert.match(ino, /^\d+$/);
  return openDescriptors().filter((one) => one.endsWith(`socket:[${ino}]`)).length;
}
