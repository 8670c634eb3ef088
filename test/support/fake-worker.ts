// FakeWorker: a passfd worker that says exactly what a test has it say, and reads nothing before it is asked to.
import assert from 'node:assert/strict';

import { Client, type AuthKey } from '../../src/multiprocessing/index.js';
import {
  closeAll,
  PassfdError,
  socketPair,
  type Descriptor,
  type Message,
  type StreamSocket,
} from '../../src/fd/index.js';
import { Board, boardClock } from '../../src/fd/internal.js';
import type { Dispatcher } from '../../src/dispatcher/index.js';
import { FrameReader } from '../../src/handoff/frame-reader.js';
import {
  decodeToWorker,
  encodeAdopted,
  encodeClosed,
  encodeFrame,
  encodeHello,
  encodeJson,
  encodeRefused,
  PROTOCOL_VERSION,
  type CustodyLabel,
  type FormerChild,
  type Listening,
  type RefusalReason,
  type TicketSecretMessage,
  type ToWorker,
  type WantedAddress,
} from '../../src/handoff/index.js';

export interface FakeWorkerOptions {
  readonly window?: number;
  readonly capacity?: number | null;
  readonly authkey?: AuthKey;
  /** Whether it keeps listening sockets. */
  readonly custody?: boolean;
  /** Whether it can accept by itself. Then it keeps listening sockets too. */
  readonly direct?: boolean;
  /** What it brings from a dispatcher that died. */
  readonly returns?: Returning;
}

export interface Returning {
  readonly id: number;
  /** Connections that it has open. */
  readonly open?: number;
  /** They are lent. */
  readonly custody?: readonly Entrusted[];
  readonly child?: FormerChild;
}

/** A listening socket, and what a dispatcher knows it by. */
export interface Entrusted extends CustodyLabel {
  readonly descriptor: Descriptor;
}

type Of<Type extends ToWorker['type']> = Extract<ToWorker, { type: Type }>;

/** One batch of connections, and the listener that they came to. */
export interface Handoff {
  readonly listener: number;
  readonly descriptors: readonly Descriptor[];
}

/** The board of a fake worker, which shows what a test has it show. */
export class FakeBoard {
  readonly #board: Board;

  constructor(board: Board) {
    this.#board = board;
    this.turn();
  }

