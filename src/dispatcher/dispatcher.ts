// Dispatcher: accepts connections and hands each to a worker. Its parts do the work: see `wiring.ts`.
import { EventEmitter } from 'node:events';

import { PassfdError, type Address, type StreamSocket } from '../fd/index.js';
import { traceStep } from '../handoff/index.js';
import type { ChildIdentity } from './admission.js';
import { systemClock, type Clock } from './clock.js';
import type { ControlOptions } from './control.js';
import type { OfferedSocket } from './kept-sockets.js';
import type { OwnAddress } from './listener-key.js';
import type {
  DispatcherEvents,
  DispatcherOptions,
  DrainOptions,
  OpenControlOptions,
  StopOptions,
} from './options.js';
import { describeStatus, type Status } from './status.js';
import * as freezing from './succession/freezing.js';
import type { Snapshot } from './succession/snapshot.js';
import { version } from './version.js';
import { createParts, type DispatcherParts } from './wiring.js';
import type { WorkerView } from './workers/worker-handle.js';

/** Time for waiting connections to find a worker when the dispatcher stops accepting. */
const STOP_TIMEOUT_MS = 5_000;

export class Dispatcher extends EventEmitter<DispatcherEvents> implements AsyncDisposable {
  readonly #backlog: number | undefined;
  readonly #startedAt = performance.now();
  readonly #parts: DispatcherParts;

  constructor(options: DispatcherOptions = {}, clock: Clock = systemClock) {
    super();
    this.#backlog = options.backlog;
    this.#parts = createParts(options, clock, this);
  }

