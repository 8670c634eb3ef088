// PlayedDispatcher: the test itself at the other end of a worker's channel, and a worker that has joined it.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

import { Descriptor, listen, socketPair, type Acceptor, type StreamSocket } from '../../../src/fd/index.js';
import { Board } from '../../../src/fd/internal.js';
import {
  Channel,
  decodeFromWorker,
  decodeIntroduction,
  encodeHandoff,
  encodeHandoffAgain,
  encodeJson,
  PROTOCOL_VERSION,
  type CustodyLabel,
  type FromWorker,
  type TakeGroup,
  type ToWorker,
  type WorkerHello,
} from '../../../src/handoff/index.js';
import { Connection } from '../../../src/multiprocessing/index.js';
import { join, type JoinOptions, type Worker } from '../../../src/worker/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';

type Json = Exclude<ToWorker, { type: 'handoff' | 'handoff-again' }>;

export type Said<T extends FromWorker['type']> = Extract<FromWorker, { type: T }>;

/** The listener that a worker gets for everything that it asks for. */
export const LISTENER = 7;

export class PlayedDispatcher {
  readonly socket: StreamSocket;
  readonly #channel: Channel;
  readonly #heard: FromWorker[] = [];
  #wake: (() => void) | undefined;
  #isOver = false;
  /** Listeners that the worker has given back. */
  readonly unlistened: number[] = [];
  /** Listeners that other workers of the service also have. */
  readonly openElsewhere: number[] = [];
  /** What the dispatcher does before it answers an `unlisten`. */
  onUnlisten: () => Promise<void> = () => Promise.resolve();
  /** Listening sockets that the worker has brought, as their keys and inodes. */
  readonly brought: (readonly [key: string, inode: string])[] = [];
  /** The label of each. */
  readonly labels: CustodyLabel[] = [];

  /** Whether it says that it governs who accepts. */
  isDirect = false;
  /** Settles when the channel of a worker that was welcomed has ended. */
  ended: Promise<void> = Promise.resolve();

  constructor(socket: StreamSocket) {
    this.socket = socket;
    this.#channel = new Channel(socket);
  }

  async hello(): Promise<WorkerHello> {
    const introduction = decodeIntroduction(await new Connection(this.socket).recvBytes());
    assert.ok(introduction.dialect === 'passfd' && introduction.hello.role === 'worker');
    return introduction.hello;
  }

  /** Reads the hello, and sends the welcome. */
  async welcome(): Promise<WorkerHello> {
    const hello = await this.hello();
    await this.welcomeNow();
    return hello;
  }

  /** Sends the welcome to a worker whose hello was read. */
  async welcomeNow(): Promise<void> {
    const direct = this.isDirect ? { direct: true } : {};
    await this.say({
      ...{ type: 'welcome', passfd: PROTOCOL_VERSION, id: 3, pid: process.pid, serves: true, holding: true },
      ...direct,
    });
    this.ended = this.#channel
      .read(async (payload, take) => {
        const message = decodeFromWorker(payload);
        if (message.type === 'custody') this.#take(message, take);
        this.#heard.push(message);
        this.#wake?.();
        if (message.type !== 'unlisten') return;
        this.unlistened.push(...message.listeners);
        if (message.request === undefined) return;
        await this.onUnlisten();
        const open = message.listeners.some((id) => this.openElsewhere.includes(id));
        await this.say({ type: 'unlistened', request: message.request, ...(open && { open }) });
      })
      .catch(() => undefined)
      .finally(() => {
        this.#isOver = true;
        this.#wake?.();
      });
  }

  say(message: Json): Promise<void> {
    return this.#channel.post(encodeJson(message));
  }

  /** Hands connections off, and keeps its copies, as a dispatcher does. */
  handOff(connections: readonly Descriptor[], listener = LISTENER): Promise<void> {
    return this.#channel.post(encodeHandoff(listener, connections.length), connections);
  }

