// Dispatcher: accepts connections, chooses a worker for each, and hands it off; runs no user code but a custom policy.
import { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';

import {
  Acceptor,
  closeAll,
  formatAddress,
  listen,
  PassfdError,
  StreamSocket,
  type Address,
  type Descriptor,
  type PeerCredentials,
} from '../fd/index.js';
import { ownAccount, SocketDiagnostics, type Unsent } from '../fd/internal.js';
import {
  callWorker,
  decodeIntroduction,
  hasOtherUser,
  isTrusted,
  DEFAULT_READY_TIMEOUT_MS,
  MAX_HELLO_BYTES,
  RETURN_TIMEOUT_MS,
  traceStep,
  type WorkerHello,
} from '../handoff/index.js';
import { Connection } from '../multiprocessing/index.js';
import { AcceptedConnection, type Listener, type FormerListener } from './listener.js';
import { Bequest } from './bequest.js';
import { systemClock, type Clock } from './clock.js';
import { checkPeer, Control, modeFor, turnAway, type ControlOptions, type Joined } from './control.js';
import { Listeners, type OfferedSocket, type OwnAddress } from './listeners.js';
import type { PassfdWorkerEvents, PassfdWorkerHost } from './workers/passfd-worker-host.js';
import { PassfdWorker } from './workers/passfd-worker.js';
import { createPolicy, isolated, type Policy, type PolicyName } from './policy.js';
import { Pool, type Overload } from './pool.js';
import { RecipeWorker, type RecipeWorkerOptions } from './workers/recipe-worker.js';
import { JOINED_LIMITS, Quota } from './quota.js';
import { SharedTickets } from './shared-tickets.js';
import { AwaitedWorkers, type AwaitedWorker } from './awaited-workers.js';
import {
  descriptorsOf,
  type ConnectionSnapshot,
  type Snapshot,
  type SocketSnapshot,
  type WorkerSnapshot,
} from './succession/snapshot.js';
import { describeStatus, type Status } from './status.js';
import { Vacancies, type VacanciesOwner } from './vacancies.js';
import { version } from './version.js';
import type { Dialect, FrozenWorker, WorkerHandle, WorkerView } from './workers/worker-handle.js';

export interface DispatcherOptions {
  /** The rule that chooses the worker: `round-robin` unless it is given. */
  readonly policy?: PolicyName | Policy;
  /** When no worker has room: let clients wait in the kernel's backlog, or accept and close them. */
  readonly overload?: Overload;
  /** Connections that wait in the kernel at most, for each of the dispatcher's own addresses. */
  readonly backlog?: number;
  /**
   * Connections that a worker of the recipe may have open at a time, where the kernel can be asked (Linux). Default: no limit; a
   * worker that has connections open gets another one when no other worker is free, or when all others have 16 or more.
   * `Dispatcher` throws a `TypeError` for anything but a positive integer.
   */
  readonly recipeConcurrency?: number;
  /**
   * Whether what was accepted and not handed off goes to the workers should this process die, even by `kill -9`: see
   * `LastWill`, of which a process has one. Where the system cannot do that, such connections are lost.
   */
  readonly lastWill?: boolean;
  /**
   * How long an address that workers have asked for stays open when none serves it any more, and another one may come: 30 s
   * unless it is given.
   */
  readonly readyTimeoutMs?: number;
}

export interface DispatcherEvents {
  joined: [worker: WorkerView];
  ready: [worker: WorkerView];
  /** It has come back from a dispatcher that died, with what it had kept. */
  returned: [worker: WorkerView];
  /** It serves other addresses than before. */
  serving: [worker: WorkerView];
  draining: [worker: WorkerView];
  /** Something is in flight to it, and it does not answer: it gets nothing new until it does. */
  stalled: [worker: WorkerView];
  /** It answers again. */
  resumed: [worker: WorkerView];
  left: [worker: WorkerView, how: { readonly redelivered: number; readonly reason: string }];
  /** @param socket the listening socket, lent, and whether another process has made it */
  listening: [address: Address, socket: { readonly fd: number; readonly isInherited: boolean }];
  unlistened: [address: Address];
  /** Somebody had removed the file of a Unix socket, and another socket is there now, in place of that one. */
  relistened: [address: Address, socket: { readonly fd: number }];
  /**
   * No worker serves the address any more, so it is being closed; `unlistened` follows.
   * @param how whether a worker was expected there, and none came in time
   */
  released: [address: Address, how: { readonly isLate: boolean }];
  /** A peer of the control socket was not let in, or broke the protocol. */
  peerRefused: [error: PassfdError];
  /** Connections were closed without a worker. */
  refused: [what: { readonly count: number; readonly reason: string }];
  /** A worker has no descriptor left; its connections went elsewhere. */
  starved: [worker: WorkerView];
  /** Something failed that stops no connection; the message says what. */
  warned: [error: unknown];
}

/** Time that connections which wait have to find a worker when the dispatcher stops. */
const STOP_TIMEOUT_MS = 5_000;

/** Raw workers that are let in at a time, before anything else has its turn. */
const RAW_WORKERS_AT_ONCE = 16;

/** Most rounds in which a backlog is emptied at the end: new clients may come as fast as they are taken. */
const LAST_ROUNDS = 16;

/** Pause before a worker is called again that did not answer: it may be stopped. */
const CALL_AGAIN_MS = 1_000;

export interface OpenControlOptions extends ControlOptions {
  /**
   * Workers of a dispatcher that died, which are expected to come back: until one has, with the listening sockets, nobody
   * else is let in as a worker, and `prepare` waits.
   */
  readonly awaited?: readonly AwaitedWorker[];
  /** Runs when the path is taken, and before anybody new is let in: workers ask once for the addresses that there are. */
  readonly prepare?: () => Promise<void>;
}

export interface DrainOptions {
  /** Ends the waiting; a drain that has begun goes on. When it is aborted already, none begins. */
  readonly signal?: AbortSignal | undefined;
}

export interface StopOptions {
  /** 5 s unless it is given. */
  readonly timeoutMs?: number;
  /** Whether the listening sockets live on with somebody else, for the next dispatcher: then they are closed here only. */
  readonly isKept?: boolean;
}

/** A process that was started by who has the dispatcher. */
export interface ChildIdentity {
  /** Its slot. */
  readonly id: number;
  readonly pid: number;
}

export class Dispatcher extends EventEmitter<DispatcherEvents> implements AsyncDisposable {
  readonly #options: DispatcherOptions;
  readonly #pool: Pool;
  readonly #listeners: Listeners;
  readonly #diagnostics = SocketDiagnostics.open();
  readonly #startedAt = performance.now();
  /** Whom to tell when a worker that drains has nothing open any more. */
  readonly #drains = new Map<WorkerHandle, Set<() => void>>();
  readonly #runs = new Set<Promise<void>>();
  /** Workers, and the sockets of those that are not welcomed yet. */
  readonly #joined = new Quota<WorkerHandle | StreamSocket>(JOINED_LIMITS);
  /** Channels of children that have not said anything yet. */
  readonly #silentChildren = new Map<StreamSocket, ChildIdentity>();
  readonly #awaited = new AwaitedWorkers();
  readonly #vacancies: Vacancies;
  readonly #bequest: Bequest;
  readonly #tickets: SharedTickets;
  /** Settled when workers that are new may ask for the addresses that there are. */
  #prepared: Promise<void> = Promise.resolve();
  #isPreparing = false;
  /** Settled when no socket is being opened anew. */
  #restoring: Promise<void> = Promise.resolve();
  /** What there is, or is just being opened. */
  readonly #taken = new Set<'control socket' | 'raw control socket'>();
  #control: Control | undefined;
  #rawControl: Acceptor | undefined;
  #rawOptions: ControlOptions = {};
  /** Which incarnation of the dispatcher this is. */
  #generation = 1;
  #firstId = 1;
  /** See `expectChildren`. */
  #expectedChildren = 0;
  #refusedPeers = 0;
  #isFrozen = false;
  #closing: Promise<void> | undefined;

  constructor(options: DispatcherOptions = {}, clock: Clock = systemClock) {
    super();
    const { policy = 'round-robin', overload = 'wait', recipeConcurrency = 1 } = options;
    if (!Number.isSafeInteger(recipeConcurrency) || recipeConcurrency < 1) {
      throw new TypeError(`recipeConcurrency must be a positive integer, not ${recipeConcurrency}`);
    }
    this.#options = options;
    const create = typeof policy === 'string' ? () => createPolicy(policy) : () => isolated(policy);
    this.#pool = new Pool(create, overload, {
      refused: (count, reason) => this.emit('refused', { count, reason }),
      policyFailed: (error) => this.emit('warned', error),
    });
    this.#listeners = new Listeners({
      opened: (listener) => {
        this.#onOpened(listener);
      },
      stranded: (listener, acceptor) => {
        this.#acceptBacklog(listener, acceptor);
      },
      exchanged: (listener) => {
        this.#onExchanged(listener);
      },
      closing: (listener) => {
        this.#onClosing(listener);
      },
      closed: (address) => this.emit('unlistened', address),
      refusedPeer: (error) => {
        this.#refusePeer(error);
      },
      warned: (error) => this.emit('warned', error),
    });
    this.#vacancies = new Vacancies(
      options.readyTimeoutMs ?? DEFAULT_READY_TIMEOUT_MS,
      this.#vacanciesOwner(),
    );
    this.#tickets = new SharedTickets(clock, (listener, tickets) => {
      for (const worker of this.#pool.workers) {
        if (worker instanceof PassfdWorker) worker.changeTickets(listener, tickets);
      }
    });
    this.#bequest = new Bequest(
      () => ({
        closedFirst: [this.#control?.acceptor, this.#rawControl].filter((acceptor) => acceptor !== undefined),
        listeners: this.#listeners,
        workers: this.#pool.workers,
      }),
      (error) => this.emit('warned', error),
    );
  }

  /**
   * Accepts at an address of the dispatcher's own, for all workers that serve.
   * @throws {PassfdError} as `listen` of `passfd`; `ERR_CLOSED`, also when this is closed meanwhile
   */
  async listen(address: OwnAddress): Promise<Address> {
    const listener = await this.#open(
      () => this.#listeners.openOwn(address, this.#options.backlog),
      (opened) => this.#listeners.close(opened),
    );
    return listener.address;
  }

  /**
   * Listening sockets that somebody else has kept for workers that ask for their addresses, until `closeOffered`. Takes
   * them over. @throws {PassfdError} `ERR_WRONG_KIND`, `ERR_CLOSED`
   */
  async offer(sockets: readonly OfferedSocket[]): Promise<void> {
    await this.#open(
      () => this.#listeners.offer(sockets),
      () => this.#listeners.closeOffered(),
    );
  }

  /** Nobody asks for them any more: those that are not inherited are ended. */
  async closeOffered(): Promise<void> {
    await this.#listeners.endOffered();
  }

  /**
   * Lets workers and commands connect at a path.
   * @throws {PassfdError} `ERR_ADDRESS_IN_USE` names who is there; `ERR_ALREADY_OPEN` when there is one already, `ERR_CLOSED`
   */
  async openControl(path: string, options: OpenControlOptions = {}): Promise<void> {
    const { awaited = [], prepare } = options;
    const control = await this.#openOnly(
      'control socket',
      () => Control.open(path, this.#withCommands(options)),
      (opened) => {
        this.#useControl(opened);
      },
    );
    traceStep('control-opened');
    this.#openWill();
    if (awaited.length === 0) await prepare?.();
    else await (this.#prepared = this.#prepareFor(control, awaited, prepare));
    control.start();
  }

  /**
   * Lets raw workers connect at a path: each gets `x` with one descriptor, and answers `OK`.
   * @throws {PassfdError} as `openControl`
   */
  async openRawControl(path: string, options: ControlOptions = {}): Promise<void> {
    await this.#openOnly(
      'raw control socket',
      () => listen(path, { mode: modeFor(options) }),
      (opened) => {
        this.#useRawControl(opened, options);
      },
    );
  }

  /**
   * Adds a worker that inherited the other end of a socket pair. It needs no key, and may begin to speak whenever it is
   * ready to.
   * @param child its slot and its process
   */
  addChild(socket: StreamSocket, child: ChildIdentity): void {
    if (this.#closing) socket.destroy();
    else this.#track(this.#hearChild(socket, child));
  }

  /** So many children are to be started, or to be ready, in place of others: they may serve what nobody serves now. */
  expectChildren(count: number): void {
    if (count === this.#expectedChildren) return;
    this.#expectedChildren = count;
    this.#vacancies.review();
  }

  /**
   * Of a worker that has ended, and is followed by another one: opens what it had served and closed again, so that clients
   * wait for that one. Does nothing where somebody has the address by now.
   */
  reopen(view: WorkerView): void {
    if (!(view instanceof PassfdWorker) || this.#isFrozen || this.#closing) return;
    for (const former of view.subscriptions.givenBack) {
      if (!isNamedAfter(former.address, view.pid)) this.#track(this.#reopen(view, former));
    }
  }

  /** Ids up to `count` belong to children; workers that join on their own get higher ones. */
  reserveIds(count: number): void {
    this.#firstId = count + 1;
  }

  get workers(): readonly WorkerView[] {
    return this.#pool.workers;
  }

  /**
   * Addresses that a worker serves, or served when it left, and that another one does not serve: what clients would miss if
   * the other one took its place. Not those that are closed by now, nor a socket file that is named after the process of
   * the worker, since nobody else can have that name. An address that the worker has closed counts as served when the
   * worker has closed all of them, since it is ending then, and when the address is kept open for the next process.
   * @param last the worker before it in the same place, if there was one: what that left, and what is kept open for the
   * next process, counts too, since the worker may be about to serve it
   */
  missing(other: WorkerView, worker: WorkerView, last?: WorkerView): Address[] {
    if (!(worker instanceof PassfdWorker)) return [];
    const open = worker.subscriptions.serving.filter((listener) => this.#listeners.has(listener));
    const givenBack = worker.subscriptions.givenBack.filter(
      (former) => worker.subscriptions.hasClosedAll || this.#isVacant(former),
    );
    const kept = last instanceof PassfdWorker ? this.#keptOf(last) : [];
    const needed = new Map([...open, ...givenBack, ...kept].map((former) => [former.key, former]));
    return [...needed.values()]
      .filter((former) => !this.#isPrivate(former, worker))
      .filter((former) => {
        const listener = this.#listeners.at(former);
        return !(listener && other instanceof PassfdWorker && other.isServing(listener));
      })
      .map(({ address }) => address);
  }

  status(): Status {
    return describeStatus(
      {
        version,
        pid: process.pid,
        generation: this.#generation,
        uptimeMs: Math.round(performance.now() - this.#startedAt),
      },
      this.#listeners,
      this.#pool,
      this.#refusedPeers,
    );
  }

  /**
   * Gives a worker nothing new, and resolves when it has nothing open any more, or has left.
   * @throws {PassfdError} `ERR_NO_WORKER` when there is no such worker; the reason of the signal
   */
  drainWorker(id: number, options: DrainOptions = {}): Promise<void> {
    const worker =
      this.#pool.workers.find((candidate) => candidate.id === id && candidate.state !== 'draining') ??
      this.#pool.workers.find((candidate) => candidate.id === id);
    if (!worker) {
      const known = this.#pool.workers.map((each) => each.id).join(', ') || 'none';
      return Promise.reject(
        new PassfdError('ERR_NO_WORKER', `There is no worker ${id} here; these are: ${known}`),
      );
    }
    return this.drain(worker, options);
  }

  /** As `drainWorker`, of exactly this one: while a worker is replaced, two have the same id. */
  drain(view: WorkerView, { signal }: DrainOptions = {}): Promise<void> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const worker = this.#pool.workers.find((candidate) => candidate === view);
      if (!worker) {
        resolve();
        return;
      }
      worker.drain();
      const waiting = this.#drains.get(worker) ?? new Set();
      this.#drains.set(worker, waiting);
      const abort = (): void => {
        waiting.delete(end);
        reject(signal?.reason);
      };
      const end = (): void => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      waiting.add(end);
      signal?.addEventListener('abort', abort, { once: true });
      this.#noteDrained(worker);
    });
  }

  /** Takes what waits in the backlogs, closes the listening sockets, and resolves when all of it has found a worker. */
  async stopAccepting({ timeoutMs = STOP_TIMEOUT_MS, isKept = false }: StopOptions = {}): Promise<void> {
    for (const listener of [...this.#listeners]) {
      this.#takeBacklog(listener);
      await (isKept ? this.#listeners.close(listener) : this.#listeners.end(listener));
    }
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([this.#pool.emptied(), timeout]);
    clearTimeout(timer);
  }

  /**
   * Neither accepts, sends nor hears anything until `thaw`, or until it is `disown`ed. Who connects meanwhile waits in the
   * kernel.
   * @returns what another process needs to go on from here, and how to free what was made for that
   * @throws {PassfdError} `ERR_BUSY` when it cannot be frozen at this moment, `ERR_DESCRIPTOR_LIMIT`; then it goes on
   */
  async freeze(): Promise<{ readonly snapshot: Snapshot; readonly release: () => void }> {
    const duplicates: Descriptor[] = [];
    const release = (): void => {
      closeAll(duplicates);
    };
    this.#isFrozen = true;
    this.#vacancies.pause();
    this.#tickets.freeze();
    try {
      return { snapshot: await this.#freeze(duplicates), release };
    } catch (error) {
      release();
      this.thaw();
      throw error;
    }
  }

  /**
   * Another process may go on with all of it from here on: should this one die, it has nothing to leave. `thaw` takes
   * that back.
   */
  renounce(): void {
    this.#bequest.revoke();
  }

  /** Goes on after `freeze`, or begins after `restore`. */
  thaw(): void {
    this.#isFrozen = false;
    this.#tickets.thaw();
    this.#openWill();
    for (const worker of this.#pool.workers) worker.thaw();
    for (const socket of this.#silentChildren.keys()) socket.thaw();
    this.#pool.thaw();
    this.#rawControl?.resume();
    this.#control?.thaw();
    this.#control?.start();
    this.#vacancies.resume();
    // Where another generation had lost a worker, nobody knows when.
    this.#vacancies.note(this.#listeners, true);
  }

  /**
   * Takes over what another generation had, and does nothing with it until `thaw`.
   * @param snapshot its descriptors are this object's own from here on, also when it throws
   * @throws {PassfdError} `ERR_WRONG_KIND`, `ERR_SYSTEM`
   */
  async restore(snapshot: Snapshot, options: ControlOptions): Promise<void> {
    this.#isFrozen = true;
    this.#tickets.freeze();
    this.#pool.freeze();
    const { refusedPeers, ...counts } = snapshot.counts;
    try {
      this.#generation = snapshot.generation + 1;
      this.#refusedPeers = refusedPeers;
      for (const { tickets, ...listening } of snapshot.listeners) {
        const listener = await this.#listeners.restore(listening);
        if (tickets) this.#tickets.restore(listener, tickets);
      }
      await this.#listeners.offer(snapshot.offered);
      const listeners = new Map(Array.from(this.#listeners, (listener) => [listener.id, listener]));
      for (const worker of snapshot.workers) this.#restoreWorker(worker, listeners);
      for (const { channel, ...child } of snapshot.silentChildren) {
        this.addChild(new StreamSocket(channel), child);
      }
      this.#pool.restore(connectionsOf(snapshot.waiting, listeners), counts);
      const { control, rawControl } = snapshot;
      if (control) {
        const acceptor = await Acceptor.inherit(control.descriptor, control);
        this.#useControl(await Control.open(acceptor, this.#withCommands(options)));
      }
      if (rawControl) {
        this.#useRawControl(await Acceptor.inherit(rawControl.descriptor, rawControl), options);
      }
    } catch (error) {
      closeAll([...descriptorsOf(snapshot)]);
      throw error;
    }
  }

  /** Another process goes on with all of it: closes what this one has, and tells nobody. */
  async disown(): Promise<void> {
    this.#closing = Promise.resolve();
    this.#vacancies.pause();
    this.#tickets.freeze();
    this.renounce();
    this.#awaited.close();
    for (const worker of this.#pool.workers) worker.disown();
    for (const socket of this.#silentChildren.keys()) socket.destroy();
    this.#pool.disown();
    for (const { acceptor } of [...this.#listeners, ...this.#listeners.offered]) acceptor.release().close();
    if (this.#rawControl?.closed === false) this.#rawControl.release().close();
    await this.#control?.abandon();
    this.#diagnostics?.close();
  }

  /**
   * Looks for the files of Unix sockets, and opens those anew whose file somebody has removed: the control sockets, and
   * listening sockets that were opened here or for workers.
   * @throws {PassfdError} as `listen`; its message names all that fail. The others are opened all the same
   */
  async restoreFiles(): Promise<void> {
    // The next generation looks.
    if (this.#isFrozen || this.#closing) return;
    const restoring = this.#restoreFiles();
    // How it ends is for the caller.
    this.#restoring = restoring.catch(ignore);
    await restoring;
  }

  async #restoreFiles(): Promise<void> {
    await this.#restoring;
    const restored = await Promise.allSettled([
      this.#restoreControl(),
      this.#restoreRawControl(),
      ...Array.from(this.#listeners, (listener) => this.#listeners.restoreFile(listener)),
      // Where no descriptor was free for who waits at one of these.
      this.#isPreparing || this.#listeners.closeReturned(),
    ]);
    const errors = restored.flatMap((result) =>
      result.status === 'rejected' ? [result.reason as unknown] : [],
    );
    if (errors.length > 0) throw asOne(errors);
  }

  async #restoreControl(): Promise<void> {
    const control = await this.#control?.restoreFile();
    if (!control) return;
    this.#bequest.closeFirst(control);
    this.emit('relistened', control.address, { fd: control.fd });
  }

  async #restoreRawControl(): Promise<void> {
    const before = this.#rawControl;
    if (!before || !('path' in before.address) || (await before.isReachable())) return;
    const fresh = await listen(before.address, { mode: modeFor(this.#rawOptions) });
    let waiting;
    try {
      if (!before.closed) waiting = before.acceptNow();
    } finally {
      if (!waiting) await fresh.close();
    }
    if (!waiting) return;
    const options = this.#rawOptions;
    this.#useRawControl(fresh, options);
    for (const descriptor of waiting) this.#takeRaw(descriptor, options);
    await before.close();
    this.emit('relistened', fresh.address, { fd: fresh.fd });
  }

  /** Frees everything. Workers see their channels end, and keep what they have adopted. A second call does nothing. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    this.#vacancies.pause();
    this.renounce();
    this.#awaited.close();
    await this.#control?.close();
    await this.#rawControl?.close();
    await this.#closeListeners();
    for (const worker of this.#pool.workers) worker.end();
    for (const socket of this.#silentChildren.keys()) socket.destroy();
    await Promise.allSettled(this.#runs);
    // A worker may have been in the middle of being given one.
    await this.#closeListeners();
    this.#pool.destroy('the dispatcher is closed');
    this.#diagnostics?.close();
  }

  async #closeListeners(): Promise<void> {
    for (const listener of [...this.#listeners]) await this.#listeners.close(listener);
    await this.#listeners.closeReturned();
    await this.#listeners.closeOffered();
  }

  /**
   * Opens something, unless this is closed before or meanwhile: then it is closed again, and `close` waits for that.
   * @throws {PassfdError} `ERR_CLOSED`
   */
  #open<T>(
    open: () => Promise<T>,
    close: (opened: T) => Promise<void>,
    keep?: (opened: T) => void,
  ): Promise<T> {
    const run = async (): Promise<T> => {
      this.#checkOpen();
      const opened = await open();
      try {
        this.#checkOpen();
      } catch (error) {
        await close(opened);
        throw error;
      }
      keep?.(opened);
      return opened;
    };
    const opening = run();
    // How it ends is for the caller.
    this.#track(opening.then(ignore, ignore));
    return opening;
  }

  #checkOpen(): void {
    if (this.#closing) throw new PassfdError('ERR_CLOSED', 'The dispatcher is closed');
  }

  /** The same of what there is one of. @throws {PassfdError} `ERR_ALREADY_OPEN` */
  async #openOnly<T extends Control | Acceptor>(
    what: 'control socket' | 'raw control socket',
    open: () => Promise<T>,
    keep: (opened: T) => void,
  ): Promise<T> {
    if (this.#taken.has(what)) {
      throw new PassfdError('ERR_ALREADY_OPEN', `This dispatcher has a ${what} already`);
    }
    this.#taken.add(what);
    try {
      return await this.#open(open, (opened) => opened.close(), keep);
    } catch (error) {
      this.#taken.delete(what);
      throw error;
    }
  }

  #track(run: Promise<void>): void {
    this.#runs.add(run);
    run
      .catch((error: unknown) => this.emit('warned', error))
      .finally(() => this.#runs.delete(run))
      .catch(() => undefined);
  }

  #withCommands(options: ControlOptions): ControlOptions {
    return {
      ...options,
      commands: {
        status: () => Promise.resolve(this.status()),
        // The number was checked where it came in.
        drain: ({ worker }, _progress, signal) => this.drainWorker(worker as number, { signal }),
        ...options.commands,
      },
    };
  }

  #useControl(control: Control): void {
    this.#taken.add('control socket');
    this.#control = control;
    this.#bequest.closeFirst(control.acceptor);
    control.on('worker', (joined, hello) => {
      this.#track(this.#admit(joined, hello));
    });
    control.on('multiprocessingWorker', (joined, pid) => {
      this.#joinRecipe(joined, pid, 'multiprocessing');
    });
    control.on('refused', (error) => {
      this.#refusePeer(error);
    });
    control.on('warned', (error) => this.emit('warned', error));
  }

  #useRawControl(acceptor: Acceptor, options: ControlOptions): void {
    this.#taken.add('raw control socket');
    this.#rawControl = acceptor;
    this.#rawOptions = options;
    this.#bequest.closeFirst(acceptor);
    acceptor.distrustPeers((error) => {
      this.#refusePeer(error);
    });
    acceptor.feed({
      room: () => (this.#isFrozen ? 0 : RAW_WORKERS_AT_ONCE),
      take: (descriptors) => {
        for (const descriptor of descriptors) this.#takeRaw(descriptor, options);
      },
      failed: (error, isRepeated) => {
        if (!isRepeated) this.emit('warned', error);
      },
    });
  }

  /** Takes back what a dispatcher that died has left with its workers, before anything is opened anew. */
  async #prepareFor(
    control: Control,
    awaited: readonly AwaitedWorker[],
    prepare: (() => Promise<void>) | undefined,
  ): Promise<void> {
    const returned = this.#awaited.any(awaited, RETURN_TIMEOUT_MS);
    this.#isPreparing = true;
    control.start();
    for (const { pid } of awaited) this.#track(this.#callBack(control, pid));
    try {
      await returned;
      await prepare?.();
      await this.#listeners.closeReturned();
      traceStep('prepared');
    } finally {
      this.#isPreparing = false;
    }
  }

  /** With all that is there by now. */
  #openWill(): void {
    if (this.#options.lastWill === true) this.#bequest.open();
  }

  #onOpened(listener: Listener): void {
    this.#bequest.addListener(listener);
    if (!this.#isFrozen && !this.#closing) this.#openWill();
    this.#pool.open(listener, (error) => this.emit('warned', error));
    for (const worker of this.#pool.workers) this.#entrust(worker, listener);
    const { address, isInherited, acceptor } = listener;
    this.emit('listening', address, { fd: acceptor.fd, isInherited });
  }

  #onExchanged(listener: Listener): void {
    this.#pool.close(listener);
    this.#pool.open(listener, (error) => this.emit('warned', error));
    // In place of what they had kept.
    for (const worker of this.#pool.workers) this.#entrust(worker, listener);
    this.emit('relistened', listener.address, { fd: listener.acceptor.fd });
  }

  #onClosing(listener: Listener): void {
    this.#vacancies.delete(listener);
    this.#tickets.forget(listener);
    this.#pool.close(listener);
    for (const worker of this.#pool.workers) {
      if (worker instanceof PassfdWorker) worker.custodian.relieve(listener);
    }
  }

  /** Should this process die, the listening socket lives on there. */
  #entrust(worker: WorkerHandle, listener: Listener): void {
    if (!(worker instanceof PassfdWorker)) return;
    try {
      worker.custodian.entrust(listener);
    } catch (error) {
      // No descriptor is left for the duplicate: other workers have it.
      this.emit('warned', error);
    }
  }

  /** Of those who are awaited, one that the control socket may not let in, since it has become another user. */
  async #callBack(control: Control, pid: number): Promise<void> {
    const { closed } = this.#awaited;
    while (this.#awaited.isAwaited(pid)) {
      if (hasOtherUser(pid)) {
        const socket = await callWorker(pid, closed).catch(() => undefined);
        // Nobody is let in meanwhile.
        if (this.#isFrozen) socket?.discard();
        else if (socket && (await control.hear(socket))) return;
      }
      await sleep(CALL_AGAIN_MS, undefined, { ref: false, signal: closed }).catch(ignore);
    }
  }

  #takeBacklog(listener: Listener): void {
    try {
      this.#acceptBacklog(listener);
    } catch (error) {
      this.emit('warned', error);
    }
  }

  /** @throws {PassfdError} as `Acceptor.acceptNow`; what it had taken by then is placed */
  #acceptBacklog(listener: Listener, acceptor = listener.acceptor): void {
    for (let round = 0; round < LAST_ROUNDS; round++) {
      const descriptors = acceptor.acceptNow();
      if (descriptors.length === 0) return;
      this.#pool.take(listener, descriptors);
    }
  }

  /** One that is new waits until everything is there that it may ask for. */
  async #admit({ socket, peer }: Joined, hello: WorkerHello): Promise<void> {
    const waits = !hello.returns && this.#isPreparing;
    if (waits && !(await this.#awaitPrepared({ socket, peer }))) return;
    // From here on its worker has the place.
    this.#joined.delete(socket);
    if (this.#closing) {
      socket.discard();
      return;
    }
    const awaitedId = this.#awaited.idOf(peer.pid);
    const create = (): PassfdWorker =>
      PassfdWorker.welcome(
        socket,
        hello,
        {
          id: awaitedId ?? this.#slotOf(peer, hello) ?? this.#freeId(hello.returns?.id),
          pid: peer.pid,
          serves: this.#servesOwn,
          isTrusted: isTrusted(peer),
        },
        this.#workerEvents(),
        this.#hostFor(isTrusted(peer)),
      );
    // One that comes back has connections open, and had its place with the dispatcher before; maybe as a child.
    const hasPlace = waits || (hello.returns !== undefined && (awaitedId !== undefined || isTrusted(peer)));
    if (hasPlace) this.#add({ socket, peer }, create());
    else this.#letIn({ socket, peer }, 'passfd', create);
  }

  /**
   * Waits until everything is there that a new worker may ask for. Its socket takes the place of a worker meanwhile.
   * @returns false when there is no place, or it has hung up by then
   */
  async #awaitPrepared({ socket, peer }: Joined): Promise<boolean> {
    try {
      this.#joined.check(peer, descriptorsFor('passfd'));
    } catch (error) {
      this.#turnAway(socket, error);
      return false;
    }
    this.#joined.add(socket, peer, descriptorsFor('passfd'));
    const prepared = new AbortController();
    const isPrepared = this.#prepared.catch(ignore).then(() => true);
    const isThere = await Promise.race([isPrepared, untilEnd(socket, prepared.signal).then(() => false)]);
    prepared.abort();
    if (isThere) return true;
    this.#joined.delete(socket);
    socket.discard();
    return false;
  }

  /** One that has come by a control socket, if there is a place for it. */
  #letIn(joined: Joined, dialect: Dialect, create: () => PassfdWorker | RecipeWorker): void {
    try {
      this.#joined.check(joined.peer, descriptorsFor(dialect));
    } catch (error) {
      this.#turnAway(joined.socket, error);
      return;
    }
    this.#add(joined, create());
  }

  #add({ peer }: Joined, worker: PassfdWorker | RecipeWorker): void {
    this.#joined.add(worker, peer, descriptorsFor(worker.dialect));
    this.#join(worker);
  }

  #turnAway(socket: StreamSocket, error: unknown): void {
    const refusal = turnAway(socket, error);
    this.#control?.acceptor.resume();
    if (refusal) this.#refusePeer(refusal);
  }

  /** Whether it is open, and waits for a worker that serves it. */
  /** What a worker has left that is kept open for the next process. */
  #keptOf(worker: PassfdWorker): FormerListener[] {
    return [...worker.subscriptions.serving, ...worker.subscriptions.givenBack].filter(
      (former) => this.#isVacant(former) && !this.#isPrivate(former, worker),
    );
  }

  #isVacant(former: FormerListener): boolean {
    const listener = this.#listeners.at(former);
    return listener !== undefined && this.#vacancies.has(listener);
  }

  /** Whether no other process can be meant to serve it. */
  #isPrivate(former: FormerListener, worker: PassfdWorker): boolean {
    if (!isNamedAfter(former.address, worker.pid)) return false;
    const listener = this.#listeners.at(former);
    if (!listener) return true;
    return !(
      listener.isOwn ||
      this.#pool.workers.some(
        (other) =>
          other !== worker && other instanceof PassfdWorker && other.subscriptions.includes(listener),
      )
    );
  }

  get #servesOwn(): boolean {
    return this.#listeners.own.length > 0;
  }

  /** Of one that was a child of a dispatcher that died: its supervisor gives it its place, or ends it. */
  #slotOf(peer: PeerCredentials, { returns }: WorkerHello): number | undefined {
    const slot = returns?.child?.slot;
    return slot !== undefined && slot < this.#firstId && isTrusted(peer) ? slot : undefined;
  }

  /** @param wanted which it had before, for one that is no child */
  #freeId(wanted = 0): number {
    const taken = new Set(this.#pool.workers.map(({ id }) => id));
    let id = this.#firstId;
    if (wanted > id) id = taken.has(wanted) ? id : wanted;
    while (taken.has(id)) id++;
    return id;
  }

  #join(worker: PassfdWorker | RecipeWorker): void {
    this.#pool.add(worker);
    this.emit('joined', worker);
    for (const listener of this.#listeners) this.#entrust(worker, listener);
    if (worker instanceof RecipeWorker) {
      this.emit('ready', worker);
      this.#pool.update();
    }
    this.#track(worker.run());
  }

  #joinRecipe(joined: Joined, pid: number, dialect: 'multiprocessing' | 'raw'): void {
    this.#letIn(joined, dialect, () => {
      const identity = { id: this.#freeId(), pid, dialect };
      return new RecipeWorker(joined.socket, identity, this.#recipeWorkerOptions());
    });
  }

  #takeRaw(descriptor: Descriptor, options: ControlOptions): void {
    const socket = new StreamSocket(descriptor);
    try {
      const { peer } = socket;
      checkPeer(peer, options);
      this.#joinRecipe({ socket, peer }, peer.pid, 'raw');
    } catch (error) {
      socket.discard();
      if (!(error instanceof PassfdError)) throw error;
      this.#refusePeer(error);
    }
  }

  /** A child that never speaks is no worker, and its channel ends when it does. */
  async #hearChild(socket: StreamSocket, child: ChildIdentity): Promise<void> {
    const connection = new Connection(socket);
    this.#silentChildren.set(socket, child);
    if (this.#isFrozen) socket.freeze();
    try {
      const introduction = decodeIntroduction(await connection.recvBytes(MAX_HELLO_BYTES));
      if (introduction.dialect !== 'passfd' || introduction.hello.role !== 'worker') {
        throw new PassfdError('ERR_HELLO', `Worker ${child.id} said something else than a worker's hello`);
      }
      const { hello } = introduction;
      this.#join(
        PassfdWorker.welcome(
          socket,
          hello,
          { ...child, serves: this.#servesOwn, isTrusted: true },
          this.#workerEvents(),
          this.#hostFor(true),
        ),
      );
    } catch (error) {
      this.#turnAway(socket, error);
    } finally {
      this.#silentChildren.delete(socket);
      this.#vacancies.review();
    }
  }

  #refusePeer(error: PassfdError): void {
    this.#refusedPeers++;
    this.emit('peerRefused', error);
  }

  #recipeWorkerOptions(): RecipeWorkerOptions {
    return {
      events: this.#workerEvents(),
      diagnostics: this.#diagnostics,
      concurrency: this.#options.recipeConcurrency,
    };
  }

  #workerEvents(): PassfdWorkerEvents {
    return {
      ready: (worker) => {
        this.#bequest.setWorker(worker);
        this.emit('ready', worker);
        this.#pool.update();
        this.#vacancies.review();
      },
      changed: (worker) => {
        this.#noteDrained(worker);
        this.#pool.update();
      },
      subscribed: (worker) => {
        this.#bequest.setWorker(worker);
      },
      serving: (worker) => {
        this.emit('serving', worker);
        this.#vacancies.review();
      },
      leaving: (worker, listeners) => {
        this.#vacancies.note(listeners, !worker.isTakenOut);
      },
      adopted: (count) => {
        this.#pool.counts.adopted += count;
      },
      refused: (worker, connections, reason) => {
        this.#bequest.takeBack(connections);
        if (reason === 'descriptors') this.emit('starved', worker);
        this.#pool.takeBack(connections);
        this.#noteDrained(worker);
      },
      draining: (worker) => {
        this.#bequest.setWorker(worker);
        this.emit('draining', worker);
        this.#noteDrained(worker);
      },
      stalled: (worker) => {
        this.emit('stalled', worker);
      },
      resumed: (worker) => {
        this.emit('resumed', worker);
      },
      broke: (error) => {
        this.#refusePeer(error);
      },
      failed: (error) => {
        this.emit('warned', error);
      },
      left: (worker, connections, reason) => {
        // Before a client gets the descriptor that is free now: it may have been the reserve.
        this.#control?.acceptor.resume();
        this.#bequest.takeBack(connections);
        this.#pool.takeBack(connections);
        this.#pool.remove(worker);
        this.#joined.delete(worker);
        this.#endDrains(worker);
        this.emit('left', worker, { redelivered: connections.length, reason });
      },
      returned: (worker, hasCustody) => {
        this.#awaited.note(worker.pid, hasCustody);
        this.emit('returned', worker);
        traceStep('worker-returned');
        this.#track(this.#relieve(worker));
      },
    };
  }

  /** @param isTrusted whether this worker may have the dispatcher listen at addresses that it names */
  #hostFor(isTrusted: boolean): PassfdWorkerHost {
    return {
      ownListeners: async () => {
        await this.#prepared;
        return this.#listeners.own;
      },
      listen: async (address, backlog) => {
        if (!isTrusted) {
          throw new PassfdError(
            'ERR_ADDRESS_DENIED',
            'Only workers of the same user may have the dispatcher listen at an address',
          );
        }
        return this.#listeners.openWanted(address, backlog);
      },
      unlisten: (worker, listener) => this.#releaseListener(worker, listener),
      ticketSecret: (listener, brought) =>
        isTrusted && this.#listeners.has(listener) ? this.#tickets.answer(listener, brought) : undefined,
      takeCustody: async (label, descriptor) => {
        await this.#listeners.takeReturned(label, descriptor);
        this.#vacancies.note(this.#listeners, true);
        traceStep('socket-returned');
      },
    };
  }

  /** Once everything is open that is wanted, what it had brought beside that is closed, here and there. */
  async #relieve(worker: PassfdWorker): Promise<void> {
    await this.#prepared;
    await this.#listeners.closeReturned();
    worker.custodian.relieveOfStale();
  }

  #noteDrained(worker: WorkerHandle): void {
    if (worker.state !== 'draining' || worker.inFlight > 0 || worker.active !== 0 || worker.isHolding) return;
    this.#endDrains(worker);
  }

  #endDrains(worker: WorkerHandle): void {
    for (const end of this.#drains.get(worker) ?? []) end();
    this.#drains.delete(worker);
  }

  #vacanciesOwner(): VacanciesOwner {
    const isAny = (isSo: (worker: PassfdWorker) => boolean): boolean =>
      this.#pool.workers.some((worker) => worker instanceof PassfdWorker && isSo(worker));
    return {
      staff: () => ({
        isAnyReady: isAny(({ state }) => state === 'ready'),
        isAnyStarting:
          this.#expectedChildren > 0 ||
          this.#silentChildren.size > 0 ||
          isAny(({ state }) => state === 'starting'),
      }),
      isOpen: (listener) => this.#listeners.has(listener),
      isServed: (listener) => isAny((worker) => worker.isServing(listener)),
      isWanted: (listener) =>
        isAny((worker) => worker.state !== 'draining' && worker.subscriptions.includes(listener)),
      release: (listener, isLate) => {
        this.emit('released', listener.address, { isLate });
        this.#track(this.#endListener(listener));
      },
    };
  }

  /** When the last worker has closed its server, the address is free again. One that died has not closed anything. */
  async #releaseListener(worker: PassfdWorker, listener: Listener): Promise<boolean> {
    if (!this.#listeners.has(listener)) return false;
    const isWanted =
      listener.isOwn ||
      // The next worker asks for the same socket.
      (listener.isInherited && worker.state === 'draining') ||
      this.#listeners.wasOffered(listener) ||
      // One that only sees whether the port is free does not take it from the worker that is expected there.
      this.#vacancies.has(listener) ||
      this.#pool.workers.some(
        (other) => other instanceof PassfdWorker && other.subscriptions.includes(listener),
      );
    if (isWanted) return true;
    // A child that is not ready yet will most likely serve it, as this worker did, but maybe not as its first address.
    const hasServed = worker.subscriptions.givenBack.some(({ key }) => key === listener.key);
    if (this.#expectedChildren > 0 && hasServed) this.#vacancies.note([listener], true);
    else await this.#endListener(listener);
    return this.#listeners.has(listener);
  }

  async #reopen(worker: PassfdWorker, former: FormerListener): Promise<void> {
    const reopening = this.#listeners.reopen(former);
    // Before a snapshot of what is open.
    this.#restoring = Promise.allSettled([this.#restoring, reopening]).then(ignore);
    const listener = await reopening;
    if (!listener) return;
    worker.subscriptions.noteReopened(former, listener);
    // As if the worker had died there: its next process may listen at other addresses first.
    this.#vacancies.note([listener], true);
  }

  async #endListener(listener: Listener): Promise<void> {
    this.#pool.abandon(listener);
    this.#bequest.removeListener(listener);
    await this.#listeners.end(listener);
  }

  /**
   * Connections are lent, and not duplicated: with a second descriptor they would be left twice, should this process die.
   * @param duplicates gets those of sockets
   */
  async #freeze(duplicates: Descriptor[]): Promise<Snapshot> {
    const own = (descriptor: Descriptor): Descriptor => {
      duplicates.push(descriptor);
      return descriptor;
    };
    const socketOf = (acceptor: Acceptor): SocketSnapshot => ({
      descriptor: own(acceptor.duplicate()),
      removesFile: acceptor.removesFile,
      fileIdentity: acceptor.fileIdentity,
    });
    await this.#restoring;
    // Who is on the way in is let in first; from then on nobody new comes.
    await this.#control?.freeze();
    await this.#prepared.catch(() => undefined);
    this.#rawControl?.resume();
    this.#pool.freeze();
    for (const socket of this.#silentChildren.keys()) socket.freeze();
    const frozen = new Map<WorkerHandle, FrozenWorker>();
    // One that was heard just before may become a worker meanwhile.
    for (let worker = this.#notIn(frozen); worker; worker = this.#notIn(frozen)) {
      frozen.set(worker, await worker.freeze());
    }
    await this.#listeners.restored();
    const connectionOf = ({ descriptor, listener }: AcceptedConnection): ConnectionSnapshot => {
      if (!this.#listeners.has(listener)) {
        throw new PassfdError(
          'ERR_BUSY',
          `Connections to ${formatAddress(listener.address)}, which is closed, are still on their way`,
        );
      }
      return { descriptor, listener: listener.id };
    };
    const workers: WorkerSnapshot[] = [];
    for (const [worker, state] of frozen) {
      // One that has left meanwhile gave back what it had.
      if (!this.#pool.workers.includes(worker)) continue;
      workers.push({
        worker: state.snapshot,
        channel: own(state.socket.duplicate()),
        inFlight: state.inFlight.map(connectionOf),
        unsent: state.unsent(),
      });
    }
    return {
      generation: this.#generation,
      counts: { ...this.#pool.counts, refusedPeers: this.#refusedPeers },
      control: this.#control && socketOf(this.#control.acceptor),
      rawControl: this.#rawControl && socketOf(this.#rawControl),
      listeners: Array.from(this.#listeners, (listener) => ({
        id: listener.id,
        key: listener.key,
        isOwn: listener.isOwn,
        backlog: listener.backlog,
        accepted: listener.accepted,
        tickets: this.#tickets.encoded(listener),
        ...socketOf(listener.acceptor),
      })),
      offered: this.#listeners.offered.map(({ acceptor, isInherited }) => ({
        isInherited,
        descriptor: own(acceptor.duplicate()),
      })),
      workers,
      silentChildren: Array.from(this.#silentChildren, ([socket, child]) => ({
        ...child,
        channel: own(socket.duplicate()),
      })),
      waiting: this.#pool.waiting.map(connectionOf),
    };
  }

  #notIn(frozen: ReadonlyMap<WorkerHandle, FrozenWorker>): WorkerHandle | undefined {
    return this.#pool.workers.find((worker) => !frozen.has(worker));
  }

  #restoreWorker(
    { worker: snapshot, channel, inFlight, unsent }: WorkerSnapshot,
    listeners: ReadonlyMap<number, Listener>,
  ): void {
    const connections = connectionsOf(inFlight, listeners);
    checkUnsent(snapshot, inFlight.length, unsent);
    const socket = new StreamSocket(channel);
    const worker =
      snapshot.dialect === 'passfd'
        ? PassfdWorker.restore(
            socket,
            snapshot,
            { listeners, inFlight: connections, unsent },
            this.#workerEvents(),
            this.#hostFor(snapshot.isTrusted),
          )
        : RecipeWorker.restore(socket, snapshot, connections[0], this.#recipeWorkerOptions());
    this.#pool.add(worker);
    // The kernel names its process exactly when it has connected by itself, and was not given one end of a pair.
    const { peer } = socket;
    if (peer.pid === worker.pid) this.#joined.add(worker, peer, descriptorsFor(worker.dialect));
    this.#track(worker.run());
  }
}