  /**
   * Accepts at an address of the dispatcher's own, for all workers that serve. Call it before workers join: each asks once.
   * @param address also `{ fd }`, a listening socket that this process has inherited and keeps
   * @returns the address, with the port that the kernel has picked
   * @throws {PassfdError} as `listen` of `passfd`; `ERR_CLOSED`, also when this is closed meanwhile
   */
  async listen(address: OwnAddress): Promise<Address> {
    const listener = await this.#parts.lifetime.open(
      () => this.#parts.listeners.openOwn(address, this.#backlog),
      (opened) => this.#parts.listeners.close(opened),
    );
    return listener.address;
  }

  /**
   * Offers listening sockets that another process has kept: a worker that asks for such an address gets it, until
   * `closeOffered`.
   * @param sockets this object owns their descriptors from now on
   * @throws {PassfdError} `ERR_WRONG_KIND`, `ERR_CLOSED`
   */
  async offer(sockets: readonly OfferedSocket[]): Promise<void> {
    await this.#parts.lifetime.open(
      () => this.#parts.listeners.offer(sockets),
      () => this.#parts.listeners.closeOffered(),
    );
  }

  /** Ends what was offered and that no worker has asked for. Inherited sockets are closed only here. */
  async closeOffered(): Promise<void> {
    await this.#parts.listeners.endOffered();
  }

  /**
   * Lets workers and commands connect at a path. Can be called once.
   * @throws {PassfdError} `ERR_ADDRESS_IN_USE` names the process that listens there; `ERR_ALREADY_OPEN`, `ERR_CLOSED`
   */
  async openControl(path: string, options: OpenControlOptions = {}): Promise<void> {
    const { awaited = [], prepare } = options;
    const control = await this.#parts.controls.open(path, this.#withCommands(options));
    traceStep('control-opened');
    this.#parts.bequest.open();
    if (awaited.length === 0) {
      await prepare?.();
    } else {
      await this.#parts.admission.prepare(control, awaited, async () => {
        await prepare?.();
        await this.#parts.listeners.closeReturned();
      });
    }
    control.start();
  }

  /**
   * Lets raw workers connect at a path. Each gets `x` with one descriptor, and answers `OK`. Can be called once.
   * @throws {PassfdError} as `openControl`
   */
  async openRawControl(path: string, options: ControlOptions = {}): Promise<void> {
    await this.#parts.controls.openRaw(path, options);
  }

  /**
   * Adds a worker that has inherited the other end of a socket pair. It needs no key, and says hello when it is ready.
   * @param socket this object owns it from now on
   * @param child its slot and its process
   */
  addChild(socket: StreamSocket, child: ChildIdentity): void {
    this.#parts.admission.addChild(socket, child);
  }

  /**
   * Reports how many children are to be started, or to become ready, in place of others. Addresses that no worker serves
   * stay open for them.
   */
  expectChildren(count: number): void {
    this.#parts.addresses.expectChildren(count);
  }

  /**
   * Opens again what an ended worker had served and closed, so that clients wait for the worker that replaces it. Skips an
   * address that is in use by now.
   */
  reopen(view: WorkerView): void {
    this.#parts.addresses.reopen(view);
  }

  /** Keeps the ids 1 to `count` for children. Workers that join by themselves get higher ids. */
  reserveIds(count: number): void {
    this.#parts.admission.reserveIds(count);
  }

  get workers(): readonly WorkerView[] {
    this.#parts.governor.count();
    return this.#parts.pool.workers;
  }

  /**
   * The addresses that clients would miss if `other` took the place of `worker`: those that `worker` serves, or served when
   * it left, and `other` does not serve. Leaves out addresses that are closed by now, and a socket file that is named after
   * the worker's process, since no other process can have that name. An address that the worker has closed counts when the
   * worker has closed all of them, since it is ending, and when the address is kept open for the next process.
   * @param last the previous worker in the same place. What it left and what is kept open for the next process counts too,
   * since `worker` may be about to serve it
   */
  missing(other: WorkerView, worker: WorkerView, last?: WorkerView): Address[] {
    return this.#parts.addresses.missing(other, worker, last);
  }

  status(): Status {
    const { generation, refusedPeers } = this.#parts.own;
    this.#parts.governor.count();
    const uptimeMs = Math.round(performance.now() - this.#startedAt);
    const identity = { version, pid: process.pid, generation, uptimeMs };
    return describeStatus(identity, this.#parts.listeners, this.#parts.pool, refusedPeers);
  }

  /**
   * Drains a worker: it gets no new connections. Resolves when its last connection is closed, or when it has left.
   * @throws {PassfdError} `ERR_NO_WORKER`; the signal's reason
   */
  drainWorker(id: number, options: DrainOptions = {}): Promise<void> {
    const { workers } = this.#parts.pool;
    const worker =
      workers.find((candidate) => candidate.id === id && candidate.state !== 'draining') ??
      workers.find((candidate) => candidate.id === id);
    if (worker) return this.drain(worker, options);
    const known = workers.map((each) => each.id).join(', ') || 'none';
    return Promise.reject(new PassfdError('ERR_NO_WORKER', `There is no worker ${id}. Workers: ${known}`));
  }

  /** As `drainWorker`, of exactly this worker: while a worker is replaced, two have the same id. */
  async drain(view: WorkerView, { signal }: DrainOptions = {}): Promise<void> {
    signal?.throwIfAborted();
    const worker = this.#parts.pool.workers.find((candidate) => candidate === view);
    if (worker) await this.#parts.drains.drain(worker, signal);
  }

  /**
   * Accepts what waits in the backlogs and closes the listening sockets. Resolves when every connection has found a worker,
   * or when the time is over.
   */
  async stopAccepting({ timeoutMs = STOP_TIMEOUT_MS, isKept = false }: StopOptions = {}): Promise<void> {
    for (const listener of [...this.#parts.listeners]) {
      try {
        this.#parts.pool.takeBacklog(listener);
      } catch (error) {
        this.emit('warned', error);
      }
      await (isKept ? this.#parts.listeners.close(listener) : this.#parts.listeners.end(listener));
    }
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([this.#parts.pool.emptied(), timeout]);
    clearTimeout(timer);
  }

  /**
   * Stops everything for a takeover, until `thaw` or `disown`: accepts, sends and reads nothing. Clients wait in the kernel.
   * @throws {PassfdError} `ERR_BUSY` when it cannot be frozen at this moment, `ERR_DESCRIPTOR_LIMIT`; then it is thawed
   * @internal
   */
  async freeze(): Promise<freezing.Frozen> {
    try {
      return await freezing.freeze(this.#parts);
    } catch (error) {
      this.thaw();
      throw error;
    }
  }

  /**
   * From now on another process may be the dispatcher: if this process dies, its last will does nothing. `thaw` undoes this.
   * @internal
   */
  cancelLastWill(): void {
    this.#parts.bequest.cancel();
  }

  /**
   * Goes on after `freeze`, or begins after `restore`.
   * @internal
   */
  thaw(): void {
    freezing.thaw(this.#parts);
  }

  /**
   * Takes over what another generation had, and touches none of it until `thaw`.
   * @param snapshot this object owns its descriptors from now on, also when this rejects
   * @throws {PassfdError} `ERR_WRONG_KIND`, `ERR_PROTOCOL`, `ERR_SYSTEM`
   * @internal
   */
  async restore(snapshot: Snapshot, options: ControlOptions): Promise<void> {
    await freezing.restore(this.#parts, snapshot, this.#withCommands(options));
  }

  /**
   * Ends this dispatcher and sends nothing to workers, since another process is the dispatcher now.
   * @internal
   */
  async disown(): Promise<void> {
    await this.#parts.lifetime.end(() => freezing.disown(this.#parts));
  }

  /**
   * Opens Unix sockets anew whose file was removed: the control sockets, and listening sockets that this process has opened.
   * @throws {PassfdError} as `listen`; the message names all sockets that could not be opened. The others are open
   */
  async restoreFiles(): Promise<void> {
    // The next generation looks.
    if (!this.#parts.lifetime.isRunning) return;
    const restoring = this.#restoreFiles();
    this.#parts.lifetime.addChange(restoring);
    await restoring;
  }

  async #restoreFiles(): Promise<void> {
    await this.#parts.lifetime.changed();
    const restored = await Promise.allSettled([
      ...this.#parts.controls.restoreFiles(),
      ...Array.from(this.#parts.listeners, (listener) => this.#parts.listeners.restoreFile(listener)),
      // A returned socket stays while no descriptor is free for its clients.
      this.#parts.admission.isPreparing || this.#parts.listeners.closeReturned(),
    ]);
    const errors = restored.flatMap((result) =>
      result.status === 'rejected' ? [result.reason as unknown] : [],
    );
    if (errors.length > 0) throw asOne(errors);
  }

  /** Frees everything. Workers see their channels end, and keep what they have adopted. A second call does nothing. */
  async close(): Promise<void> {
    await this.#parts.lifetime.end(() => this.#close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    this.#parts.addresses.freeze();
    this.#parts.bequest.cancel();
    this.#parts.admission.stopWaiting();
    await this.#parts.controls.close();
    await this.#closeListeners();
    this.#parts.governor.end();
    for (const worker of this.#parts.pool.workers) worker.end();
    this.#parts.admission.close();
    await this.#parts.lifetime.settled();
    // A listener may have been on its way to a worker.
    await this.#closeListeners();
    this.#parts.pool.destroy('the dispatcher is closed');
    this.#parts.admission.closeDiagnostics();
  }

  async #closeListeners(): Promise<void> {
    for (const listener of [...this.#parts.listeners]) await this.#parts.listeners.close(listener);
    await this.#parts.listeners.closeReturned();
    await this.#parts.listeners.closeOffered();
  }

  #withCommands(options: ControlOptions): ControlOptions {
    return {
      ...options,
      commands: {
        status: () => Promise.resolve(this.status()),
        // The number was checked when the command was decoded.
        drain: ({ worker }, _progress, signal) => this.drainWorker(worker as number, { signal }),
        ...options.commands,
      },
    };
  }
}

/** @returns the only error, or one with all messages and the code of the first `PassfdError` */
function asOne(errors: readonly unknown[]): unknown {
  if (errors.length < 2) return errors[0];
  const { code = 'ERR_SYSTEM' } = errors.find((error) => error instanceof PassfdError) ?? {};
  const messages = errors.map((error) => (error instanceof Error ? error.message : String(error)));
  return new PassfdError(code, messages.join('; '), { cause: new AggregateError(errors) });
}
