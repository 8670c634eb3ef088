// RecipeWorker: the handle of a worker of the Python recipe, which takes one descriptor with each byte and says little.
//
// `multiprocessing`: nothing comes back. That the worker has received a connection is asked of the kernel, by its count
// of what is unread on the channel. When such a worker dies, the kernel says ECONNRESET exactly if something was unread
// (unix_release_sock in net/unix/af_unix.c); with one connection in flight at a time, that tells whether it had that one.
// `raw`: each connection is answered by "OK".
import { setImmediate as startImmediate, setTimeout as startTimer } from 'node:timers';
import { setImmediate } from 'node:timers/promises';

import { PassfdError, type Descriptor, type Message, type StreamSocket } from '../../fd/index.js';
import {
  ProcessWatch,
  ReceiptWatch,
  type SocketDiagnostics,
  type SocketIdentity,
} from '../../fd/internal.js';
import type { AcceptedConnection, Listener } from '../listener.js';
import type { RecipeWorkerState } from '../succession/worker-state.js';
import { SlowCloses } from './slow-closes.js';
import { StallWatch } from './stall-watch.js';
import type { FrozenWorker, WorkerEvents, WorkerHandle } from './worker-handle.js';

/** The byte that a descriptor travels with: send_handle's count of one (Lib/multiprocessing/reduction.py), and "x". */
const BYTES = { multiprocessing: Uint8Array.of(1), raw: Buffer.from('x') } as const;

const OK = 'OK';

/**
 * Pauses between two questions to the kernel, which has no event for "was closed by the worker", and only on Linux one for
 * "was received".
 */
const FIRST_POLL_MS = 1;
const LAST_POLL_MS = 50;

/** How long a worker that cannot be sent to gets nothing: the kernel does not tell when it could be. */
const UNSENT_PAUSE_MS = 100;

/** A worker that has had so many at a time serves them side by side, and is expected to take one more at any time. */
const PROVEN_CONCURRENT = 16;

/** Of what it has open, so many are asked about in one turn of the event loop. */
const ASKED_AT_ONCE = 64;

/**
 * And fewer, one of each worker at least, when all workers together have spent so long on that in this turn: the kernel
 * finds a Unix socket slowly where there are many.
 */
const ASKING_MS = 1;

/** Spent in this turn of the event loop. */
let askedMs = 0;

/** With so many descriptors of its user that are slow to close it gets nothing. */
const MAX_SLOW_CLOSES = 64;

/** A client that waits longer than that behind another one would have been better off elsewhere. */
const KEPT_WAITING_MS = 10;

type State = 'ready' | 'draining' | 'gone';

export class RecipeWorker implements WorkerHandle {
  readonly id: number;
  readonly pid: number;
  readonly dialect: 'multiprocessing' | 'raw';
  /** It has no word for it. */
  readonly isFull = false;
  readonly #socket: StreamSocket;
  readonly #events: WorkerEvents;
  readonly #diagnostics: SocketDiagnostics | undefined;
  #state: State = 'ready';
  #inFlight: AcceptedConnection | undefined;
  /** Whether the kernel has it; else nothing is unread since nothing was sent. */
  #isSent = false;
  /** Nothing is given to it until then. */
  #pause: NodeJS.Timeout | undefined;
  /** Whether it was told that it cannot be sent to, since it last could. */
  #isUnsendable = false;
  /** Of received "OK"s: the O of one may come alone. */
  #answer = '';
  #adopted = 0;
  /** Connections that it has received and that some process still holds; first what was asked about longest ago. */
  readonly #held = new Set<SocketIdentity>();
  /** Whether it has received some that the kernel cannot be asked about. */
  #hasOthers = false;
  /** As many as it had open when it received yet another, and that one. */
  #concurrency = 1;
  /** With so many open it has left another one unread for long, or until it had closed one of them. */
  #limit = Number.POSITIVE_INFINITY;
  /** When the one in flight was given to it, and how many it had open: as many as ever, or more. */
  #probe: { readonly held: number; readonly since: number } | undefined;
  #hasAskedOfHeld = false;
  #receipts: ReceiptWatch | undefined;
  #process: ProcessWatch | undefined;
  readonly #stallWatch: StallWatch;
  readonly #slowCloses: SlowCloses;
  /** Its user, who can make slow to close what was sent to it. */
  readonly #user: number;
  /** It answers again, and nobody was told yet. */
  #hasResumed = false;
  #poll: NodeJS.Timeout | undefined;
  #pollMs = FIRST_POLL_MS;

