// RecipeWorker: the handle of a worker of the Python recipe, which gets one descriptor with each byte and says little.
//
// `multiprocessing`: nothing comes back. Whether the worker has received a connection is asked of the kernel, which counts
// the unread bytes of the channel. When such a worker dies, the kernel reports ECONNRESET exactly if something was unread
// (unix_release_sock in net/unix/af_unix.c). With one connection in flight at a time, that shows whether the worker had
// received it.
// `raw`: each connection is answered by "OK".
import { setTimeout as startTimer } from 'node:timers';
import { setImmediate } from 'node:timers/promises';

import { PassfdError, type Descriptor, type Message, type StreamSocket } from '../../fd/index.js';
import { ProcessWatch, ReceiptWatch, type SocketDiagnostics } from '../../fd/internal.js';
import type { AcceptedConnection, Listener } from '../listener.js';
import type { RecipeWorkerState } from '../succession/worker-state.js';
import { HeldConnections } from './held-connections.js';
import { SlowCloses } from './slow-closes.js';
import { StallWatch } from './stall-watch.js';
import { whyLeft, type FrozenWorker, type WorkerEvents, type WorkerHandle } from './worker-handle.js';

/** The byte that a descriptor travels with: send_handle's count of one (Lib/multiprocessing/reduction.py), and "x". */
const BYTES = { multiprocessing: Uint8Array.of(1), raw: Buffer.from('x') } as const;

const OK = 'OK';

/**
 * Pauses between two questions to the kernel. It has no event for a connection that another process closes, and only Linux
 * has one for a byte that was received.
 */
const FIRST_POLL_MS = 1;
const LAST_POLL_MS = 50;

/** How long a worker gets nothing after a send to it failed. The kernel has no event for the end of such a failure. */
const UNSENT_PAUSE_MS = 100;

/** A worker gets nothing while more descriptors of its user are slow to close. */
const MAX_SLOW_CLOSES = 64;

type State = 'ready' | 'draining' | 'gone';

/** What a handle needs beside its socket. */
export interface RecipeWorkerOptions {
  readonly events: WorkerEvents;
  /** Undefined where the kernel cannot be asked what the worker has open. */
  readonly diagnostics: SocketDiagnostics | undefined;
  /** Connections that the worker may have open at a time. Undefined: no limit. */
  readonly concurrency: number | undefined;
}

export class RecipeWorker implements WorkerHandle {
  readonly id: number;
  readonly pid: number;
  readonly dialect: 'multiprocessing' | 'raw';
  readonly isHolding = false;
  readonly #socket: StreamSocket;
  readonly #events: WorkerEvents;
  readonly #concurrency: number | undefined;
  #state: State = 'ready';
  #inFlight: AcceptedConnection | undefined;
  /** Whether the kernel has the connection in flight. Until then nothing is unread because nothing was sent. */
  #isSent = false;
  /** The worker gets nothing until its end. */
  #pause: NodeJS.Timeout | undefined;
  /** Whether a failed send was reported, and none has succeeded since. */
  #isUnsendable = false;
  /** A part of an "OK" that was received. */
  #answer = '';
  #adopted = 0;
  #held: HeldConnections;
  #receipts: ReceiptWatch | undefined;
  #process: ProcessWatch | undefined;
  readonly #stallWatch: StallWatch;
  readonly #slowCloses: SlowCloses;
  /** User of the worker, who can make slow to close what was sent to it. */
  readonly #user: number;
  /** Whether the worker answers again, and `resumed` was not emitted yet. */
  #hasResumed = false;
  #poll: NodeJS.Timeout | undefined;
  #pollMs = FIRST_POLL_MS;