/** How many a worker takes here: its channel; and of the recipe's, what watches its process and what it has received. */
function descriptorsFor(dialect: Dialect): number {
  return dialect === 'passfd' ? 1 : 3;
}

/** Resolves when the peer has hung up and has said nothing more before, and never otherwise. */
function untilEnd(socket: StreamSocket, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    socket
      .untilReadable({ signal })
      .then(() => {
        if (socket.peek(1)?.length === 0) resolve();
      })
      .catch(() => {
        if (!signal.aborted) resolve();
      });
  });
}

/** Whether the number of a process is part of the path: `/tmp/app.123.sock`. */
function isNamedAfter(address: Address, pid: number): boolean {
  return 'path' in address && address.path.split(/\D+/).includes(String(pid));
}

/** @returns the only error, or one with the messages of all and the code of the first that has one of `PassfdError` */
function asOne(errors: readonly unknown[]): unknown {
  if (errors.length < 2) return errors[0];
  const { code = 'ERR_SYSTEM' } = errors.find((error) => error instanceof PassfdError) ?? {};
  const messages = errors.map((error) => (error instanceof Error ? error.message : String(error)));
  return new PassfdError(code, messages.join('; '), { cause: new AggregateError(errors) });
}

function ignore(): void {
  // Somebody else hears of it.
}

