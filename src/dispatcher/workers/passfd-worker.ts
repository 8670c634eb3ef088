// PassfdWorker: the handle of a worker that speaks passfd. Batches go out, and counts of adopted and closed come back.
import { closeAll, PassfdError, type Descriptor, type StreamSocket } from '../../fd/index.js';
import type { Unsent } from '../../fd/internal.js';
import {
  Channel,
  decodeFromWorker,
  encodeJson,
  type FormerChild,
  type FromWorker,
  type TakeGroup,
  type TicketSecretMessage,
  type WorkerHello,
} from '../../handoff/index.js';
import type { AcceptedConnection, Listener } from '../listener.js';
import type { PassfdWorkerState } from '../succession/worker-state.js';
import { AnswerPolling } from './answer-polling.js';
import { Custodian, type Custody } from './custodian.js';
import { farewellFor, isViolation, readLastAdopted, sendFarewell, shutDown } from './disconnect.js';
import { FloodLimit } from './flood-limit.js';
import { InFlight } from './in-flight.js';
import { Outlet } from './outlet.js';
import { OwnAccepts } from './own-accepts.js';
import type { PassfdWorkerEvents, PassfdWorkerHost } from './passfd-worker-host.js';
import { Requests } from './requests.js';
import { Room } from './room.js';
import { SlowCloses } from './slow-closes.js';
import { Stalls } from './stalls.js';
import { Subscriptions } from './subscriptions.js';
import { encodeWelcome, stateFromHello, type NewWorker } from './welcome.js';
import { whyLeft, type FrozenWorker, type WorkerHandle } from './worker-handle.js';

type State =
  | { readonly is: 'starting' }
  | { readonly is: 'ready' }
  | { readonly is: 'draining' }
  /** See `disconnect.ts`. The worker may not have read its farewell yet. */
  | { readonly is: 'disconnecting'; readonly reason: string }
  | { readonly is: 'gone' };

export class PassfdWorker implements WorkerHandle {
  readonly dialect = 'passfd';
  /** The window bounds how many connections can wait for the worker. */
  readonly mayQueue = false;
  readonly id: number;
  readonly pid: number;
  readonly formerChild: FormerChild | undefined;
  /** Whether the worker understands what only a last will sends: `orphaned` and AGAIN. */
  readonly knowsAgain: boolean;
  readonly subscriptions: Subscriptions;
  readonly custodian: Custodian;
  /** What the worker accepts by itself. */
  readonly own: OwnAccepts;
  readonly stalls: Stalls;
  readonly #isTrusted: boolean;
  readonly #channel: Channel;
  readonly #outlet: Outlet;
  readonly #events: PassfdWorkerEvents;
  readonly #inFlight: InFlight;
  readonly #room: Room;
  readonly #requests: Requests;
  readonly #floodLimit = new FloodLimit();
  readonly #polling: AnswerPolling;
  /** Undefined for a child of the service. Any other worker can make the descriptors that it was sent slow to close. */
  readonly #slowCloses: SlowCloses | undefined;
  #state: State;
  #lastWords: string | undefined;
  #isTakenOut: boolean;
  #isHolding: boolean;
  /** Settles when the worker can say nothing more. */
  #disconnected: Promise<void> | undefined;

