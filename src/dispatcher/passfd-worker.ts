// PassfdWorker: the handle of a worker that speaks passfd: batches go out, and counts of adopted and closed come back.
import { setTimeout as startTimer } from 'node:timers';

import { PassfdError, type StreamSocket } from '../fd/index.js';
import {
  Channel,
  decodeFromWorker,
  encodeHandoff,
  encodeJson,
  Ledger,
  MAX_BATCH,
  PROTOCOL_VERSION,
  type FromWorker,
  type Listening,
  type WantedAddress,
  type WorkerHello,
} from '../handoff/index.js';
import type { AcceptedConnection, AcceptLoop } from './accept-loop.js';
import type { WorkerEvents, WorkerHandle } from './worker-handle.js';

/**
 * How long an address's connections are kept from a worker that refused one, unless it closes a connection first. It may
 * be out of descriptors, and the kernel tells nobody when one is free again.
 */
const REFUSAL_PAUSE_MS = 100;

/** What a passfd worker can ask for beyond what every worker does. */
export interface PassfdWorkerEvents extends WorkerEvents {
  serve(worker: PassfdWorker): readonly AcceptLoop[];
  /** @throws {PassfdError} when it cannot listen there */
  listen(worker: PassfdWorker, address: WantedAddress, backlog: number): Promise<AcceptLoop>;
  /** Resolves when the address is free, if this was the last to listen there. */
  unlisten(worker: PassfdWorker, loop: AcceptLoop): Promise<void>;
}

type State =
  | { readonly is: 'starting' }
  | { readonly is: 'ready' }
  | { readonly is: 'draining' }
  /** It broke the protocol. It was told, and may not have read it yet; until then nothing that it says counts. */
  | { readonly is: 'broken' }
  | { readonly is: 'gone' };

interface Subscription {
  readonly loop: AcceptLoop;
  pause: NodeJS.Timeout | undefined;
  /** Servers of the worker that asked for it and have not been closed. */
  servers: number;
}

export class PassfdWorker implements WorkerHandle {
  readonly id: number;
  readonly pid: number;
  readonly dialect = 'passfd';
  /** Its window bounds what could wait. */
  readonly isFree = true;
  readonly #channel: Channel;
  readonly #events: PassfdWorkerEvents;
  readonly #ledger = new Ledger<AcceptedConnection>();
  readonly #subscriptions = new Map<number, Subscription>();
  /** Given, and sent by the next `flush`. */
  #outgoing: AcceptedConnection[] = [];
  #state: State = { is: 'starting' };
  #window: number;
  #capacity: number | null;
  #adopted = 0;
  #closed = 0;
  /** In flight at most while the worker is short of descriptors: half of what it could not take, then more again. */
  #starvedWindow = Number.POSITIVE_INFINITY;