  /** Takes over the socket. */
  constructor(
    socket: StreamSocket,
    identity: { readonly id: number; readonly pid: number; readonly dialect: 'multiprocessing' | 'raw' },
    events: WorkerEvents,
    diagnostics: SocketDiagnostics | undefined,
  ) {
    this.id = identity.id;
    this.pid = identity.pid;
    this.dialect = identity.dialect;
    this.#socket = socket;
    this.#events = events;
    this.#diagnostics = diagnostics;
    this.#stallWatch = new StallWatch(this, () => {
      this.#onUnanswered();
    });
    this.#user = socket.peer.uid;
    socket.distrust(this.#user);
    this.#slowCloses = new SlowCloses(this.#user, () => {
      if (this.#state === 'ready') this.#events.changed(this);
    });
    this.#watchReceipts();
    this.#watchProcess();
  }

  /** Goes on with a worker of another dispatcher. It is frozen until `thaw`. */
  static restore(
    socket: StreamSocket,
    snapshot: RecipeWorkerState,
    inFlight: AcceptedConnection | undefined,
    events: WorkerEvents,
    diagnostics: SocketDiagnostics | undefined,
  ): RecipeWorker {
    socket.freeze();
    const worker = new RecipeWorker(socket, snapshot, events, diagnostics);
    worker.#state = snapshot.state;
    worker.#adopted = snapshot.adopted;
    worker.#concurrency = snapshot.concurrency;
    worker.#limit = snapshot.limit ?? Number.POSITIVE_INFINITY;
    worker.#answer = snapshot.answer;
    worker.#hasOthers = snapshot.hasOthers ?? false;
    for (const identity of snapshot.held) worker.#held.add(identity);
    inFlight?.descriptor.distrust(worker.#user);
    if (inFlight && !snapshot.isSent) worker.give(inFlight);
    worker.#stopAsking();
    worker.#inFlight = inFlight;
    worker.#isSent = snapshot.isSent;
    return worker;
  }

  /** Reads until the channel ends. Never rejects. */
  async run(): Promise<void> {
    let reason = 'its channel ended';
    /** Whether the one in flight stayed unread for good. */
    let isUnread = this.dialect === 'raw';
    try {
      for (;;) {
        using message: Message | null = await this.#socket.receive(undefined, { descriptors: 0 });
        if (!message) break;
        this.#onMessage(message);
      }
    } catch (error) {
      if (!(error instanceof PassfdError)) throw error;
      if (error.code === 'ERR_PEER_GONE') isUnread = true;
      else reason = error.message;
      if (error.code === 'ERR_PROTOCOL' || error.code === 'ERR_UNEXPECTED_DESCRIPTORS') {
        this.#events.broke(error);
      }
    }
    this.#leave(reason, isUnread);
  }

  get state(): 'ready' | 'draining' {
    return this.#state === 'ready' ? 'ready' : 'draining';
  }

  get adopted(): number {
    return this.#adopted;
  }

  get active(): number | null {
    if (!this.#diagnostics || this.#hasOthers) return null;
    this.#lookAfterHeld(this.#held.size);
    return this.#held.size;
  }

  /** How many connections it was ever known to have received. */
  get settled(): number {
    return this.#adopted;
  }

  get isStalled(): boolean {
    return this.#stallWatch.isStalled;
  }

  get inFlight(): number {
    return this.#inFlight ? 1 : 0;
  }

  get handedOut(): readonly Descriptor[] {
    return this.#inFlight && this.#isSent ? [this.#inFlight.descriptor] : [];
  }

  get load(): number {
    this.#lookAfterSome();
    return this.#held.size + this.inFlight;
  }

  get listens(): boolean {
    return this.#state === 'ready';
  }

  /** It can tell nothing of that. */
  readonly isHolding = false;

  /**
   * A worker that serves one client at a time would let the next one wait. It is known by what it has open: a worker
   * that has never taken one more while it had so many is expected to be busy with them.
   */
  get isFree(): boolean {
    if (this.#held.size < this.#concurrency || this.#isProvenConcurrent) return true;
    this.#lookAfterSome();
    return this.#held.size < this.#concurrency;
  }

  get mayBeFree(): boolean {
    return this.isFree || this.#held.size < this.#limit;
  }

  serves(listener: Listener): boolean {
    return this.#state === 'ready' && listener.isOwn;
  }

  /** One at a time, of the dispatcher's own addresses. */
  roomFor(listener: Listener): number {
    if (!this.serves(listener)) return 0;
    if (!this.#receipts) this.#lookWhetherReceived();
    return this.#inFlight || this.#pause || this.#slowCloses.count > MAX_SLOW_CLOSES ? 0 : 1;
  }

  give(connection: AcceptedConnection): void {
    connection.descriptor.distrust(this.#user);
    this.#inFlight = connection;
    this.#isSent = false;
    this.#probe = this.#startProbe();
    // The flag is in the open file, and a recipe's worker reads as if it were not set. It is clear unless the
    // connection comes back from elsewhere.
    this.#socket
      .send(BYTES[this.dialect], [connection.descriptor], {
        blocking: true,
        kept: true,
        // It has no positions; should this process die, what was sent is left to this worker.
        handoff: { position: 1, listener: connection.listener.id, isLone: true },
      })
      .then(() => {
        this.#isSent = true;
        this.#isUnsendable = false;
      })
      .catch((error: unknown) => {
        this.#onUnsent(connection, error);
      });
    this.#stallWatch.start();
    // One that waits for a busy worker to become free would look for the receipt too late.
    this.#pollSoon();
  }

  /**
   * It goes to another, or waits: without a pause it would come back at once, again and again. That a worker is gone is
   * told by the end of its channel.
   */
  #onUnsent(connection: AcceptedConnection, error: unknown): void {
    const isGone = error instanceof PassfdError && ['ERR_PEER_GONE', 'ERR_CLOSED'].includes(error.code);
    if (isGone || this.#inFlight !== connection) return;
    this.#inFlight = undefined;
    this.#pause = startTimer(() => {
      this.#pause = undefined;
      this.#events.changed(this);
    }, UNSENT_PAUSE_MS);
    if (!this.#isUnsendable) this.#events.failed(error);
    this.#isUnsendable = true;
    this.#events.refused(this, [connection], (error as Error).message);
  }

  flush(): void {
    // Sent already: one message a connection is all that the dialect knows.
  }

  async freeze(): Promise<FrozenWorker> {
    if (!this.#socket.closed) this.#socket.freeze();
    this.#stopAsking();
    // What a receive has brought already is on its way through a promise.
    await setImmediate();
    const snapshot: RecipeWorkerState = {
      dialect: this.dialect,
      id: this.id,
      pid: this.pid,
      state: this.state,
      adopted: this.#adopted,
      concurrency: this.#concurrency,
      limit: Number.isFinite(this.#limit) ? this.#limit : undefined,
      held: [...this.#held],
      hasOthers: this.#hasOthers,
      answer: this.#answer,
      isSent: this.#isSent,
    };
    // What waits to be sent is what is in flight, and sent anew.
    return {
      snapshot,
      socket: this.#socket,
      inFlight: this.#inFlight ? [this.#inFlight] : [],
      unsent: () => [],
    };
  }

  thaw(): void {
    this.#socket.thaw();
    this.#watchReceipts();
    this.#watchProcess();
    if (this.#inFlight) this.#stallWatch.start();
    this.#pollLater();
  }

  disown(): void {
    this.#state = 'gone';
    this.#stopAsking();
    const connection = this.#inFlight;
    this.#inFlight = undefined;
    this.#socket.destroy();
    connection?.descriptor.close();
  }

  drain(): void {
    if (this.#state !== 'ready') return;
    this.#state = 'draining';
    this.#events.draining(this);
    // Its loop ends with EOFError when it has received what is in flight.
    this.#socket.end().catch(() => undefined);
    this.#pollSoon();
  }

  end(): void {
    this.#socket.destroy();
  }

  #onMessage(message: Message): void {
    // What a multiprocessing worker says beyond its first object is not part of the recipe, and means nothing here.
    if (this.dialect === 'multiprocessing') return;
    this.#answer += message.bytes.toString('latin1');
    while (this.#answer.startsWith(OK)) {
      this.#answer = this.#answer.slice(OK.length);
      if (!this.#inFlight) throw new PassfdError('ERR_PROTOCOL', 'The worker answers what it was not given');
      this.#settle();
      this.#events.changed(this);
      this.#tellResumed();
    }
    if (!OK.startsWith(this.#answer)) {
      throw new PassfdError('ERR_PROTOCOL', 'The worker answers a descriptor with something else than OK');
    }
  }

  /**
   * Of a `multiprocessing` worker: it has received a connection when nothing is unread, if it still lived then. Tells
   * nobody: the pool asks in the middle of placing others.
   * @returns whether it was received now
   */
  #lookWhetherReceived(): boolean {
    if (!this.#inFlight || !this.#isSent || this.dialect === 'raw' || this.#socket.closed) return false;
    if (this.#socket.unreadBytes > 0) return false;
    // A dead one's queue is empty too. The end can be seen from the moment on when the queue was emptied by it.
    if (this.#isOver()) return false;
    this.#settle();
    return true;
  }

  #isOver(): boolean {
    return this.#peek()?.length === 0;
  }

  /** @returns null when nothing has come; empty at the end of the channel */
  #peek(): Buffer | null {
    try {
      return this.#socket.peek(1);
    } catch {
      return Buffer.alloc(0); // told once more to the receive that waits
    }
  }

  #settle(): void {
    const connection = this.#inFlight;
    if (!connection) return;
    this.#inFlight = undefined;
    this.#learnConcurrency();
    const identity = this.#diagnostics?.identify(connection.descriptor);
    if (identity) this.#held.add(identity);
    else this.#hasOthers = true;
    this.#lookAfterSome();
    connection.descriptor.close();
    this.#adopted++;
    this.#events.adopted(1);
    this.#hasResumed ||= this.#stallWatch.resume();
  }

  /** Last of all: whoever hears of it may do anything to the dispatcher. */
  #tellResumed(): void {
    if (!this.#hasResumed) return;
    this.#hasResumed = false;
    this.#events.resumed(this);
  }

  /** It is given one more than it was ever known to take at a time, if it still has the others. */
  #startProbe(): { held: number; since: number } | undefined {
    if (this.#held.size < this.#concurrency || this.#isProvenConcurrent) return undefined;
    this.#lookAfterHeld(this.#held.size);
    const held = this.#held.size;
    return held < this.#concurrency ? undefined : { held, since: performance.now() };
  }

  /** It takes one more. */
  #learnConcurrency(): void {
    if (!this.#probe) return;
    const { held, since } = this.#probe;
    this.#probe = undefined;
    this.#lookAfterHeld(this.#held.size);
    if (this.#held.size >= held) {
      this.#concurrency = Math.max(this.#concurrency, this.#held.size + 1);
      if (this.#concurrency > this.#limit) this.#limit = Number.POSITIVE_INFINITY;
    } else if (performance.now() - since >= KEPT_WAITING_MS) {
      this.#limit = Math.min(this.#limit, held);
    }
  }

  /**
   * One that it could have been expected to take is unread for long: it is stopped, or stuck. Else it is busy with others,
   * or may be with those that nobody can be asked about.
   */
  #onUnanswered(): void {
    if (!this.#isProvenConcurrent) this.#lookAfterHeld(this.#held.size);
    const { isFree } = this;
    if (isFree && !this.#hasOthers) {
      this.#events.stalled(this);
      return;
    }
    if (!isFree) this.#limit = this.#held.size;
    this.#stallWatch.resume();
    this.#stallWatch.stop();
    this.#stallWatch.start();
  }

  get #isProvenConcurrent(): boolean {
    return this.#concurrency >= PROVEN_CONCURRENT;
  }

  /** Once in a turn of the event loop: each question is a message to the kernel. */
  #lookAfterSome(): void {
    if (this.#held.size === 0 || this.#hasAskedOfHeld) return;
    this.#hasAskedOfHeld = true;
    startImmediate(() => {
      this.#hasAskedOfHeld = false;
    });
    if (askedMs === 0) startImmediate(() => (askedMs = 0));
    const start = performance.now();
    this.#lookAfterHeld(ASKED_AT_ONCE, start + ASKING_MS - askedMs);
    askedMs += performance.now() - start;
  }

  /** Forgets, among as many of what it has open, what nobody holds any more; one at least, whatever the time is. */
  #lookAfterHeld(count: number, until = Number.POSITIVE_INFINITY): void {
    let left = Math.min(count, this.#held.size);
    for (const identity of this.#held) {
      if (left-- === 0) break;
      this.#held.delete(identity);
      // Where the kernel gives no answer, it is asked again another time.
      if (this.#diagnostics?.isHeld(identity) !== false) this.#held.add(identity);
      if (performance.now() >= until) break;
    }
  }

  #watchReceipts(): void {
    if (this.dialect !== 'multiprocessing' || this.#socket.closed) return;
    this.#receipts ??= ReceiptWatch.start(this.#socket, () => {
      if (this.#lookWhetherReceived()) this.#events.changed(this);
      this.#tellResumed();
    });
  }

  /** A number of 0 is that of a process in another container. */
  #watchProcess(): void {
    if (this.#state !== 'ready' || this.#socket.closed) return;
    const { pid } = this.#socket.peer;
    if (pid === 0) return;
    this.#process ??= ProcessWatch.start(pid, () => {
      this.#onProcessEnded().catch((error: unknown) => {
        this.#events.failed(error);
      });
    });
  }

  /**
   * Most often its channel has ended with it. But a child that it has forked holds that too, and whether one that serves or
   * one that knows nothing of it, nobody can tell: so what is in flight stays there, and nothing more follows.
   */
  async #onProcessEnded(): Promise<void> {
    // What it said at last stands before the end.
    while (this.#process && this.#peek()?.length === 1) await setImmediate();
    if (!this.#process || this.#isOver()) return;
    this.#events.failed(
      new PassfdError(
        'ERR_PEER_GONE',
        `Process ${this.#socket.peer.pid} has ended, and another one still holds its channel, such as a child of it. ` +
          `Worker ${this.id} gets no more connections; ${this.inFlight} in flight to it wait for the end of that process`,
      ),
    );
    this.drain();
  }

  #stopAsking(): void {
    this.#stallWatch.stop();
    this.#slowCloses.stop();
    this.#process?.close();
    this.#process = undefined;
    this.#receipts?.close();
    this.#receipts = undefined;
    clearTimeout(this.#poll);
    this.#poll = undefined;
    clearTimeout(this.#pause);
    this.#pause = undefined;
  }

  #pollSoon(): void {
    clearTimeout(this.#poll);
    this.#poll = undefined;
    this.#pollMs = FIRST_POLL_MS;
    this.#pollLater();
  }

  /** While something is in flight, a busy worker may become free, or one that drains may have closed its last connection. */
  #pollLater(): void {
    this.#poll ??= startTimer(() => {
      this.#poll = undefined;
      this.#pollMs = Math.min(this.#pollMs * 2, LAST_POLL_MS);
      this.#lookWhetherReceived();
      this.#lookAfterSome();
      const isExpected = this.#state === 'ready' ? !this.isFree : this.#held.size > 0;
      if (this.#inFlight || isExpected) this.#pollLater();
      if (!this.#inFlight && (this.#state === 'ready' || this.#held.size === 0)) this.#events.changed(this);
      this.#tellResumed();
    }, this.#pollMs);
  }

  #leave(reason: string, isUnread: boolean): void {
    if (this.#state === 'gone') return;
    this.#state = 'gone';
    this.#stopAsking();
    // One that was never sent was not received either, however cleanly the worker has gone.
    if (!isUnread && this.#isSent) this.#settle();
    const left = this.#inFlight;
    this.#inFlight = undefined;
    if (!this.#socket.closed) {
      this.#socket.shutdown();
      this.#socket.discard();
    }
    this.#events.left(this, left ? [left] : [], reason);
  }
}
