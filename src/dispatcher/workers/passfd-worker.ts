// PassfdWorker: the handle of a worker that speaks passfd: batches go out, and counts of adopted and closed come back.
import { setTimeout as startTimer } from 'node:timers';

import { closeAll, PassfdError, type Descriptor, type StreamSocket } from '../../fd/index.js';
import { type Handoff, type Unsent } from '../../fd/internal.js';
import {
  Channel,
  decodeFromWorker,
  encodeHandoff,
  encodeJson,
  Ledger,
  MAX_BATCH,
  PROTOCOL_VERSION,
  shortened,
  type CustodyLabel,
  type FormerChild,
  type FromWorker,
  type Listening,
  type TakeGroup,
  type TicketSecretMessage,
  type WantedAddress,
  type WorkerHello,
} from '../../handoff/index.js';
import type { AcceptedConnection, Listener, FormerListener } from '../listener.js';
import type { PassfdWorkerState } from '../succession/worker-state.js';
import { SlowCloses } from './slow-closes.js';
import { StallWatch } from './stall-watch.js';
import type { FrozenWorker, WorkerEvents, WorkerHandle } from './worker-handle.js';

/**
 * How long an address's connections are kept from a worker that refused one, unless it closes a connection first. It may
 * be out of descriptors, and the kernel tells nobody when one is free again.
 */
const REFUSAL_PAUSE_MS = 100;

/**
 * How long an answer may stay unread under load, when no further connections come. Until then the dispatcher holds the
 * connection too: a client sees the end of one that its worker closes without shutdown(2) later by that.
 */
const POLLING_PAUSE_MS = 1;

/** Answers that may wait for a worker to read them. */
const MAX_UNREAD_BYTES = 262_144;

/**
 * What a worker may say in a second beside what it has adopted, refused and closed. A message has this many bytes more than
 * its own: a short one costs hardly less than a long one.
 */
const MAX_SAID_BYTES = 2_097_152;
const MESSAGE_BYTES = 64;

/** And for each of these: one that takes connections singly changes its capacity with each, three times. */
const SAID_BYTES_PER_SETTLED = 384;
const SECOND_MS = 1000;

/** What a passfd worker asks of its dispatcher. */
export interface PassfdWorkerHost {
  /** The dispatcher's own listeners, once they are open. */
  ownListeners(): Promise<readonly Listener[]>;
  /**
   * Listens at an address for the worker.
   * @throws {PassfdError} as `listen` of `passfd`; `ERR_ADDRESS_DENIED` when the worker may not choose addresses
   */
  listen(address: WantedAddress, backlog: number): Promise<Listener>;
  /** Resolves when the address is free, if this worker was the last to listen there. @returns whether it is still open */
  unlisten(worker: PassfdWorker, listener: Listener): Promise<boolean>;
  /**
   * The secret from which the ticket keys of a listener are derived.
   * @param brought the secret that the worker has already, from an earlier dispatcher
   * @returns undefined when the worker may not have the secret
   */
  ticketSecret(listener: Listener, brought: TicketSecretMessage | null): TicketSecretMessage | undefined;
  /** Takes a listening socket that the worker kept for a dispatcher that died. Owns the descriptor from now on. */
  takeCustody(label: CustodyLabel, descriptor: Descriptor): Promise<void>;
}

/** What a passfd worker reports beyond what every worker does. */
export interface PassfdWorkerEvents extends WorkerEvents {
  /** The set of listeners whose connections the worker takes has changed. It is empty while the worker is disconnected. */
  subscribed(worker: PassfdWorker): void;
  /** The worker serves one address more, or one less. */
  serving(worker: PassfdWorker): void;
  /** The worker takes no connections of these listeners any more. Others may serve them. */
  leaving(worker: PassfdWorker, listeners: readonly Listener[]): void;
  /** The worker has come back from a dispatcher that died. @param hasCustody whether it brought listening sockets */
  returned(worker: PassfdWorker, hasCustody: boolean): void;
}

/** Who a worker is, and what it may do. */
export interface PassfdWorkerIdentity {
  readonly id: number;
  readonly pid: number;
  /** Whether the dispatcher has addresses of its own. */
  readonly serves: boolean;
  /** Whether it may hold listening sockets, and bring them. */
  readonly isTrusted: boolean;
}

type State =
  | { readonly is: 'starting' }
  | { readonly is: 'ready' }
  | { readonly is: 'draining' }
  /** The dispatcher does without it, and has told it so: it may not have read that yet. */
  | { readonly is: 'parting' }
  | { readonly is: 'gone' };

