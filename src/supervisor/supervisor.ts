// Supervisor: the worker processes of one dispatcher, from their start or takeover until the last one has ended.
import { EventEmitter } from 'node:events';

import { PassfdError } from '../fd/index.js';
import { DEFAULT_DRAIN_TIMEOUT_MS, DEFAULT_READY_TIMEOUT_MS } from '../handoff/index.js';
import type { Overdue } from './child.js';
import type { Vacancy } from './deaths.js';
import { describeExit, type Exit } from './exit.js';
import { HeldHost } from './held-host.js';
import { realHost, type Host } from './host.js';
import type { ProcessSnapshot, SlotSnapshot } from './slot-snapshot.js';
import type { WorkerPool, PoolWorker } from './worker-pool.js';
import { RollingRestart, type Progress } from './rolling-restart.js';
import { Slot, type ReplacementOutcome, type SlotReport } from './slot.js';
import { createStarts, type StartOptions } from './launch.js';

export interface SupervisorOptions extends StartOptions {
  /** Number of children, from 1. They have the ids 1 to `count`. */
  readonly count: number;
  /** Milliseconds that a child has to drain when it is stopped. Then it gets SIGTERM, and SIGKILL 2 s later. Default: 30000. */
  readonly drainTimeoutMs?: number;
  /**
   * Extra processes that a rolling restart may run at a time: new ones that are not ready, and old ones that have not ended.
   * Default: 1.
   */
  readonly maxExtra?: number;
  /**
   * Milliseconds that a process has to become ready. After that a rolling restart fails. For any other start, `overdue` is
   * emitted. Default: 30000.
   */
  readonly readyTimeoutMs?: number;
}

export interface RestartOptions {
  /** Addresses that new processes need not serve: as `passfd status` prints them, a port number, or `unix:PATH`. Default: none. */
  readonly without?: readonly string[];
}

/** How events name a child. */
export interface ChildView {
  /** The number of its slot. While a child is replaced, two have the same id. */
  readonly id: number;
  /** Undefined when it could not be started. */
  readonly pid: number | undefined;
}

export interface Death {
  readonly exit: Exit;
  readonly restartInMs: number;
  /** The error that it reported before. */
  readonly lastWords: string | undefined;
}

export interface SupervisorEvents {
  started: [child: ChildView];
  /** A process of an earlier generation was taken over. */
  takenOver: [child: ChildView];
  ready: [child: ChildView];
  /**
   * A process of a killed dispatcher has returned unexpectedly. It gets no place, and is being drained and ended.
   * @param what `isOurs`: it was started for this service, but another process has its place
   */
  unexpected: [child: ChildView, what: { readonly isOurs: boolean }];
  /** It is not ready in time, and goes on. Emitted once for a slot, until one of its processes is ready. */
  overdue: [child: ChildView, how: Omit<Overdue, 'is'>];
  /** It ended unexpectedly. Another one is started. */
  died: [child: ChildView, death: Death];
  /** It is in a crash loop: 5 early deaths in a row. It is still started again. */
  crashLooped: [child: ChildView, death: { readonly exit: Exit }];
  /** It did not return in time after its dispatcher was killed. It is being ended, and another one is started. */
  stayedAway: [child: ChildView];
  /** Its output cannot be written here, and is dropped for that time. Emitted once for each process. */
  outputLost: [child: ChildView, error: Error];
  /** It did not end in time, and got SIGKILL. */
  killed: [child: ChildView];
  /** It had served, and ended well by itself. Another one is started. */
  recycled: [child: ChildView, end: { readonly exit: Exit }];
  /**
   * It ended and is not started again. With a `vacancy`, the process never listened and had no more to do, or was drained by
   * hand. Without one, it was stopped, or another process has its place. No `exit` when there was no process.
   */
  exited: [child: ChildView, end: { readonly exit: Exit | undefined; readonly vacancy: Vacancy | undefined }];
  /** All children have ended well, and none ever listened. */
  finished: [];
  restartBegan: [what: { readonly of: number }];
  /** A new process is ready in the slot, and the old one, if there was one, has ended. */
  replaced: [child: ChildView, how: Progress & { readonly old: number | undefined }];
  /** `replaced` is less than `of` where a child had finished before and finished again. */
  restarted: [what: { readonly of: number; readonly replaced: number }];
  restartFailed: [error: PassfdError];
}

export class Supervisor extends EventEmitter<SupervisorEvents> {
  readonly #slots: readonly Slot[];
  /** Slots beyond `count`, for processes that an earlier generation had there. */
  #surplus: readonly Slot[] = [];
  readonly #pool: WorkerPool;
  readonly #host: HeldHost;
  readonly #options: { readonly maxExtra: number; readonly readyTimeoutMs: number };
  readonly #newSlot: (id: number) => Slot;
  #starting: Deferred | undefined;
  #stopping: Deferred | undefined;
  #restart: RollingRestart | undefined;
  /** Whether an earlier generation had processes here. */
  #hasWorked = false;
  #isListening = false;
  /** Why the start failed. */
  #failure: PassfdError | undefined;