  /** Sends connections again, as the last will of a dispatcher that died while it sent them. */
  handOffAgain(position: number, connections: readonly Descriptor[], listener = LISTENER): Promise<void> {
    return this.#channel.post(encodeHandoffAgain(position, listener, connections.length), connections);
  }

  /** Gives the worker a listening socket to keep. */
  entrust(
    listener: number,
    key: string,
    descriptor: Descriptor,
    more: Omit<CustodyLabel, 'key'> = {},
  ): Promise<void> {
    return this.#channel.post(encodeJson({ type: 'custody', listener, key, ...more }), [descriptor]);
  }

  /** Gives the worker a board for its counts. @param instead what is sent in its place; this call closes it */
  async giveBoard(instead?: Descriptor): Promise<Board> {
    const { board, descriptor } = Board.create();
    using own = descriptor;
    using other = instead;
    await this.#channel.post(encodeJson({ type: 'board' }), [other ?? own]);
    return board;
  }

  /** Says whether the worker accepts connections of a listener by itself. */
  watch(on: boolean, { listener = LISTENER, place = 0 } = {}): Promise<void> {
    return this.say({ type: 'watch', listener, on, place });
  }

  /** The next message of this type. Messages of other types before it are skipped. */
  async hears<T extends FromWorker['type']>(type: T): Promise<Said<T>> {
    for (;;) {
      for (let said = this.#heard.shift(); said; said = this.#heard.shift()) {
        if (said.type === type) return said as Said<T>;
      }
      assert.ok(!this.#isOver, `the channel ended without: ${type}`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** Messages that came and were not asked for yet. */
  get heard(): readonly FromWorker[] {
    return this.#heard;
  }

  #take({ key, file, backlog }: CustodyLabel, take: TakeGroup): void {
    const group = take(1);
    const [descriptor] = group === 'lost' ? [] : group;
    assert.ok(descriptor);
    this.brought.push([key, descriptor.inode]);
    this.labels.push({ key, file, backlog });
    descriptor.close();
  }

  /** Answers the next `serve`, with the address of an acceptor. */
  async grant({ address }: Acceptor, id = LISTENER): Promise<void> {
    const { request } = await this.hears('serve');
    await this.say({ type: 'listening', request, listeners: [{ id, address }] });
  }
}

export interface Stage {
  readonly dispatcher: PlayedDispatcher;
  readonly worker: Worker;
  readonly acceptor: Acceptor;
  /** A client that has connected, and the connection as the dispatcher has accepted it. */
  client(): Promise<{ readonly client: Socket; readonly connection: Descriptor }>;
}

/**
 * A test that plays the dispatcher of a worker with an inherited channel. Nothing stays open after it.
 * @param isDirect whether the dispatcher governs who accepts
 */
export function onStage(
  body: (stage: Stage) => Promise<void>,
  options: JoinOptions = {},
  isDirect = false,
): () => Promise<void> {
  return keepsDescriptors(async () => {
    const [here, there] = socketPair();
    const dispatcher = new PlayedDispatcher(here);
    dispatcher.isDirect = isDirect;
    const acceptor = await listen({ host: '127.0.0.1', port: 0 });
    process.env['PASSFD_CHANNEL_FD'] = String(there.release().release());
    const [worker] = await Promise.all([join(options), dispatcher.welcome()]);
    const clients: Socket[] = [];
    const connections: Descriptor[] = [];
    try {
      await body({
        dispatcher,
        worker,
        acceptor,
        client: async () => {
          assert.ok('port' in acceptor.address);
          const client = connect(acceptor.address.port, '127.0.0.1');
          client.on('error', () => undefined);
          clients.push(client);
          const [connection] = await Promise.all([acceptor.accept(), once(client, 'connect')]);
          connections.push(connection);
          return { client, connection };
        },
      });
    } finally {
      for (const client of clients) client.destroy();
      for (const connection of connections) connection.close();
      await worker.close();
      here.destroy();
      await acceptor.close();
    }
  });
}