interface Subscription {
  readonly listener: Listener;
  pause: NodeJS.Timeout | undefined;
  /** Servers of the worker that asked for it and have not been closed. */
  servers: number;
  /** Whether none of them was seen to stay open: each may be there only to see whether a port is free. */
  isNew: boolean;
  /** Whether it has asked for the secret of the ticket keys, and hears of the next one. */
  sharesTickets: boolean;
}

export class PassfdWorker implements WorkerHandle {
  readonly id: number;
  readonly pid: number;
  readonly dialect = 'passfd';
  /** Its window bounds what could wait. */
  readonly isFree = true;
  readonly mayBeFree = true;
  readonly #channel: Channel;
  readonly #events: PassfdWorkerEvents;
  readonly #host: PassfdWorkerHost;
  readonly #ledger: Ledger<AcceptedConnection>;
  readonly #subscriptions = new Map<number, Subscription>();
  /** Given, and sent by the next `flush`. */
  #outgoing: AcceptedConnection[] = [];
  #state: State;
  #window: number;
  #capacity: number | null;
  readonly #isTrusted: boolean;
  /** Whether it gets the listening sockets. */
  readonly #isCustodian: boolean;
  /** Whether it knows what only a last will says: `orphaned` and AGAIN. */
  readonly knowsAgain: boolean;
  readonly formerChild: FormerChild | undefined;
  /** Connections that it had open when it came, from a dispatcher that had died. */
  readonly #carried: number;
  #adopted: number;
  #closed: number;
  /** Listening sockets that it still has to bring. */
  #awaitedCustody: number;
  /** Whether that it is back is still to be told. */
  #isReturning = false;
  #hasBrought = false;
  #lastWords: string | undefined;
  #isTakenOut: boolean;
  #isHolding: boolean;
  /** See `givenBack`. By their keys. */
  readonly #givenBack: Map<string, FormerListener>;
  /** See `noteReopened`. */
  readonly #reopened: Listener[] = [];
  /** When it began to drain. */
  #servedBefore: readonly Listener[] | undefined;
  /** In flight at most while the worker is short of descriptors: half of what it could not take, then more again. */
  #starvedWindow = Number.POSITIVE_INFINITY;

  /** Settles when the worker is told that the dispatcher does without it, and can say nothing more. */
  #parted: Promise<void> | undefined;
  #whyParted: string | undefined;

  readonly #stallWatch: StallWatch;

  /** Listening sockets that are on their way to it, by their listeners: what tells that nobody needs one any more. */
  readonly #entrusting = new Map<number, Set<AbortController>>();
  /** Listeners of which it has got one. */
  readonly #entrusted = new Set<number>();
  /** Of answers that wait for it. */
  #unreadBytes = 0;
  /** In the second that began then, without what its connections are a reason for: may be less than nothing. */
  #saidBytes = 0;
  #saidSince = 0;

  /** Its user, unless it is a child of the service: then it can make slow to close what was sent to it. */
  readonly #stranger: { readonly user: number; readonly slowCloses: SlowCloses } | undefined;

  /** While answers are read by and by: ends that, when the last time is long enough ago. */
  #polling: NodeJS.Timeout | undefined;

  private constructor(
    socket: StreamSocket,
    snapshot: Omit<PassfdWorkerState, 'dialect' | 'subscriptions'>,
    events: PassfdWorkerEvents,
    host: PassfdWorkerHost,
  ) {
    const { isTrusted, partial } = snapshot;
    this.id = snapshot.id;
    this.pid = snapshot.pid;
    this.#awaitedCustody = snapshot.awaitedCustody;
    this.#channel = new Channel(socket, {
      mostDescriptors: () => (isTrusted && this.#awaitedCustody > 0 ? 1 : 0),
      partial,
    });
    this.#events = events;
    this.#host = host;
    this.#isTrusted = isTrusted;
    this.#isCustodian = snapshot.isCustodian;
    this.knowsAgain = snapshot.knowsAgain ?? false;
    this.formerChild = snapshot.formerChild;
    this.#state = { is: snapshot.parting === undefined ? snapshot.state : 'parting' };
    this.#whyParted = snapshot.parting;
    this.#window = snapshot.window;
    this.#capacity = snapshot.capacity;
    this.#isTakenOut = snapshot.isTakenOut ?? false;
    this.#carried = snapshot.carried;
    this.#adopted = snapshot.adopted;
    this.#closed = snapshot.closed;
    this.#isHolding = snapshot.isHolding ?? false;
    this.#givenBack = new Map(snapshot.givenBack?.map((former) => [former.key, former]));
    this.#ledger = new Ledger(snapshot.settled);
    const onStalled = (): void => {
      this.#events.stalled(this);
    };
    this.#stallWatch = new StallWatch(this, onStalled, snapshot.isStalled);
    const { peer } = socket;
    // A child was given one end of a pair, whose other end was made here. The kernel names the process of one that has connected.
    if (isTrusted && peer.pid !== snapshot.pid) return;
    socket.distrust(peer.uid);
    const slowCloses = new SlowCloses(peer.uid, () => {
      if (this.#state.is === 'ready') this.#events.changed(this);
    });
    this.#stranger = { user: peer.uid, slowCloses };
  }