  /**
   * Reserves the ids of the children in the pool, so create it before workers can join there.
   * @throws {TypeError} when `count` or `maxExtra` is no integer from 1
   */
  constructor(pool: WorkerPool, options: SupervisorOptions, host: Host = realHost) {
    super();
    const {
      count,
      drainTimeoutMs = DEFAULT_DRAIN_TIMEOUT_MS,
      maxExtra = 1,
      readyTimeoutMs = DEFAULT_READY_TIMEOUT_MS,
    } = options;
    requireCount('count', count);
    requireCount('maxExtra', maxExtra);
    this.#pool = pool;
    this.#host = new HeldHost(host);
    this.#options = { maxExtra, readyTimeoutMs };
    const owner = {
      startFor: createStarts(options),
      childOptions: { drainTimeoutMs, readyTimeoutMs },
      report: (slot: Slot, pid: number | undefined, report: SlotReport): void => {
        this.#onReport(slot, pid, report);
      },
      changed: (): void => {
        this.#onChanged();
      },
    };
    this.#newSlot = (id) => new Slot(id, owner, pool, this.#host);
    this.#slots = Array.from({ length: count }, (_, index) => this.#newSlot(index + 1));
    pool.reserveIds(count);
  }

  /**
   * Starts a child in each empty slot. Resolves when a child of each slot was ready or has finished.
   * @param snapshots processes that run already, from `snapshot` of an earlier supervisor or from a journal. A process
   * beyond the number of slots, or a second one in a slot, is drained and ended. Takes over the descriptors
   * @throws {PassfdError} `ERR_WORKER_FAILED` when none was ever ready, and one cannot be started or is in a crash loop;
   * then all have ended. `ERR_CLOSED` when the children are stopped or disowned before
   */
  start(snapshots: readonly SlotSnapshot[] = []): Promise<void> {
    if (this.#starting) throw new TypeError('A supervisor is started once');
    this.#starting = new Deferred();
    this.#hasWorked = snapshots.length > 0;
    this.#listen();
    for (const snapshot of snapshots) this.#takeOver(snapshot);
    for (const slot of this.#slots) if (slot.isUnused) slot.start();
    this.#onChanged();
    return this.#starting.promise;
  }

  /**
   * Takes in a worker of a killed dispatcher that returned unexpectedly. It gets its slot back unless a process is ready
   * there. Otherwise `unexpected` is emitted, and it is drained and ended. Does nothing for a process that is known already.
   * @param isOurs whether it was started for this service. A worker of another service gets no slot
   * @internal
   */
  adopt(snapshot: ProcessSnapshot, isOurs: boolean): void {
    this.#host.deliver(() => {
      if (!this.#isListening || this.#all.some((slot) => slot.has(snapshot.pid))) return;
      this.#hasWorked = true;
      const slot = isOurs ? this.#slots[snapshot.id - 1] : undefined;
      if (slot?.adopt(snapshot) !== true) {
        if (!slot) this.#takeOverSurplus(snapshot);
        this.emit('unexpected', { id: snapshot.id, pid: snapshot.pid }, { isOurs });
      }
      this.#onChanged();
    });
  }

  /**
   * Replaces the process of every slot: starts a new one, waits until it serves every address of the old one, then drains
   * and ends the old one. Resolves when the last old one has ended. A slot without a process gets one at once.
   * @returns the number of processes that were replaced
   * @throws {PassfdError} `ERR_WORKER_FAILED` when a new process cannot be started, dies before the old one has ended, or is
   * not ready in time (the message names the missing addresses). Then the new process is ended, its old one keeps serving,
   * and the remaining slots are left as they are. `ERR_BUSY` while a restart runs, before `start`, and during a takeover;
   * `ERR_CLOSED` when the children are being stopped
   */
  async restart({ without = [] }: RestartOptions = {}): Promise<number> {
    this.#requireRunning();
    if (this.#restart) throw new PassfdError('ERR_BUSY', 'A restart is running already');
    if (this.#host.isFrozen) throw new PassfdError('ERR_BUSY', 'A takeover runs');
    const options = { ...this.#options, without };
    const restart = new RollingRestart(this.#slots, options, () => this.#extra, this.#onReplaced);
    this.#restart = restart;
    this.emit('restartBegan', { of: restart.count });
    restart.advance();
    this.#updateExpected();
    try {
      const replaced = await restart.ended;
      this.emit('restarted', { of: restart.count, replaced });
      return replaced;
    } catch (error) {
      this.emit('restartFailed', error as PassfdError);
      throw error;
    } finally {
      this.#restart = undefined;
    }
  }

  /**
   * Drains all children and ends them. Resolves when all have ended. A child that still runs after the drain timeout gets
   * SIGTERM, and SIGKILL 2 s later. A second call kills the remaining children at once.
   */
  stop(): Promise<void> {
    if (this.#host.isDisowned) return Promise.resolve();
    this.#host.thaw();
    if (this.#stopping) return this.kill();
    this.#stopping = new Deferred();
    this.#restart?.fail(new PassfdError('ERR_CLOSED', 'The workers were stopped during the restart'));
    for (const slot of this.#all) slot.stop();
    this.#onChanged();
    return this.#stopping.promise;
  }

  /** Kills all children. Resolves when all have ended. */
  kill(): Promise<void> {
    const stopped = this.#stopping?.promise ?? this.stop();
    for (const slot of this.#all) slot.kill();
    return stopped;
  }

  /**
   * First step of a takeover: stops reading output, starting and ending processes. Resolves when all of it has stopped.
   * Then `thaw` goes on, and handles what happened meanwhile; `disown` gives the children up. `stop` thaws first.
   * @throws {PassfdError} `ERR_BUSY` while a restart runs, before `start`, and when it was called already; `ERR_CLOSED` when
   * the children are being stopped
   * @internal
   */
  async freeze(): Promise<void> {
    this.#requireRunning();
    if (this.#restart) throw new PassfdError('ERR_BUSY', 'A restart is running');
    if (this.#host.isFrozen) {
      throw new PassfdError('ERR_BUSY', 'A takeover runs already');
    }
    if (!(await this.#host.freeze())) throw closedError();
  }

  /**
   * Describes what each slot holds. Call it after `freeze`. The caller owns the descriptors, which are duplicates.
   * @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT`; then none is left open
   * @throws {TypeError} when it is not frozen
   * @internal
   */
  snapshot(): SlotSnapshot[] {
    this.#requireFrozen();
    const snapshots: SlotSnapshot[] = [];
    try {
      for (const slot of this.#all) snapshots.push(...slot.snapshot());
    } catch (error) {
      closeOutputs(snapshots);
      throw error;
    }
    return snapshots;
  }

  /**
   * Goes on after `freeze`. Does nothing when it is not frozen.
   * @internal
   */
  thaw(): void {
    this.#host.thaw();
  }

  /**
   * Gives up all children, which live on. Call it after `freeze`. The supervisor is of no use then. Resolves when the
   * remaining output of processes that have ended is written.
   * @throws {TypeError} when it is not frozen
   * @internal
   */
  async disown(): Promise<void> {
    this.#requireFrozen();
    this.#unlisten();
    const disowned = this.#host.disown();
    this.#starting?.reject(
      new PassfdError('ERR_CLOSED', 'The workers were handed over before each was ready'),
    );
    await disowned;
  }

  get #all(): readonly Slot[] {
    return [...this.#slots, ...this.#surplus];
  }

  get #extra(): number {
    return this.#all.reduce((sum, { extra }) => sum + extra, 0);
  }

  #requireRunning(): void {
    if (this.#stopping || this.#host.isDisowned) throw closedError();
    if (!this.#starting) throw new PassfdError('ERR_BUSY', 'The workers were not started yet');
  }

  #requireFrozen(): void {
    if (!this.#host.isFrozen) {
      throw new TypeError('A supervisor is frozen before its children are handed over');
    }
  }

  #takeOver(snapshot: SlotSnapshot): void {
    const slot = this.#slots[snapshot.id - 1];
    if (slot) slot.takeOver(snapshot);
    else if ('pid' in snapshot) this.#takeOverSurplus(snapshot);
  }

  #takeOverSurplus(snapshot: ProcessSnapshot): void {
    const slot = this.#newSlot(snapshot.id);
    slot.close();
    this.#surplus = [...this.#surplus, slot];
    slot.takeOverLeaving(snapshot);
  }

  #listen(): void {
    this.#isListening = true;
    this.#pool.on('ready', this.#onReady);
    this.#pool.on('serving', this.#onServing);
    this.#pool.on('left', this.#onLeft);
  }

  #unlisten(): void {
    this.#isListening = false;
    this.#pool.off('ready', this.#onReady);
    this.#pool.off('serving', this.#onServing);
    this.#pool.off('left', this.#onLeft);
  }

  // All slots get the event and compare the pid: two workers may have the same id.
  readonly #onReady = (worker: PoolWorker): void => {
    for (const slot of this.#all) slot.onReady(worker);
  };

  readonly #onServing = (): void => {
    for (const slot of this.#all) slot.onServing();
  };

  readonly #onLeft = (worker: PoolWorker): void => {
    for (const slot of this.#all) slot.onLeft(worker);
    this.#updateExpected();
  };

  #onReport({ id }: Slot, pid: number | undefined, report: SlotReport): void {
    const view: ChildView = { id, pid };
    switch (report.is) {
      case 'started':
      case 'takenOver':
      case 'ready':
      case 'stayedAway':
      case 'killed':
        this.emit(report.is, view);
        break;
      case 'overdue':
        this.emit(report.is, view, { hasJoined: report.hasJoined, launched: report.launched });
        break;
      case 'outputLost':
        this.emit(report.is, view, report.error);
        break;
      case 'died':
        this.#onDied(view, report);
        break;
      case 'recycled':
        this.emit('recycled', view, { exit: report.exit });
        break;
      case 'exited':
        this.emit('exited', view, { exit: report.exit, vacancy: report.vacancy });
    }
  }

  #onDied(view: ChildView, report: Extract<SlotReport, { is: 'died' }>): void {
    const { exit, restartInMs, crashLoopBegan, lastWords } = report;
    this.emit('died', view, { exit, restartInMs, lastWords });
    if (crashLoopBegan) this.emit('crashLooped', view, { exit });
    if (crashLoopBegan || exit.is === 'not-started') this.#failStart(view, report);
  }

  readonly #onReplaced = (slot: Slot, outcome: ReplacementOutcome, progress: Progress): void => {
    if (outcome.is !== 'replaced') return;
    const { fresh, old } = outcome;
    this.emit('replaced', { id: slot.id, pid: fresh.pid }, { ...progress, old: old?.pid });
  };

  /** While no process was ever ready, further attempts would only hide from the user that nothing works. */
  #failStart({ id }: ChildView, { exit, lastWords }: { exit: Exit; lastWords: string | undefined }): void {
    if (this.#stopping || this.#hasWorked) return;
    if (this.#slots.some(({ wasReady, isVacant }) => wasReady || isVacant)) return;
    this.#failure = new PassfdError(
      'ERR_WORKER_FAILED',
      `No worker was ever ready, and worker ${id} ${describeExit(exit)}${whyItEnded(exit, lastWords)}`,
      exit.is === 'not-started' ? { cause: exit.error } : {},
    );
    // Owned by `start`, which is rejected when all have ended.
    this.stop().catch(() => undefined);
  }

  #onChanged(): void {
    if (!this.#stopping && this.#slots.every(({ wasReady, isVacant }) => wasReady || isVacant)) {
      this.#starting?.resolve();
    }
    this.#restart?.advance();
    this.#updateExpected();
    this.#noteOver();
  }

  #updateExpected(): void {
    this.#pool.expectChildren(this.#slots.filter(({ isExpecting }) => isExpecting).length);
  }

  #noteOver(): void {
    if (!this.#all.every(({ isOver }) => isOver)) return;
    if (!this.#stopping) {
      // Workers that were drained by hand are started again by the next restart.
      if (this.#isListening && this.#slots.every(({ hasFinished }) => hasFinished)) {
        this.#unlisten();
        this.emit('finished');
      }
      return;
    }
    this.#unlisten();
    this.#starting?.reject(
      this.#failure ?? new PassfdError('ERR_CLOSED', 'The workers were stopped before each was ready'),
    );
    this.#stopping.resolve();
  }
}

/** A promise that its owner settles. A second call does nothing. */
class Deferred {
  readonly promise: Promise<void>;
  resolve: () => void = () => undefined;
  reject: (error: Error) => void = () => undefined;

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }
}

/** For a process that could not be started, `describeExit` has the cause. */
function whyItEnded(exit: Exit, lastWords: string | undefined): string {
  if (exit.is === 'not-started') return '';
  return lastWords === undefined
    ? '; run its command on its own to see why'
    : `; its last words: ${withoutStack(lastWords)}`;
}

function requireCount(name: string, count: number): void {
  if (!Number.isInteger(count) || count < 1) {
    throw new TypeError(`${name} is an integer from 1, not ${String(count)}`);
  }
}

/** `died` has the stack too. */
function withoutStack(lastWords: string): string {
  return lastWords.replace(/\n\s+at [^]*/, '');
}

function closedError(): PassfdError {
  return new PassfdError('ERR_CLOSED', 'The workers are being stopped, or were handed over');
}

function closeOutputs(snapshots: readonly SlotSnapshot[]): void {
  for (const snapshot of snapshots) {
    if (!('pid' in snapshot)) continue;
    snapshot.stdout?.descriptor.close();
    snapshot.stderr?.descriptor.close();
  }
}