  private constructor(
    socket: StreamSocket,
    state: Omit<PassfdWorkerState, 'subscriptions'>,
    custody: Pick<Custody, 'isReturning' | 'entrusted'>,
    events: PassfdWorkerEvents,
    host: PassfdWorkerHost,
  ) {
    const { id, pid, formerChild, isTrusted, isCustodian, awaitedCustody, parting } = state;
    this.id = id;
    this.pid = pid;
    this.formerChild = formerChild;
    this.knowsAgain = state.knowsAgain ?? false;
    this.#isTrusted = isTrusted;
    this.#events = events;
    this.#state = parting === undefined ? { is: state.state } : { is: 'disconnecting', reason: parting };
    this.#isTakenOut = state.isTakenOut ?? false;
    this.#isHolding = state.isHolding ?? false;
    this.#channel = new Channel(socket, {
      mostDescriptors: () => (isTrusted && this.custodian.awaited > 0 ? 1 : 0),
      partial: state.partial,
    });
    this.#outlet = new Outlet(this.#channel, parting !== undefined);
    this.custodian = new Custodian(
      this,
      this.#outlet,
      { ...custody, isCustodian, awaitedCustody },
      events,
      host,
    );
    const own = { ...state, isReturning: custody.isReturning };
    this.own = new OwnAccepts(own, this.#outlet, this.custodian, socket);
    this.#requests = new Requests(this, this.#outlet, events, host);
    this.#room = new Room(state);
    this.#polling = new AnswerPolling(socket);
    const changed = (): void => {
      if (this.#state.is === 'ready') events.changed(this);
    };
    this.subscriptions = new Subscriptions(changed);
    this.stalls = new Stalls(this, events, state);
    const { peer } = socket;
    // The other end of a child's socket pair was made in this process. For a socket that has connected, the kernel names
    // the process that did.
    const isChild = isTrusted && peer.pid !== pid;
    if (!isChild) socket.distrust(peer.uid);
    this.#slowCloses = isChild ? undefined : new SlowCloses(peer.uid, changed);
    const onUnsent = (error: unknown): void => {
      this.#onUnsent(error);
    };
    this.#inFlight = new InFlight(this.#channel, state.settled, isChild ? undefined : peer.uid, onUnsent);
  }

  /**
   * Welcomes a worker whose hello was read.
   * @param socket owned by the handle from now on
   * @param serves whether the dispatcher has addresses of its own
   */
  static welcome(
    socket: StreamSocket,
    hello: WorkerHello,
    { serves, ...identity }: NewWorker & { readonly serves: boolean },
    events: PassfdWorkerEvents,
    host: PassfdWorkerHost,
  ): PassfdWorker {
    const custody = { isReturning: hello.returns !== undefined, entrusted: [] };
    const state = stateFromHello(hello, identity);
    const worker = new PassfdWorker(socket, state, custody, events, host);
    const direct = state.direct === true && host.acceptsDirectly;
    worker.#outlet.post(encodeWelcome({ id: state.id, direct }, serves));
    return worker;
  }

  /**
   * Goes on with a worker of another dispatcher. The handle is frozen until `thaw`.
   * @param socket owned by the handle from now on
   * @param inFlight what was sent to the worker, in this order, and what is still to be sent
   */
  static restore(
    socket: StreamSocket,
    state: PassfdWorkerState,
    {
      listeners,
      inFlight,
      unsent,
    }: {
      readonly listeners: ReadonlyMap<number, Listener>;
      readonly inFlight: readonly AcceptedConnection[];
      readonly unsent: readonly Unsent[];
    },
    events: PassfdWorkerEvents,
    host: PassfdWorkerHost,
  ): PassfdWorker {
    socket.freeze();
    // The worker has the socket of every listener, or gets it with what is unsent.
    const custody = { isReturning: state.awaitedCustody > 0, entrusted: listeners.keys() };
    const worker = new PassfdWorker(socket, state, custody, events, host);
    worker.subscriptions.restore(state, listeners);
    worker.own.restore(state, listeners);
    const lastSent = worker.#inFlight.restore(inFlight, unsent);
    // When nothing is unsent, the other dispatcher has sent the farewell and shut the channel down.
    if (state.parting !== undefined) worker.#disconnected = shutDown(worker.#channel, lastSent);
    return worker;
  }

  /** Reads what the worker says until its channel ends. */
  async run(): Promise<void> {
    let reason = 'its channel ended';
    try {
      this.custodian.noteReturned();
      await this.#channel.read((payload, take) => {
        const message = decodeFromWorker(payload);
        this.#floodLimit.noteSaid(message, payload.length, this.#room.closed);
        return this.#on(message, take);
      });
    } catch (error) {
      reason = whyLeft(error as Error);
      await (this.#disconnected ??= this.#disconnect(error));
      await readLastAdopted(this.#channel, (position) => {
        this.#onAdopted(position);
      });
    } finally {
      this.#leave(this.#state.is === 'disconnecting' ? this.#state.reason : reason);
    }
  }

  get socket(): StreamSocket {
    return this.#channel.socket;
  }

  get state(): 'starting' | 'ready' | 'draining' {
    return this.#state.is === 'starting' || this.#state.is === 'ready' ? this.#state.is : 'draining';
  }

  get adopted(): number {
    return this.#room.adopted + this.own.accepted;
  }

  get active(): number {
    return this.#room.active + this.own.open;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  get settled(): number {
    return this.#inFlight.settled;
  }

  get load(): number {
    return this.active + this.inFlight;
  }

  get isStalled(): boolean {
    return this.stalls.isStalled;
  }

  get isWatching(): boolean | undefined {
    if (!this.own.hasPage) return undefined;
    return this.#state.is === 'ready' && this.subscriptions.all.some((each) => this.own.watches(each));
  }

  get loopDelayMs(): number | undefined {
    return this.own.loopDelayMs;
  }

  get isHolding(): boolean {
    return this.#isHolding;
  }

  get isTakenOut(): boolean {
    return this.#isTakenOut;
  }

  get isFull(): boolean {
    return this.#room.isFull(this.inFlight, this.own);
  }

  get lastWords(): string | undefined {
    return this.#lastWords;
  }

  get handedOut(): readonly Descriptor[] {
    return this.#inFlight.sent;
  }

  /** Of a worker that has left: whether it took connections until its end. */
  get listens(): boolean {
    return this.subscriptions.size > 0;
  }

  serves(listener: Listener): boolean {
    return this.#state.is === 'ready' && this.subscriptions.has(listener.id);
  }

  /** Whether the worker takes connections of the listener, and its server there is known to stay open. */
  isServing(listener: Listener): boolean {
    return this.#state.is === 'ready' && this.subscriptions.isServed(listener);
  }

  roomFor(listener: Listener): number {
    if (this.#state.is !== 'ready' || this.isStalled || !this.subscriptions.isOpen(listener)) return 0;
    return this.#room.left(this.inFlight, this.#slowCloses?.count ?? 0, this.own);
  }

  /** Whether the worker has left. Its handle does nothing more. */
  get hasLeft(): boolean {
    return this.#state.is === 'gone';
  }

  give(connection: AcceptedConnection): void {
    this.#inFlight.give(connection);
  }

  flush(): void {
    const isBusy = this.#inFlight.hasUnanswered;
    if (!this.#inFlight.flush()) return;
    this.stalls.start();
    if (isBusy || this.#polling.isActive) this.#poll();
  }

  /** Not where the next connection needs room that an answer makes. */
  #poll(): void {
    const isAhead = this.inFlight * 2 <= this.#room.window;
    if (this.#state.is === 'ready' && this.#room.capacity === null && isAhead) this.#polling.poll();
    else this.#polling.stop();
  }

  /** The ticket keys of a listener change. A worker that has not asked for their secret does not get it. */
  changeTickets(listener: Listener, tickets: TicketSecretMessage): void {
    if (!this.subscriptions.sharesTickets(listener)) return;
    this.#outlet.post(encodeJson({ type: 'tickets', listener: listener.id, tickets }));
  }

  async freeze(): Promise<FrozenWorker> {
    this.stalls.stop();
    this.#slowCloses?.stop();
    const partial = await this.#channel.freeze();
    const snapshot: PassfdWorkerState = {
      dialect: 'passfd',
      id: this.id,
      pid: this.pid,
      formerChild: this.formerChild,
      knowsAgain: this.knowsAgain,
      isTrusted: this.#isTrusted,
      isCustodian: this.custodian.isCustodian,
      ...this.subscriptions.state(),
      ...this.#room.state(),
      ...this.own.state(),
      ...this.stalls.state(),
      state: this.state,
      parting: this.#state.is === 'disconnecting' ? this.#state.reason : undefined,
      isTakenOut: this.#isTakenOut,
      isHolding: this.#isHolding,
      awaitedCustody: this.custodian.awaited,
      settled: this.settled,
      partial,
    };
    const { socket } = this.#channel;
    return { snapshot, socket, inFlight: this.#inFlight.connections, unsent: () => socket.unsent() };
  }

  thaw(): void {
    if (this.inFlight > 0) this.stalls.start();
    this.#channel.socket.thaw();
  }

  disown(): void {
    this.#state = { is: 'gone' };
    this.#channel.socket.destroy();
    this.own.close();
    this.#stop();
    for (const { descriptor } of this.#inFlight.takeAll()) descriptor.close();
  }

  drain(): void {
    this.#isTakenOut = true;
    if (this.state === 'draining') return;
    this.own.noteDrain(this.#outlet.send(encodeJson({ type: 'drain' })));
    this.#beginDraining();
  }

  end(): void {
    this.#channel.socket.destroy();
  }

  /** A batch could not be sent, so no later batch may be: the worker counts what it gets. What it says is still read. */
  #onUnsent(error: unknown): void {
    const isGone = error instanceof PassfdError && ['ERR_PEER_GONE', 'ERR_CLOSED'].includes(error.code);
    if (isGone) return;
    this.#disconnected ??= this.#disconnect(error);
    this.#disconnected.catch((thrown: unknown) => {
      this.#events.failed(thrown);
    });
  }

  #on(message: FromWorker, take: TakeGroup): Promise<void> | undefined {
    switch (message.type) {
      case 'custody':
        return this.custodian.receive(message, take);
      case 'last-words':
        this.#lastWords = message.text;
        break;
      case 'listen':
        return this.#requests.listen(message);
      case 'adopted':
        this.#onAdopted(message.position);
        break;
      case 'refused':
        this.#onRefused(message.position, message.reason);
        break;
      case 'closed':
        this.#onClosed(message.total);
        break;
      case 'ready':
        this.#onReady(message.listeners);
        break;
      case 'serve':
        return this.#requests.serve(message);
      case 'unlisten':
        return this.#requests.unlisten(message);
      case 'window':
      case 'capacity':
        this.#room.change(message);
        this.#polling.stop();
        this.#events.changed(this);
        break;
      case 'holding':
        this.#isHolding = message.on;
        this.#events.changed(this);
        break;
      case 'unwatched':
        this.#events.unwatched(this, message.listener);
        break;
      case 'draining':
        this.own.noteStopped();
        this.#beginDraining();
        this.#events.changed(this);
    }
    return undefined;
  }

  /** @param book counts the connections. No event may be emitted earlier: the worker seems to have room that it has not */
  #settle(position: number, book: (connections: AcceptedConnection[]) => void): void {
    const connections = this.#inFlight.settleUpTo(position);
    this.#floodLimit.noteSettled(connections.length);
    const reportResumed = this.stalls.noteAnswer();
    book(connections);
    reportResumed();
  }

  #onAdopted(position: number): void {
    this.#settle(position, (connections) => {
      this.#room.noteAdopted(connections.length);
      closeAll(connections.map(({ descriptor }) => descriptor));
      this.#events.adopted(connections.length);
      this.#events.changed(this);
    });
  }

  #onRefused(position: number, reason: string): void {
    this.#settle(position, (connections) => {
      for (const { listener } of connections) this.subscriptions.pause(listener);
      if (reason === 'descriptors') this.#room.noteStarved(connections.length);
      this.#events.refused(this, connections, reason);
    });
  }

  #onClosed(total: number): void {
    if (!this.#room.noteClosed(total)) return;
    this.subscriptions.endPauses();
    this.#events.changed(this);
  }

  #onReady(listeners: readonly number[] | undefined): void {
    const servesMore = this.subscriptions.noteServed(listeners);
    if (this.#state.is === 'starting') {
      this.#state = { is: 'ready' };
      this.#events.ready(this);
    }
    if (servesMore) this.#events.serving(this);
  }

  #beginDraining(): void {
    if (this.state === 'draining') return;
    this.#polling.stop();
    this.subscriptions.noteDraining();
    // A starting worker has not reported yet what it serves. A ready worker closes by itself what it has asked for since.
    const left = this.#state.is === 'starting' ? this.subscriptions.all : this.subscriptions.serving;
    this.#state = { is: 'draining' };
    this.#events.draining(this);
    this.#events.leaving(this, left);
  }

  /** See `disconnect.ts`. */
  async #disconnect(error: unknown): Promise<void> {
    const { socket } = this.#channel;
    // This process has closed it, and so the channels of all workers. No connection goes to another worker then.
    if (socket.closed && error instanceof PassfdError) return;
    if (isViolation(error)) this.#events.broke(error);
    else this.#events.failed(error);
    if (socket.closed) return;
    const farewell = farewellFor(error);
    const { reason } = farewell;
    this.#state = { is: 'disconnecting', reason };
    this.#polling.stop();
    this.#events.subscribed(this);
    const isSent = sendFarewell(this.#channel, this.#outlet, farewell, error);
    const unsent = this.#inFlight.takeUnsent();
    if (unsent.length > 0) this.#events.refused(this, unsent, reason);
    await shutDown(this.#channel, this.#inFlight.hasUnanswered ? isSent : undefined);
  }

  #leave(reason: string): void {
    if (this.#state.is === 'gone') return;
    this.#state = { is: 'gone' };
    this.#channel.socket.discard();
    this.#stop();
    this.#events.left(this, this.#inFlight.takeAll(), reason);
    this.#events.leaving(this, this.subscriptions.all);
  }

  #stop(): void {
    this.#polling.stop();
    this.stalls.stop();
    this.#slowCloses?.stop();
    this.subscriptions.endPauses();
  }
}