  /** Sets an integer, to whatever. */
  set(index: number, value: number): void {
    Atomics.store(this.#board.words, index, value);
  }

  /** The event loop goes round, and sleeps. */
  turn(): void {
    this.set(0, 0);
    Atomics.add(this.#board.words, 1, 1);
  }

  /** The event loop is in a turn from now on. */
  wake(): void {
    Atomics.add(this.#board.words, 1, 1);
    this.set(0, boardClock());
  }

  /** The counts at a place. */
  show(place: number, accepted: number, open: number): void {
    this.set(16 + 4 * place, accepted);
    this.set(17 + 4 * place, open);
  }
}

export class FakeWorker implements Disposable {
  readonly socket: StreamSocket;
  readonly #reader = new FrameReader();
  readonly #owned: Descriptor[] = [];
  #request = 0;
  /** Of the last connection that was received. */
  received = 0;
  id = 0;
  /** Whether its welcome says that it will be told where it may accept by itself. */
  isDirect: boolean | undefined;

  /** Takes over the socket. */
  constructor(socket: StreamSocket) {
    this.socket = socket;
  }

  /** Joins by the control socket, and is welcomed. */
  static async join(control: string, options: FakeWorkerOptions = {}): Promise<FakeWorker> {
    const { authkey } = options;
    const connection = await Client(control, authkey === undefined ? {} : { authkey });
    const worker = new FakeWorker(connection.socket);
    await worker.sayHello(options);
    return worker;
  }

  /** Joins by a socket pair, as a child does. */
  static async child(
    dispatcher: Dispatcher,
    id: number,
    options: FakeWorkerOptions = {},
  ): Promise<FakeWorker> {
    const [here, there] = socketPair();
    dispatcher.addChild(here, { id, pid: process.pid });
    const worker = new FakeWorker(there);
    await worker.sayHello(options);
    return worker;
  }

  async sayHello({
    window = 128,
    capacity = null,
    direct = false,
    custody = direct,
    returns,
  }: FakeWorkerOptions = {}): Promise<Of<'welcome'>> {
    const kept = returns?.custody ?? [];
    const hello = {
      passfd: PROTOCOL_VERSION,
      role: 'worker',
      pid: process.pid,
      window,
      capacity,
      again: true,
      ...(custody && { custody }),
      ...(direct && { direct }),
      ...(returns && { returns: { ...returns, open: returns.open ?? 0, custody: kept.length } }),
    } as const;
    await this.say(encodeFrame(encodeHello(hello)));
    const welcome = await this.next('welcome');
    this.id = welcome.id;
    this.isDirect = welcome.direct;
    for (const { key, file, backlog, descriptor } of kept) {
      await this.socket.send(encodeJson({ type: 'custody', key, file, backlog }), [descriptor]);
    }
    return welcome;
  }

  /** The next listening socket that it is to keep, with its number. */
  async entrusted(): Promise<Entrusted & { readonly listener: number }> {
    const { listener, key, file, backlog } = await this.next('custody');
    const [descriptor] = this.take(1);
    assert.ok(descriptor);
    return { listener, key, file, backlog, descriptor };
  }

  /** The next message gives it a board. Its loop has gone round once since. */
  async board(): Promise<FakeBoard> {
    await this.next('board');
    const [descriptor] = this.take(1);
    assert.ok(descriptor);
    return new FakeBoard(Board.map(descriptor));
  }

  /** The next message tells it whether to watch. @returns for example `0 on at 0`: the listener and the place */
  async told(): Promise<string> {
    const { listener, on, place } = await this.next('watch');
    return `${listener} ${on ? 'on' : 'off'} at ${place}`;
  }

  /** Takes connections of the dispatcher's own addresses from here on. */
  async serve(): Promise<readonly Listening[]> {
    await this.say(encodeJson({ type: 'serve', request: ++this.#request }), encodeJson({ type: 'ready' }));
    return (await this.next('listening')).listeners;
  }

  /** Asks for an address, and tells the answer. */
  async listen(address: WantedAddress, backlog = 16): Promise<Of<'listening'> | Of<'listen-failed'>> {
    await this.askToListen(address, backlog);
    const answer = await this.message();
    assert.ok(answer?.type === 'listening' || answer?.type === 'listen-failed', JSON.stringify(answer));
    assert.equal(answer.request, this.#request);
    return answer;
  }

  askToListen(address: WantedAddress, backlog = 16): Promise<void> {
    return this.say(encodeJson({ type: 'listen', request: ++this.#request, address, backlog }));
  }

  /** Asks for an address that it has to get, with the secret that it brings, if any. @returns the secret that it gets */
  async shareTickets(
    address: WantedAddress,
    tickets: TicketSecretMessage | null = null,
  ): Promise<TicketSecretMessage | undefined> {
    const request = ++this.#request;
    await this.say(encodeJson({ type: 'listen', request, address, backlog: 16, tickets }));
    return (await this.next('listening')).tickets;
  }

  /** Asks for an address that it has to get. */
  async listenAt(address: WantedAddress): Promise<Listening> {
    const answer = await this.listen(address);
    assert.equal(answer.type, 'listening', JSON.stringify(answer));
    assert.ok('listeners' in answer);
    const [listening] = answer.listeners;
    assert.ok(listening && answer.listeners.length === 1);
    return listening;
  }

  ready(): Promise<void> {
    return this.say(encodeJson({ type: 'ready' }));
  }

  unlisten(...listeners: number[]): Promise<void> {
    return this.say(encodeJson({ type: 'unlisten', listeners }));
  }

  /** Everything up to a position, or everything that was received. */
  adopt(position = this.received): Promise<void> {
    return this.say(encodeAdopted(position));
  }

  refuse(reason: RefusalReason, position = this.received): Promise<void> {
    return this.say(encodeRefused(position, reason));
  }

  sayClosed(total: number): Promise<void> {
    return this.say(encodeClosed(total));
  }

  /** Sends frames in one piece. */
  say(...frames: Buffer[]): Promise<void> {
    return this.socket.send(Buffer.concat(frames));
  }

  /** The next batch, which has to come before anything else. */
  async handoff(): Promise<Handoff> {
    const { listener, count } = await this.next('handoff');
    const descriptors = this.take(count);
    this.received += count;
    return { listener, descriptors };
  }

  /** As many connections as that, in however many batches they come. */
  async handoffs(count: number): Promise<Descriptor[]> {
    const all: Descriptor[] = [];
    while (all.length < count) all.push(...(await this.handoff()).descriptors);
    assert.equal(all.length, count);
    return all;
  }

  /** The next message, which has to be of this type. */
  async next<Type extends ToWorker['type']>(type: Type): Promise<Of<Type>> {
    const message = await this.message();
    assert.equal(message?.type, type, JSON.stringify(message));
    return message as Of<Type>;
  }

  /** The next message. @returns null at the end of the channel */
  async message(): Promise<ToWorker | null> {
    for (;;) {
      const payload = this.#reader.next();
      if (payload) return decodeToWorker(payload);
      const message = await this.#receive();
      if (!message) return null;
      this.#reader.pushBytes(message.bytes);
      if (message.descriptors.length > 0) this.#reader.pushGroup(message.takeDescriptors());
    }
  }

  /** A dispatcher that leaves something unread ends the channel by a reset. */
  async #receive(): Promise<Message | null> {
    try {
      return await this.socket.receive();
    } catch (error) {
      if (error instanceof PassfdError && error.code === 'ERR_PEER_GONE') return null;
      throw error;
    }
  }

  /** The descriptors that the last message announced; they are closed with this worker. */
  take(count: number): readonly Descriptor[] {
    const descriptors = this.#reader.takeGroup(count);
    assert.ok(descriptors !== 'lost');
    this.#owned.push(...descriptors);
    return descriptors;
  }

  /** Closes the connections that it has, and only then its channel, or its channel alone: the rest closes at the end. */
  closeConnections(): void {
    closeAll(this.#owned.splice(0));
  }

  /** Ends as a process does: everything that it has is closed. */
  die(): void {
    this.socket.destroy();
    this.#reader.close();
    this.closeConnections();
  }

  [Symbol.dispose](): void {
    this.die();
  }
}