  /** Takes over the socket, whose hello was read, and welcomes the worker. */
  constructor(
    socket: StreamSocket,
    hello: WorkerHello,
    identity: { readonly id: number; readonly pid: number; readonly serves: boolean },
    events: PassfdWorkerEvents,
  ) {
    this.id = identity.id;
    this.pid = identity.pid;
    this.#channel = new Channel(socket, { takesDescriptors: false });
    this.#events = events;
    this.#window = hello.window;
    this.#capacity = hello.capacity;
    this.#post(
      encodeJson({
        type: 'welcome',
        passfd: PROTOCOL_VERSION,
        id: this.id,
        pid: process.pid,
        serves: identity.serves,
      }),
    );
  }

  /** Reads what the worker says until its channel ends. @throws what a listener of the dispatcher's events throws */
  async run(): Promise<void> {
    let reason = 'its channel ended';
    try {
      await this.#channel.read((payload) => this.#onFrame(payload));
    } catch (error) {
      reason = (error as Error).message;
      await this.#sayFarewell(error);
      await this.#readLastWords();
      if (!(error instanceof PassfdError)) throw error;
    } finally {
      this.#leave(reason);
    }
  }

  get state(): 'starting' | 'ready' | 'draining' {
    return this.#state.is === 'starting' || this.#state.is === 'ready' ? this.#state.is : 'draining';
  }

  get adopted(): number {
    return this.#adopted;
  }

  get active(): number {
    return this.#adopted - this.#closed;
  }

  get inFlight(): number {
    return this.#ledger.size + this.#outgoing.length;
  }

  get load(): number {
    return this.active + this.inFlight;
  }

  /** Of one that has left: whether it did at its end. */
  get listens(): boolean {
    return this.#subscriptions.size > 0;
  }

  roomFor(loop: AcceptLoop): number {
    if (this.#state.is !== 'ready') return 0;
    const subscription = this.#subscriptions.get(loop.id);
    if (!subscription || subscription.pause) return 0;
    const inWindow = Math.min(this.#window, this.#starvedWindow) - this.inFlight;
    const inCapacity = this.#capacity === null ? inWindow : this.#capacity - this.load;
    return Math.max(0, Math.min(inWindow, inCapacity));
  }

  give(connection: AcceptedConnection): void {
    this.#outgoing.push(connection);
  }

  flush(): void {
    const outgoing = this.#outgoing;
    if (outgoing.length === 0) return;
    this.#outgoing = [];
    for (let start = 0; start < outgoing.length;) {
      const end = endOfBatch(outgoing, start);
      const batch = outgoing.slice(start, end);
      for (const connection of batch) this.#ledger.add(connection);
      const listener = batch[0]?.loop.id ?? 0;
      this.#channel
        .post(
          encodeHandoff(listener, batch.length),
          batch.map(({ descriptor }) => descriptor),
        )
        .catch((error: unknown) => {
          this.#onUnsent(error);
        });
      start = end;
    }
  }

  serves(loop: AcceptLoop): boolean {
    return this.#state.is === 'ready' && this.#subscriptions.has(loop.id);
  }

  isSubscribed(loop: AcceptLoop): boolean {
    return this.#subscriptions.has(loop.id);
  }

  drain(): void {
    if (this.state === 'draining') return;
    this.#post(encodeJson({ type: 'drain' }));
    this.#beginDraining();
  }

  end(): void {
    this.#channel.socket.destroy();
  }

  #post(frame: Buffer): void {
    // A send fails when the worker is gone; that the stream ends tells it too, behind everything that it still said.
    this.#channel.post(frame).catch(() => undefined);
  }

  /** Behind a batch that was not sent, no position means what the worker takes it for: nothing more may pass. */
  #onUnsent(error: unknown): void {
    const isGone = error instanceof PassfdError && ['ERR_PEER_GONE', 'ERR_CLOSED'].includes(error.code);
    if (!isGone && !this.#channel.socket.closed) this.#channel.socket.shutdown();
  }

  #onFrame(payload: Buffer): Promise<void> | undefined {
    return this.#on(decodeFromWorker(payload));
  }

  #on(message: FromWorker): Promise<void> | undefined {
    switch (message.type) {
      case 'listen':
        return this.#onListen(message);
      case 'adopted':
        this.#onAdopted(this.#ledger.settleUpTo(message.position));
        break;
      case 'refused':
        this.#onRefused(this.#ledger.settleUpTo(message.position), message.reason);
        break;
      case 'closed':
        this.#onClosed(message.total);
        break;
      case 'ready':
        this.#onReady();
        break;
      case 'serve':
        this.#onServe(message.request);
        break;
      case 'unlisten':
        return this.#onUnlisten(message);
      case 'window':
        this.#window = message.window;
        this.#events.changed(this);
        break;
      case 'capacity':
        this.#capacity = message.capacity;
        this.#events.changed(this);
        break;
      case 'draining':
        this.#beginDraining();
    }
    return undefined;
  }

  #onReady(): void {
    if (this.#state.is !== 'starting') return;
    this.#state = { is: 'ready' };
    this.#events.ready(this);
  }

  #onServe(request: number): void {
    const loops = this.#events.serve(this);
    for (const loop of loops) this.#subscribe(loop);
    this.#answerListening(request, loops);
  }

  #onAdopted(connections: AcceptedConnection[]): void {
    this.#adopted += connections.length;
    this.#starvedWindow *= 2;
    for (const { descriptor } of connections) descriptor.close();
    this.#events.adopted(connections.length);
    this.#events.changed(this);
  }

  #onRefused(connections: AcceptedConnection[], reason: string): void {
    for (const { loop } of connections) this.#pause(loop.id);
    if (reason === 'descriptors') this.#starvedWindow = Math.max(1, Math.floor(connections.length / 2));
    this.#events.refused(this, connections, reason);
  }

  #onClosed(total: number): void {
    if (total < this.#closed || total > this.#adopted) {
      throw new PassfdError(
        'ERR_PROTOCOL',
        `The peer closed ${total} connections in all, after ${this.#closed}, and adopted ${this.#adopted}`,
      );
    }
    this.#closed = total;
    for (const subscription of this.#subscriptions.values()) endPause(subscription);
    this.#events.changed(this);
  }

  async #onListen(message: Extract<FromWorker, { type: 'listen' }>): Promise<void> {
    try {
      const loop = await this.#events.listen(this, message.address, message.backlog);
      if (this.#state.is === 'gone') return;
      this.#subscribe(loop);
      this.#answerListening(message.request, [loop]);
    } catch (error) {
      this.#post(
        encodeJson({
          type: 'listen-failed',
          request: message.request,
          code: systemCode(error),
          reason: (error as Error).message,
        }),
      );
    }
  }

  #answerListening(request: number, loops: readonly AcceptLoop[]): void {
    const listeners: Listening[] = loops.map(({ id, address }) => ({ id, address }));
    this.#post(encodeJson({ type: 'listening', request, listeners }));
    this.#events.changed(this);
  }

  #subscribe(loop: AcceptLoop): void {
    const subscription = this.#subscriptions.get(loop.id);
    if (subscription) subscription.servers++;
    else this.#subscriptions.set(loop.id, { loop, pause: undefined, servers: 1 });
  }

  async #onUnlisten(message: Extract<FromWorker, { type: 'unlisten' }>): Promise<void> {
    await Promise.all(message.listeners.map((id) => this.#unsubscribe(id)));
    if (message.request !== undefined) {
      this.#post(encodeJson({ type: 'unlistened', request: message.request }));
    }
  }

  async #unsubscribe(id: number): Promise<void> {
    const subscription = this.#subscriptions.get(id);
    if (!subscription || --subscription.servers > 0) return;
    endPause(subscription);
    this.#subscriptions.delete(id);
    // One that drains closes its servers because it leaves, and not because nobody wants the address any more.
    if (this.state !== 'draining') await this.#events.unlisten(this, subscription.loop);
  }

  #beginDraining(): void {
    if (this.state === 'draining') return;
    this.#state = { is: 'draining' };
    this.#events.draining(this);
  }

  #pause(id: number): void {
    const subscription = this.#subscriptions.get(id);
    if (!subscription || subscription.pause) return;
    subscription.pause = startTimer(() => {
      endPause(subscription);
      this.#events.changed(this);
    }, REFUSAL_PAUSE_MS);
  }

  /**
   * What is in flight to a worker that lives may be adopted at any moment, so it may not go to another before the
   * worker is cut off. And it must know that the dispatcher lives on, or it would keep what it has received: so first
   * it is told, then the channel is shut in both directions, and only then is anything given to others.
   */
  async #sayFarewell(error: unknown): Promise<void> {
    const { code, message } =
      error instanceof PassfdError ? error : new PassfdError('ERR_DISPATCHER', String(error));
    if (code !== 'ERR_PROTOCOL' && code !== 'ERR_DISPATCHER') return;
    this.#state = { is: 'broken' };
    if (error instanceof PassfdError) this.#events.broke(error);
    await this.#channel.post(encodeJson({ type: 'farewell', code, reason: message })).catch(() => undefined);
  }

  /** What it had adopted before it was cut off is its own, whatever else it said. */
  async #readLastWords(): Promise<void> {
    if (this.#channel.socket.closed) return;
    this.#channel.socket.shutdown();
    try {
      await this.#channel.read((payload) => {
        const message = decodeFromWorker(payload);
        if (message.type === 'adopted') this.#onAdopted(this.#ledger.settleUpTo(message.position));
        return undefined;
      });
    } catch {
      // It makes no more sense; the rest is not adopted.
    }
  }

  #leave(reason: string): void {
    this.#state = { is: 'gone' };
    for (const subscription of this.#subscriptions.values()) endPause(subscription);
    this.#channel.socket.destroy();
    const outgoing = this.#outgoing.splice(0);
    this.#events.left(this, [...this.#ledger.takeAll(), ...outgoing], reason);
  }
}

/** A batch holds connections of one address, and as many as one message can carry. */
function endOfBatch(connections: readonly AcceptedConnection[], start: number): number {
  const most = Math.min(connections.length, start + MAX_BATCH);
  let end = start + 1;
  while (end < most && connections[end]?.loop === connections[start]?.loop) end++;
  return end;
}

function endPause(subscription: Subscription): void {
  clearTimeout(subscription.pause);
  subscription.pause = undefined;
}

/** The code that an app sees when its `listen` fails. */
function systemCode(error: unknown): string {
  if (!(error instanceof PassfdError)) return 'EINVAL';
  const { code } = (error.cause ?? {}) as { code?: unknown };
  if (typeof code === 'string') return code;
  if (error.code === 'ERR_ADDRESS_IN_USE') return 'EADDRINUSE';
  return error.code === 'ERR_ADDRESS_DENIED' ? 'EACCES' : 'EINVAL';
}