  /** Takes over the socket. */
  constructor(
    socket: StreamSocket,
    identity: { readonly id: number; readonly pid: number; readonly dialect: 'multiprocessing' | 'raw' },
    { events, diagnostics, concurrency }: RecipeWorkerOptions,
  ) {
    this.id = identity.id;
    this.pid = identity.pid;
    this.dialect = identity.dialect;
    this.#socket = socket;
    this.#events = events;
    this.#concurrency = concurrency;
    this.#held = new HeldConnections(diagnostics);
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

  /** Goes on with a worker of another dispatcher. The handle is frozen until `thaw`. */
  static restore(
    socket: StreamSocket,
    state: RecipeWorkerState,
    inFlight: AcceptedConnection | undefined,
    options: RecipeWorkerOptions,
  ): RecipeWorker {
    socket.freeze();
    const worker = new RecipeWorker(socket, state, options);
    worker.#state = state.state;
    worker.#adopted = state.adopted;
    worker.#answer = state.answer;
    worker.#held = new HeldConnections(options.diagnostics, state.held, state.hasOthers);
    inFlight?.descriptor.distrust(worker.#user);
    if (inFlight && !state.isSent) worker.give(inFlight);
    worker.#stopAsking();
    worker.#inFlight = inFlight;
    worker.#isSent = state.isSent;
    return worker;
  }

  /** Reads until the channel ends. Never rejects. */
  async run(): Promise<void> {
    let reason = 'its channel ended';
    /** Whether the connection in flight was never received. */
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
      else reason = whyLeft(error);
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
    return this.#held.count();
  }

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
    this.#held.review();
    return this.#held.size + this.inFlight;
  }

  get listens(): boolean {
    return this.#state === 'ready';
  }

  get isFull(): boolean {
    return this.#concurrency !== undefined && this.load >= this.#concurrency;
  }

  /** A worker without a declared limit may serve one client after the other. */
  get mayQueue(): boolean {
    if (this.#concurrency !== undefined || this.#held.size === 0) return false;
    this.#held.review();
    return this.#held.size > 0;
  }

  serves(listener: Listener): boolean {
    return this.#state === 'ready' && listener.isOwn;
  }

  /** One at a time, of the dispatcher's own addresses. */
  roomFor(listener: Listener): number {
    if (!this.serves(listener)) return 0;
    if (!this.#receipts) this.#lookWhetherReceived();
    if (this.#inFlight || this.#pause || this.#slowCloses.count > MAX_SLOW_CLOSES) return 0;
    return this.isFull ? 0 : 1;
  }

  give(connection: AcceptedConnection): void {
    connection.descriptor.distrust(this.#user);
    this.#inFlight = connection;
    this.#isSent = false;
    // O_NONBLOCK belongs to the open file, and a recipe worker reads as if it were clear. Another worker may have set it
    // before the connection came back.
    this.#socket
      .send(BYTES[this.dialect], [connection.descriptor], {
        blocking: true,
        kept: true,
        // The dialect has no positions. Should this process die, what was sent stays with this worker.
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
    // A poll that is due already may be too late for the receipt.
    this.#pollSoon();
  }

  /**
   * The connection goes to another worker, or waits. Without a pause it would come back at once, again and again. When the
   * worker is gone, its channel ends.
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
    // Sent already: the dialect has one message for each connection.
  }

  async freeze(): Promise<FrozenWorker> {
    if (!this.#socket.closed) this.#socket.freeze();
    this.#stopAsking();
    // What was received already waits behind a promise.
    await setImmediate();
    const snapshot: RecipeWorkerState = {
      dialect: this.dialect,
      id: this.id,
      pid: this.pid,
      state: this.state,
      adopted: this.#adopted,
      concurrency: Math.max(1, this.#held.size),
      held: [...this.#held.identities],
      hasOthers: this.#held.hasUnknown,
      answer: this.#answer,
      isSent: this.#isSent,
    };
    // Only the connection in flight can be unsent, and the next dispatcher sends it anew.
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
    // The worker receives what is in flight, and then the end of the stream: recv_handle raises EOFError.
    this.#socket.end().catch(() => undefined);
    this.#pollSoon();
  }

  end(): void {
    this.#socket.destroy();
  }

  #onMessage(message: Message): void {
    // What a multiprocessing worker says after its first object is not part of the recipe. It is ignored.
    if (this.dialect === 'multiprocessing') return;
    this.#answer += message.bytes.toString('latin1');
    while (this.#answer.startsWith(OK)) {
      this.#answer = this.#answer.slice(OK.length);
      if (!this.#inFlight) {
        throw new PassfdError('ERR_PROTOCOL', 'The worker answered a connection that it was not given');
      }
      this.#settle();
      this.#events.changed(this);
      this.#reportResumed();
    }
    if (!OK.startsWith(this.#answer)) {
      throw new PassfdError('ERR_PROTOCOL', 'The worker answered a connection with something other than OK');
    }
  }

  /**
   * A `multiprocessing` worker that lives has received a connection when nothing is unread. Emits no event but `adopted`: the
   * pool asks while it places connections.
   * @returns whether it was received now
   */
  #lookWhetherReceived(): boolean {
    if (!this.#inFlight || !this.#isSent || this.dialect === 'raw' || this.#socket.closed) return false;
    if (this.#socket.unreadBytes > 0) return false;
    // The queue of a dead worker is empty too. The kernel shows the end of the stream before it empties the queue.
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
      return Buffer.alloc(0); // the pending receive gets the same error
    }
  }

  #settle(): void {
    const connection = this.#inFlight;
    if (!connection) return;
    this.#inFlight = undefined;
    this.#held.add(connection.descriptor);
    this.#held.review();
    connection.descriptor.close();
    this.#adopted++;
    this.#events.adopted(1);
    this.#hasResumed ||= this.#stallWatch.resume();
  }

  /** Last of all, since a listener of the event may do anything to the dispatcher. */
  #reportResumed(): void {
    if (!this.#hasResumed) return;
    this.#hasResumed = false;
    this.#events.resumed(this);
  }

  /**
   * The worker has left a connection unread for long. It may be busy with the connections that it has open, or with those
   * that the kernel cannot be asked about. Otherwise it is stopped or stuck.
   */
  #onUnanswered(): void {
    this.#held.count();
    const mayBeBusy = this.#held.hasUnknown || (this.#concurrency === undefined && this.#held.size > 0);
    if (!mayBeBusy) {
      this.#events.stalled(this);
      return;
    }
    this.#stallWatch.resume();
    this.#stallWatch.stop();
    this.#stallWatch.start();
  }

  #watchReceipts(): void {
    if (this.dialect !== 'multiprocessing' || this.#socket.closed) return;
    this.#receipts ??= ReceiptWatch.start(this.#socket, () => {
      if (this.#lookWhetherReceived()) this.#events.changed(this);
      this.#reportResumed();
    });
  }

  /** The kernel gives 0 as the pid of a process in another container. */
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
   * Most often the channel has ended with the process. But a child that the process has forked holds the channel too, and
   * whether it reads from it cannot be known. So what is in flight stays there, and nothing more follows.
   */
  async #onProcessEnded(): Promise<void> {
    // What the process said last comes before the end.
    while (this.#process && this.#peek()?.length === 1) await setImmediate();
    if (!this.#process || this.#isOver()) return;
    this.#events.failed(
      new PassfdError(
        'ERR_PEER_GONE',
        `Process ${this.#socket.peer.pid} has ended, but another process, such as its child, holds its channel. ` +
          `Worker ${this.id} gets no more connections; ${this.inFlight} in flight to it wait until that process ends`,
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

  /** The worker may receive what is in flight, close a connection when it is full, or close its last one when it drains. */
  #pollLater(): void {
    this.#poll ??= startTimer(() => {
      this.#poll = undefined;
      this.#pollMs = Math.min(this.#pollMs * 2, LAST_POLL_MS);
      this.#lookWhetherReceived();
      this.#held.review();
      const isReady = this.#state === 'ready';
      if (this.#inFlight || (isReady ? this.isFull : this.#held.size > 0)) this.#pollLater();
      if (!this.#inFlight && (isReady || this.#held.size === 0)) this.#events.changed(this);
      this.#reportResumed();
    }, this.#pollMs);
  }

  #leave(reason: string, isUnread: boolean): void {
    if (this.#state === 'gone') return;
    this.#state = 'gone';
    this.#stopAsking();
    // A connection that was never sent was not received, however the worker ended.
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