/** @throws {PassfdError} `ERR_PROTOCOL` when one came to a listener that is not there */
function connectionsOf(
  connections: readonly ConnectionSnapshot[],
  listeners: ReadonlyMap<number, Listener>,
): AcceptedConnection[] {
  // Earlier workers may have had them, who are not trusted.
  const account = ownAccount();
  return connections.map(({ descriptor, listener: id }) => {
    const listener = listeners.get(id);
    if (!listener) {
      throw new PassfdError('ERR_PROTOCOL', `A connection came to listener ${id}, which is not there`);
    }
    descriptor.distrust(account);
    return new AcceptedConnection(descriptor, listener);
  });
}

/** @throws {PassfdError} `ERR_PROTOCOL` when a hand-off that waits is of connections that are not in flight */
function checkUnsent(worker: WorkerSnapshot['worker'], inFlight: number, unsent: readonly Unsent[]): void {
  if (worker.dialect !== 'passfd') return;
  for (const { handoff } of unsent) {
    if (!handoff) continue;
    const first = handoff.position - worker.settled - 1;
    if (first >= 0 && first + handoff.count <= inFlight) continue;
    throw new PassfdError(
      'ERR_PROTOCOL',
      `A hand-off of ${handoff.count} connections from position ${handoff.position} on waits for worker ${worker.id}, ` +
        `which has ${inFlight} in flight behind ${worker.settled}`,
    );
  }
}