  /** Takes over the socket, whose hello was read, and welcomes the worker. */
  static welcome(
    socket: StreamSocket,
    hello: WorkerHello,
    { serves, ...identity }: PassfdWorkerIdentity,
    events: PassfdWorkerEvents,
    host: PassfdWorkerHost,
  ): PassfdWorker {
    const { window, capacity, returns } = hello;
    const worker = new PassfdWorker(
      socket,
      {
        ...identity,
        isCustodian: identity.isTrusted && hello.custody === true,
        knowsAgain: hello.again,
        formerChild: identity.isTrusted ? returns?.child : undefined,
        state: 'starting',
        window,
        capacity,
        carried: returns?.open ?? 0,
        awaitedCustody: returns?.custody ?? 0,
        adopted: 0,
        closed: 0,
        settled: 0,
        partial: Buffer.alloc(0),
      },
      events,
      host,
    );
    worker.#isReturning = returns !== undefined;
    worker.#post(
      encodeJson({
        type: 'welcome',
        passfd: PROTOCOL_VERSION,
        id: worker.id,
        pid: process.pid,
        serves,
        holding: true,
      }),
    );
    return worker;
  }

  /**
   * Goes on with a worker of another dispatcher. It is frozen until `thaw`.
   * @param inFlight what was sent to it, in this order, and what is still to be sent
   */
  static restore(
    socket: StreamSocket,
    snapshot: PassfdWorkerState,
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
    const worker = new PassfdWorker(socket, snapshot, events, host);
    worker.#isReturning = snapshot.awaitedCustody > 0;
    for (const connection of inFlight) worker.#addToLedger(connection);
    for (const { listener: id, servers, isNew = false, sharesTickets = false } of snapshot.subscriptions) {
      const listener = listeners.get(id);
      if (!listener) continue;
      worker.#subscriptions.set(id, { listener, pause: undefined, servers, isNew, sharesTickets });
    }
    // What is unsent follows.
    if (snapshot.isCustodian) for (const id of listeners.keys()) worker.#entrusted.add(id);
    let told = Promise.resolve();
    for (const { bytes, descriptors, handoff } of unsent) {
      if (handoff) {
        const first = handoff.position - snapshot.settled - 1;
        worker.#postHandoff(Buffer.from(bytes), inFlight.slice(first, first + handoff.count), handoff);
      } else {
        told = worker.#postOwned(Buffer.from(bytes), descriptors);
      }
    }
    // Where nothing is unsent, the other dispatcher has cut it off.
    if (snapshot.parting !== undefined) worker.#parted = worker.#cutOff(told);
    return worker;
  }

  /** Reads what the worker says until its channel ends. */
  async run(): Promise<void> {
    let reason = 'its channel ended';
    try {
      this.#noteReturned();
      await this.#channel.read((payload, take) => {
        const message = decodeFromWorker(payload);
        if (!this.#isProgress(message)) this.#noteSaid(payload.length);
        return this.#on(message, take);
      });
    } catch (error) {
      reason = (error as Error).message;
      await this.#part(error);
      await this.#readLastWords();
    } finally {
      this.#leave(this.#whyParted ?? reason);
    }
  }

  get state(): 'starting' | 'ready' | 'draining' {
    return this.#state.is === 'starting' || this.#state.is === 'ready' ? this.#state.is : 'draining';
  }

  get adopted(): number {
    return this.#adopted;
  }

  get active(): number {
    return this.#carried + this.#adopted - this.#closed;
  }

  get inFlight(): number {
    return this.#ledger.size + this.#outgoing.length;
  }

  /** Positions that it has adopted or refused. */
  get settled(): number {
    return this.#ledger.settled;
  }

  get isStalled(): boolean {
    return this.#stallWatch.isStalled;
  }

  get isHolding(): boolean {
    return this.#isHolding;
  }

  get handedOut(): readonly Descriptor[] {
    if (this.#channel.socket.closed) return [];
    const sent = this.#ledger.entries.slice(0, this.#lastSent - this.#ledger.settled);
    return sent.map(({ descriptor }) => descriptor);
  }

  /** What follows waits for the channel, or could not be sent. */
  get #lastSent(): number {
    const unsent = this.#channel.socket.unsentPosition;
    return unsent === undefined ? this.#ledger.last : unsent - 1;
  }

  /** Ids of those whose connections it takes. */
  get listeners(): Iterable<number> {
    return this.#subscriptions.keys();
  }

  get socket(): StreamSocket {
    return this.#channel.socket;
  }

  get load(): number {
    return this.active + this.inFlight;
  }

  /** Of one that has left: whether it did at its end. */
  get listens(): boolean {
    return this.#subscriptions.size > 0;
  }

  /** Whether it drains because it was told so here, and not because it wants to. */
  get isTakenOut(): boolean {
    return this.#isTakenOut;
  }

  /** Why it ended, as far as it could tell. */
  get lastWords(): string | undefined {
    return this.#lastWords;
  }

  roomFor(listener: Listener): number {
    if (this.#state.is !== 'ready' || this.isStalled) return 0;
    const subscription = this.#subscriptions.get(listener.id);
    if (!subscription || subscription.pause) return 0;
    const inWindow = this.#presentWindow - this.inFlight - (this.#stranger?.slowCloses.count ?? 0);
    const inCapacity = this.#capacity === null ? inWindow : this.#capacity - this.load;
    return Math.max(0, Math.min(inWindow, inCapacity));
  }

  #addToLedger(connection: AcceptedConnection): void {
    if (this.#stranger) connection.descriptor.distrust(this.#stranger.user);
    this.#ledger.add(connection);
  }

  get isFull(): boolean {
    return this.#capacity !== null && this.load >= this.#capacity;
  }

  get #presentWindow(): number {
    return Math.min(this.#window, this.#starvedWindow);
  }

  give(connection: AcceptedConnection): void {
    this.#outgoing.push(connection);
  }

  flush(): void {
    const outgoing = this.#outgoing;
    if (outgoing.length === 0) return;
    const isBusy = this.#ledger.size > 0;
    this.#outgoing = [];
    for (let start = 0; start < outgoing.length;) {
      const end = endOfBatch(outgoing, start);
      const batch = outgoing.slice(start, end);
      const position = this.#ledger.last + 1;
      for (const connection of batch) this.#addToLedger(connection);
      const listener = batch[0]?.listener.id ?? 0;
      this.#postHandoff(encodeHandoff(listener, batch.length), batch, { position, listener });
      start = end;
    }
    this.#stallWatch.start();
    if (isBusy || this.#polling) this.#poll();
  }

  serves(listener: Listener): boolean {
    return this.#state.is === 'ready' && this.#subscriptions.has(listener.id);
  }

  isSubscribed(listener: Listener): boolean {
    return this.#subscriptions.get(listener.id)?.listener === listener;
  }

  /** Whether it takes what comes there, to a server that was seen to stay open. */
  isServing(listener: Listener): boolean {
    return this.serves(listener) && this.#subscriptions.get(listener.id)?.isNew === false;
  }

  /** Those that it has asked for, and has not given back. */
  get subscribed(): readonly Listener[] {
    return Array.from(this.#subscriptions.values(), ({ listener }) => listener);
  }

  /** Those that it has served, and has closed since it last asked for one: what it gives up when it ends. */
  get givenBack(): readonly FormerListener[] {
    return [...this.#givenBack.values()];
  }

  /** Whether it has closed all its servers, and not because it drains. */
  get hasClosedAll(): boolean {
    return this.#subscriptions.size === 0 && (this.#servedBefore ?? []).length === 0;
  }

  /** Of one that has ended: what it had given back is open again, as if it had ended with its server open. */
  noteReopened({ key }: FormerListener, listener: Listener): void {
    this.#givenBack.delete(key);
    this.#reopened.push(listener);
  }

  /** Those that it serves, or did at its end; of one that drains, those that it served before. */
  get serving(): readonly Listener[] {
    const served = [...this.#subscriptions.values()]
      .filter(({ isNew }) => !isNew)
      .map(({ listener }) => listener);
    return [...(this.#servedBefore ?? served), ...this.#reopened];
  }

  /** Gives it a listening socket to keep: should this process die, the socket lives on there. */
  entrust({ id, label, acceptor }: Listener): void {
    if (!this.#isCustodian || this.#state.is === 'parting') return;
    const duplicate = acceptor.duplicate();
    const frame = encodeJson({ type: 'custody', listener: id, ...label });
    const unneeded = new AbortController();
    // Where the socket is another one by now, the one before may still be on its way.
    const pending = this.#entrusting.get(id) ?? new Set();
    this.#entrusting.set(id, pending.add(unneeded));
    this.#channel
      .post(frame, [duplicate], { signal: unneeded.signal })
      .then(() => {
        if (unneeded.signal.aborted) this.#release(id);
        else this.#entrusted.add(id);
      })
      .catch(() => undefined)
      .finally(() => {
        duplicate.close();
        pending.delete(unneeded);
        if (pending.size === 0 && this.#entrusting.get(id) === pending) this.#entrusting.delete(id);
      })
      .catch(() => undefined);
  }

  /** It need not keep that one any more. One that waits for the channel it never gets. */
  relieve({ id }: Listener): void {
    for (const unneeded of this.#entrusting.get(id) ?? []) unneeded.abort();
    this.#entrusting.delete(id);
    if (this.#entrusted.delete(id)) this.#release(id);
  }

  #release(id: number): void {
    this.#post(encodeJson({ type: 'release', listeners: [id] }));
  }

  /** What it had brought, and was not given back, nobody needs. */
  relieveOfStale(): void {
    this.#post(encodeJson({ type: 'release', listeners: [], stale: true }));
  }

  /** Of an address whose ticket keys it shares with other workers. */
  changeTickets({ id }: Listener, tickets: TicketSecretMessage): void {
    if (!this.#subscriptions.get(id)?.sharesTickets) return;
    this.#post(encodeJson({ type: 'tickets', listener: id, tickets }));
  }

  async freeze(): Promise<FrozenWorker> {
    this.#stallWatch.stop();
    this.#stranger?.slowCloses.stop();
    const partial = await this.#channel.freeze();
    const snapshot: PassfdWorkerState = {
      dialect: 'passfd',
      id: this.id,
      pid: this.pid,
      isTrusted: this.#isTrusted,
      isCustodian: this.#isCustodian,
      knowsAgain: this.knowsAgain,
      formerChild: this.formerChild,
      state: this.state,
      parting: this.#state.is === 'parting' ? this.#whyParted : undefined,
      isStalled: this.isStalled,
      isTakenOut: this.#isTakenOut,
      isHolding: this.#isHolding,
      window: this.#window,
      capacity: this.#capacity,
      carried: this.#carried,
      awaitedCustody: this.#awaitedCustody,
      adopted: this.#adopted,
      closed: this.#closed,
      settled: this.#ledger.settled,
      subscriptions: Array.from(this.#subscriptions, ([listener, { servers, isNew, sharesTickets }]) => ({
        listener,
        servers,
        isNew,
        sharesTickets,
      })),
      givenBack: this.givenBack.map(({ key, address, backlog }) => ({ key, address, backlog })),
      partial,
    };
    const { socket } = this.#channel;
    return { snapshot, socket, inFlight: this.#ledger.entries, unsent: () => socket.unsent() };
  }

  thaw(): void {
    if (this.inFlight > 0) this.#stallWatch.start();
    this.#channel.socket.thaw();
  }

  disown(): void {
    this.#state = { is: 'gone' };
    clearTimeout(this.#polling);
    this.#stallWatch.stop();
    this.#stranger?.slowCloses.stop();
    for (const subscription of this.#subscriptions.values()) endPause(subscription);
    this.#channel.socket.destroy();
    for (const { descriptor } of this.#ledger.takeAll()) descriptor.close();
  }

  drain(): void {
    this.#isTakenOut = true;
    if (this.state === 'draining') return;
    this.#post(encodeJson({ type: 'drain' }));
    this.#beginDraining();
  }

  end(): void {
    this.#channel.socket.destroy();
  }

  /**
   * Connections come faster than they are answered, so that answers are read whenever more is sent: to be woken up by each
   * costs more than all else that is done for a connection. Not when room depends on them.
   */
  #poll(): void {
    const { socket } = this.#channel;
    if (this.#capacity !== null || this.#state.is !== 'ready' || this.inFlight * 2 > this.#presentWindow) {
      this.#stopPolling();
      return;
    }
    socket.setPolled(true);
    socket.poll();
    this.#polling ??= startTimer(() => {
      this.#stopPolling();
    }, POLLING_PAUSE_MS);
    this.#polling.refresh();
  }

  #stopPolling(): void {
    clearTimeout(this.#polling);
    this.#polling = undefined;
    this.#channel.socket.setPolled(false);
  }

  #post(frame: Buffer): void {
    // Nothing follows a farewell.
    if (this.#state.is === 'parting') return;
    // A send fails when the worker is gone; that the stream ends tells it too, behind everything that it still said.
    this.#channel.post(frame).catch(() => undefined);
  }

  /** @throws {PassfdError} `ERR_PROTOCOL` when it does not read what it has asked for */
  #answer(frame: Buffer): void {
    if (this.#state.is === 'parting') return;
    this.#unreadBytes += frame.length;
    if (this.#unreadBytes > MAX_UNREAD_BYTES) {
      throw new PassfdError(
        'ERR_PROTOCOL',
        `The peer leaves more than ${MAX_UNREAD_BYTES} bytes of answers unread`,
      );
    }
    const taken = (): void => {
      this.#unreadBytes -= frame.length;
    };
    this.#channel.post(frame).then(taken, taken);
  }

  /** They stay the ledger's. */
  #postHandoff(frame: Buffer, batch: readonly AcceptedConnection[], handoff: Handoff): void {
    const descriptors = batch.map(({ descriptor }) => descriptor);
    this.#channel.post(frame, descriptors, { handoff }).catch((error: unknown) => {
      this.#onUnsent(error);
    });
  }

  async #postOwned(frame: Buffer, descriptors: readonly Descriptor[]): Promise<void> {
    await this.#channel.post(frame, descriptors).catch(() => undefined);
    closeAll(descriptors);
  }

  /** No other batch can follow, and the worker is well: what it says until it can know is heard as ever. */
  #onUnsent(error: unknown): void {
    const isGone = error instanceof PassfdError && ['ERR_PEER_GONE', 'ERR_CLOSED'].includes(error.code);
    if (isGone) return;
    this.#part(error).catch((thrown: unknown) => {
      this.#events.failed(thrown);
    });
  }

  /** Whether so many such messages can be said only as there were connections. */
  #isProgress(message: FromWorker): boolean {
    if (message.type === 'closed') return message.total > this.#closed;
    return message.type === 'adopted' || message.type === 'refused' || message.type === 'custody';
  }

  /** @throws {PassfdError} `ERR_PROTOCOL` when that is too much */
  #noteSaid(bytes: number): void {
    const now = performance.now();
    if (now - this.#saidSince >= SECOND_MS) {
      this.#saidSince = now;
      this.#saidBytes = 0;
    }
    this.#saidBytes += bytes + MESSAGE_BYTES;
    if (this.#saidBytes <= MAX_SAID_BYTES) return;
    throw new PassfdError(
      'ERR_PROTOCOL',
      `The peer says more than ${MAX_SAID_BYTES} bytes in a second beside what it adopts, refuses and closes`,
    );
  }

  #on(message: FromWorker, take: TakeGroup): Promise<void> | undefined {
    switch (message.type) {
      case 'custody':
        return this.#onCustody(message, take);
      case 'last-words':
        this.#lastWords = message.text;
        break;
      case 'listen':
        return this.#onListen(message);
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
        return this.#onServe(message);
      case 'unlisten':
        return this.#onUnlisten(message);
      case 'window':
        this.#window = message.window;
        this.#stopPolling();
        this.#events.changed(this);
        break;
      case 'capacity':
        this.#capacity = message.capacity;
        this.#stopPolling();
        this.#events.changed(this);
        break;
      case 'holding':
        this.#isHolding = message.on;
        this.#events.changed(this);
        break;
      case 'draining':
        this.#beginDraining();
    }
    return undefined;
  }

  /** @param book counts them: until then it seems to have room that it has not, and nobody may be told anything */
  #settle(position: number, book: (connections: AcceptedConnection[]) => void): void {
    const connections = this.#ledger.settleUpTo(position, this.#lastSent);
    this.#saidBytes -= connections.length * SAID_BYTES_PER_SETTLED;
    const wasStalled = this.#stallWatch.resume();
    book(connections);
    if (wasStalled) this.#events.resumed(this);
  }

  /** @param listeners whose servers stay open; an earlier release does not say which, and means all that it has asked for */
  #onReady(listeners: readonly number[] = [...this.#subscriptions.keys()]): void {
    const stayed = listeners
      .map((id) => this.#subscriptions.get(id))
      .filter((subscription) => subscription?.isNew === true);
    for (const subscription of stayed) if (subscription) subscription.isNew = false;
    if (this.#state.is === 'starting') {
      this.#state = { is: 'ready' };
      this.#events.ready(this);
    }
    if (stayed.length > 0) this.#events.serving(this);
  }

  async #onServe(message: Extract<FromWorker, { type: 'serve' }>): Promise<void> {
    const listeners = await this.#host.ownListeners();
    if (this.#state.is === 'gone') return;
    for (const listener of listeners) this.#subscribe(listener);
    this.#answerListening(message, listeners);
  }

  #onAdopted(position: number): void {
    this.#settle(position, (connections) => {
      this.#adopted += connections.length;
      this.#starvedWindow *= 2;
      closeAll(connections.map(({ descriptor }) => descriptor));
      this.#events.adopted(connections.length);
      this.#events.changed(this);
    });
  }

  #onRefused(position: number, reason: string): void {
    this.#settle(position, (connections) => {
      for (const { listener } of connections) this.#pause(listener.id);
      if (reason === 'descriptors') this.#starvedWindow = Math.max(1, Math.floor(connections.length / 2));
      this.#events.refused(this, connections, reason);
    });
  }

  #onClosed(total: number): void {
    if (total < this.#closed || total > this.#carried + this.#adopted) {
      throw new PassfdError(
        'ERR_PROTOCOL',
        `The peer closed ${total} connections in all, after ${this.#closed}, and adopted ${this.#carried + this.#adopted}`,
      );
    }
    if (total === this.#closed) return;
    this.#closed = total;
    for (const subscription of this.#subscriptions.values()) endPause(subscription);
    this.#events.changed(this);
  }

  async #onListen(message: Extract<FromWorker, { type: 'listen' }>): Promise<void> {
    const { address, backlog, request } = message;
    let listener: Listener;
    try {
      listener = await this.#host.listen(address, backlog);
    } catch (error) {
      const reason = shortened((error as Error).message);
      this.#answer(encodeJson({ type: 'listen-failed', request, code: systemCode(error), reason }));
      return;
    }
    if (this.#state.is === 'gone') {
      await this.#host.unlisten(this, listener);
      return;
    }
    this.#subscribe(listener);
    this.#answerListening(message, [listener]);
  }

  async #onCustody(label: CustodyLabel, take: TakeGroup): Promise<void> {
    const group = take(1);
    const [descriptor] = group === 'lost' ? [] : group;
    // One that this process had no descriptor left for comes back by another worker, or not at all.
    if (descriptor) {
      await this.#host.takeCustody(label, descriptor);
      this.#hasBrought = true;
    }
    this.#awaitedCustody--;
    this.#noteReturned();
  }

  #noteReturned(): void {
    if (!this.#isReturning || this.#awaitedCustody > 0) return;
    this.#isReturning = false;
    this.#events.returned(this, this.#hasBrought);
  }

  #answerListening(
    { request, tickets }: Extract<FromWorker, { type: 'serve' | 'listen' }>,
    listeners: readonly Listener[],
  ): void {
    const described: Listening[] = listeners.map(({ id, address }) => ({ id, address }));
    const shared = tickets === undefined ? undefined : this.#shareTickets(listeners[0], tickets);
    this.#answer(encodeJson({ type: 'listening', request, listeners: described, tickets: shared }));
    this.#events.changed(this);
  }

  #shareTickets(
    listener: Listener | undefined,
    brought: TicketSecretMessage | null,
  ): TicketSecretMessage | undefined {
    const subscription = listener && this.#subscriptions.get(listener.id);
    const tickets = subscription && this.#host.ticketSecret(listener, brought);
    if (subscription && tickets) subscription.sharesTickets = true;
    return tickets;
  }

  #subscribe(listener: Listener): void {
    const { id } = listener;
    const subscription = this.#subscriptions.get(id);
    const fresh = { listener, pause: undefined, servers: 1, isNew: true, sharesTickets: false };
    if (this.state !== 'draining') this.#givenBack.clear();
    if (subscription) subscription.servers++;
    else this.#subscriptions.set(id, fresh);
    this.#events.subscribed(this);
  }

  async #onUnlisten(message: Extract<FromWorker, { type: 'unlisten' }>): Promise<void> {
    // There may be thousands that it never had.
    const known = message.listeners.filter((id) => this.#subscriptions.has(id));
    const areOpen = await Promise.all(known.map((id) => this.#unsubscribe(id)));
    const { request } = message;
    if (request === undefined) return;
    this.#answer(encodeJson({ type: 'unlistened', request, ...(areOpen.includes(true) && { open: true }) }));
  }

  /** @returns whether the address is still open */
  async #unsubscribe(id: number): Promise<boolean> {
    const subscription = this.#subscriptions.get(id);
    if (!subscription) return false;
    const { listener } = subscription;
    if (--subscription.servers === 0) {
      endPause(subscription);
      this.#subscriptions.delete(id);
      if (!subscription.isNew) this.#givenBack.set(listener.key, listener);
      this.#events.subscribed(this);
      this.#events.serving(this);
    }
    return this.#host.unlisten(this, listener);
  }

  #beginDraining(): void {
    if (this.state === 'draining') return;
    this.#stopPolling();
    this.#servedBefore = this.serving;
    // One that is starting has not said yet what it serves. One that is ready gives back what it has asked for since.
    const left = this.#state.is === 'starting' ? this.subscribed : this.serving;
    this.#state = { is: 'draining' };
    this.#events.draining(this);
    this.#events.leaving(this, left);
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
   * Ends what is between this dispatcher and a worker that lives. What was sent to it may be adopted at any moment, so it
   * may not go to another before the worker is cut off. And the worker must know that the dispatcher lives on, or it would
   * keep what it has received: so first it is told, then the channel is shut in both directions, and only then is that
   * given to others. What was not sent goes to them at once.
   */
  #part(error: unknown): Promise<void> {
    this.#parted ??= this.#sayFarewell(error);
    return this.#parted;
  }

  async #sayFarewell(error: unknown): Promise<void> {
    const { socket } = this.#channel;
    const isBroken = error instanceof PassfdError && error.code === 'ERR_PROTOCOL';
    // By this process: then all workers see their channels end, and nothing is given to others.
    if (socket.closed && error instanceof PassfdError) return;
    if (isBroken) this.#events.broke(error);
    else this.#events.failed(error);
    if (socket.closed) return;
    const reason = shortened(error instanceof PassfdError ? error.message : String(error));
    this.#whyParted = reason;
    this.#stopPolling();
    const farewell = encodeJson({
      type: 'farewell',
      code: isBroken ? 'ERR_PROTOCOL' : 'ERR_DISPATCHER',
      reason,
    });
    this.#state = { is: 'parting' };
    this.#events.subscribed(this);
    socket.endHandoffs(error);
    const told = this.#channel.post(farewell).catch(() => undefined);
    const unsent = [...this.#ledger.takeFrom(this.#lastSent + 1), ...this.#outgoing.splice(0)];
    if (unsent.length > 0) this.#events.refused(this, unsent, reason);
    // It may not read, and then nothing tells when it can know. Where it has nothing, it need not.
    await this.#cutOff(this.#ledger.size > 0 ? told : undefined);
  }

  async #cutOff(told: Promise<void> | undefined): Promise<void> {
    if (told) await told;
    if (!this.#channel.socket.closed) this.#channel.socket.shutdown();
  }

  /** What it had adopted before it was cut off is its own, whatever else it said. */
  async #readLastWords(): Promise<void> {
    if (this.#channel.socket.closed) return;
    try {
      await this.#channel.read((payload) => {
        const message = decodeFromWorker(payload);
        if (message.type === 'adopted') this.#onAdopted(message.position);
        return undefined;
      });
    } catch {
      // It makes no more sense; the rest is not adopted.
    }
  }

  #leave(reason: string): void {
    if (this.#state.is === 'gone') return;
    this.#state = { is: 'gone' };
    clearTimeout(this.#polling);
    this.#stallWatch.stop();
    this.#stranger?.slowCloses.stop();
    for (const subscription of this.#subscriptions.values()) endPause(subscription);
    this.#channel.socket.discard();
    const outgoing = this.#outgoing.splice(0);
    this.#events.left(this, [...this.#ledger.takeAll(), ...outgoing], reason);
    this.#events.leaving(this, this.subscribed);
  }
}

/** A batch holds connections of one address, and as many as one message can carry. */
function endOfBatch(connections: readonly AcceptedConnection[], start: number): number {
  const most = Math.min(connections.length, start + MAX_BATCH);
  let end = start + 1;
  while (end < most && connections[end]?.listener === connections[start]?.listener) end++;
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
