// Supervisor: a number of processes for one dispatcher, from their start, or their takeover, until the last has ended.
import { EventEmitter } from 'node:events';

import { PassfdError } from '../fd/index.js';
import { DEFAULT_DRAIN_TIMEOUT_MS, DEFAULT_READY_TIMEOUT_MS } from '../handoff/index.js';
import type { Overdue } from './child.js';
import { describeExit, type Exit } from './exit.js';
import { HeldHost } from './held-host.js';
import { realHost, type Host } from './host.js';
import type { Living, Occupant } from './occupant.js';
import type { WorkerPool, PoolWorker } from './worker-pool.js';
import { RollingRestart, type Progress } from './rolling-restart.js';
import { Slot, type ReplacementOutcome, type SlotReport, type Vacancy } from './slot.js';
import { createStarts, type StartOptions } from './launch.js';

export interface SupervisorOptions extends StartOptions {
  /** How many children; they have the numbers from 1. */
  readonly count: number;
  /** Time that a child has to end when it is stopped: 30 s unless it is given. */
  readonly drainTimeoutMs?: number;
  /**
   * How many processes a rolling restart may run beside the `count`: new ones that are not ready, and old ones that have
   * not ended. 1 unless it is given.
   */
  readonly maxExtra?: number;
  /**
   * Time that a process has to be ready: 30 s unless it is given. After that a rolling restart gives up; any other start is
   * only told of (`overdue`).
   */
  readonly readyTimeoutMs?: number;
}

export interface RestartOptions {
  /** Addresses to give up, as `passfd status` prints them, or the number of a port: new processes need not serve them. */
  readonly without?: readonly string[];
}

/** What others may know of a child. */
export interface ChildView {
  /** Its slot, and its id as a worker when it speaks through its channel. While it is replaced, two have the same. */
  readonly id: number;
  /** Undefined when it could not be started. */
  readonly pid: number | undefined;
}

export interface Death {
  readonly exit: Exit;
  readonly restartInMs: number;
  /** What it told the dispatcher before. */
  readonly lastWords: string | undefined;
}

export interface SupervisorEvents {
  started: [child: ChildView];
  /** An earlier generation had started it, and this one looks after it from now on. */
  takenOver: [child: ChildView];
  ready: [child: ChildView];
  /**
   * It has come back from a dispatcher that died, and nobody expected it. Another process has its place, so it is being
   * drained and ended.
   * @param what whether it was started for this service
   */
  unexpected: [child: ChildView, what: { readonly isOurs: boolean }];
  /** It is not ready in time. It is left to go on; a slot tells that once, until one of its processes is ready. */
  overdue: [child: ChildView, how: Omit<Overdue, 'is'>];
  /** It ended when it should not have, and another one is started. */
  died: [child: ChildView, death: Death];
  /** It died early so many times in a row that it hardly works the next time. It is still started again. */
  crashLooped: [child: ChildView, death: { readonly exit: Exit }];
  /** It had lost its dispatcher, and did not join again in time: it is being ended, and another one is started. */
  stayedAway: [child: ChildView];
  /** Its output cannot be written here, and is dropped as long as that is so. It is told once of each process. */
  outputLost: [child: ChildView, error: Error];
  /** It did not end in time, and was made to. */
  killed: [child: ChildView];
  /** It had served and ended well by itself, which is no fault; another one is started. */
  recycled: [child: ChildView, end: { readonly exit: Exit }];
  /**
   * It ended and is not started again. The slot is vacant when the process never listened and had no more to do, or was
   * drained by hand; otherwise it was stopped, or another one has its place. No exit when it had no process.
   */
  exited: [child: ChildView, end: { readonly exit: Exit | undefined; readonly vacancy: Vacancy | undefined }];
  /** No child ever listened, and every one ended well. */
  finished: [];
  restartBegan: [what: { readonly of: number }];
  /** A new process is ready in the slot, and the old one has ended. No old one where the slot had none. */
  replaced: [child: ChildView, how: Progress & { readonly old: number | undefined }];
  /** Fewer are replaced than there are where one had finished before, and finished again. */
  restarted: [what: { readonly of: number; readonly replaced: number }];
  restartFailed: [error: PassfdError];
}

export class Supervisor extends EventEmitter<SupervisorEvents> {
  readonly #slots: readonly Slot[];
  /** Beyond the wanted number: of processes that an earlier generation had there. */
  #surplus: readonly Slot[] = [];
  readonly #pool: WorkerPool;
  readonly #host: HeldHost;
  readonly #options: { readonly maxExtra: number; readonly readyTimeoutMs: number };
  readonly #newSlot: (id: number) => Slot;
  #starting: Deferred | undefined;
  #stopping: Deferred | undefined;
  #restart: RollingRestart | undefined;
  /** An earlier generation had processes here. */
  #hasWorked = false;
  #isListening = false;
  /** Why the start failed. */
  #failure: PassfdError | undefined;

  /** Reserves the ids of the children in the pool, so make it before others can join there. */
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
   * Starts a child in each slot that nobody occupies, and resolves when each slot had one that was ready, or has finished.
   * @param occupants who is there already: what `occupants` of an earlier supervisor told, or what else is known. Those
   * who are beyond the number of slots, or the second in theirs, are drained and ended. Their descriptors have a new owner.
   * @throws {PassfdError} `ERR_WORKER_FAILED` when nothing ever was ready, and one cannot be started or is in a crash loop;
   * then all have ended. `ERR_CLOSED` when they are stopped, or released, before
   */
  start(occupants: readonly Occupant[] = []): Promise<void> {
    if (this.#starting) throw new TypeError('A supervisor is started once');
    this.#starting = new Deferred();
    this.#hasWorked = occupants.length > 0;
    this.#listen();
    for (const occupant of occupants) this.#takeOver(occupant);
    for (const slot of this.#slots) if (slot.isUnused) slot.start();
    this.#onChanged();
    return this.#starting.promise;
  }

  /**
   * Looks after a worker of a dispatcher that died, which nobody expected and which has joined by itself: it gets its slot
   * back where no process is ready in it. Else it is drained and ended, as `unexpected` says. Does nothing for a process
   * that is known here.
   * @param isOurs whether it was started for this service; another one's gets no place
   */
  adopt(occupant: Living, isOurs: boolean): void {
    this.#host.tell(() => {
      if (!this.#isListening || this.#all.some((slot) => slot.has(occupant.pid))) return;
      this.#hasWorked = true;
      const slot = isOurs ? this.#slots[occupant.id - 1] : undefined;
      if (slot?.adopt(occupant) !== true) {
        if (!slot) this.#takeOverSurplus(occupant);
        this.emit('unexpected', { id: occupant.id, pid: occupant.pid }, { isOurs });
      }
      this.#onChanged();
    });
  }

  /**
   * Replaces the process of every slot: starts a new one, waits until it serves every address that the old one serves, then
   * drains the old one and ends it. Resolves when the last old one has ended. A slot that has no process gets one at once.
   * @returns how many were replaced
   * @throws {PassfdError} `ERR_WORKER_FAILED` when a new one cannot be started, dies before the old one has ended, or is
   * not ready in time, where the message names the addresses that it does not serve: it is ended, its old one serves on, and
   * the slots behind it are not touched. `ERR_BUSY` while a restart runs, before the start, and while the children are handed over; `ERR_CLOSED` when they are being stopped
   */
  async restart({ without = [] }: RestartOptions = {}): Promise<number> {
    this.#requireRunning();
    if (this.#restart) throw new PassfdError('ERR_BUSY', 'A restart is running already');
    if (this.#host.isHeld) throw new PassfdError('ERR_BUSY', 'The workers are being handed over');
    const options = { ...this.#options, without };
    const restart = new RollingRestart(this.#slots, options, () => this.#extra, this.#onReplaced);
    this.#restart = restart;
    this.emit('restartBegan', { of: restart.count });
    restart.advance();
    this.#tellExpected();
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
   * Drains every child at once and ends it, and resolves when all have ended: those that still run after the drain
   * timeout get SIGTERM, and SIGKILL a little later. A second call kills at once those that are left.
   */
  stop(): Promise<void> {
    if (this.#host.isDropped) return Promise.resolve();
    this.#host.resume();
    if (this.#stopping) return this.kill();
    this.#stopping = new Deferred();
    this.#restart?.fail(new PassfdError('ERR_CLOSED', 'The workers were stopped during the restart'));
    for (const slot of this.#all) slot.stop();
    this.#onChanged();
    return this.#stopping.promise;
  }

  /** Ends every child now, and resolves when all have ended. */
  kill(): Promise<void> {
    const stopped = this.#stopping?.promise ?? this.stop();
    for (const slot of this.#all) slot.kill();
    return stopped;
  }

  /**
   * The first step of handing the children over to the next supervisor: resolves when nothing happens here any more. No
   * output is read, nothing is started and nothing ended. `resume` goes on, and makes up for what came meanwhile; `release`
   * is for good. Whoever stops the children meanwhile, resumes first.
   * @throws {PassfdError} `ERR_BUSY` while a restart runs, before the start, and when it was called already;
   * `ERR_CLOSED` when they are being stopped
   */
  async pause(): Promise<void> {
    this.#requireRunning();
    if (this.#restart) throw new PassfdError('ERR_BUSY', 'A restart is running');
    if (this.#host.isHeld) {
      throw new PassfdError('ERR_BUSY', 'The workers are being handed over already');
    }
    if (!(await this.#host.hold())) throw closedError();
  }

  /**
   * Who is in each slot now, behind `pause`. The caller owns the descriptors, and closes them also when they are passed on.
   * @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT`; then none is left open
   */
  occupants(): Occupant[] {
    this.#requirePaused();
    const occupants: Occupant[] = [];
    try {
      for (const slot of this.#all) occupants.push(...slot.describe());
    } catch (error) {
      closeOutputs(occupants);
      throw error;
    }
    return occupants;
  }

  /** Behind `pause`: goes on as if nothing had happened. Does nothing when it was not paused. */
  resume(): void {
    this.#host.resume();
  }

  /**
   * Behind `pause`: forgets all children, which live on; the supervisor is over. Resolves when the output that nobody goes
   * on with, of processes that have ended, is written.
   */
  async release(): Promise<void> {
    this.#requirePaused();
    this.#unlisten();
    const released = this.#host.drop();
    this.#starting?.reject(
      new PassfdError('ERR_CLOSED', 'The workers were handed over before each was ready'),
    );
    await released;
  }

  get #all(): readonly Slot[] {
    return [...this.#slots, ...this.#surplus];
  }

  get #extra(): number {
    return this.#all.reduce((sum, { extra }) => sum + extra, 0);
  }

  #requireRunning(): void {
    if (this.#stopping || this.#host.isDropped) throw closedError();
    if (!this.#starting) throw new PassfdError('ERR_BUSY', 'The workers were not started yet');
  }

  #requirePaused(): void {
    if (!this.#host.isHeld) throw new TypeError('A supervisor is paused before its children are handed over');
  }

  #takeOver(occupant: Occupant): void {
    const slot = this.#slots[occupant.id - 1];
    if (slot) slot.takeOver(occupant);
    else if ('pid' in occupant) this.#takeOverSurplus(occupant);
  }

  #takeOverSurplus(occupant: Living): void {
    const slot = this.#newSlot(occupant.id);
    slot.close();
    this.#surplus = [...this.#surplus, slot];
    slot.takeOverLeaving(occupant);
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

  // To each: the worker is known by its process, since two of them may have the same id.
  readonly #onReady = (worker: PoolWorker): void => {
    for (const slot of this.#all) slot.onReady(worker);
  };

  readonly #onServing = (): void => {
    for (const slot of this.#all) slot.onServing();
  };

  readonly #onLeft = (worker: PoolWorker): void => {
    for (const slot of this.#all) slot.onLeft(worker);
    this.#tellExpected();
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

  /** As long as nothing ever worked, more tries would only hide from who started it that nothing does. */
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
    this.#tellExpected();
    this.#noteOver();
  }

  #tellExpected(): void {
    this.#pool.expectChildren(this.#slots.filter(({ isExpecting }) => isExpecting).length);
  }

  #noteOver(): void {
    if (!this.#all.every(({ isOver }) => isOver)) return;
    if (!this.#stopping) {
      // Where somebody has drained the workers by hand, the next restart starts them again.
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

/** A promise that is settled from outside. A second settling does nothing. */
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

/** A start that failed names its cause already. */
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

/** The `died` of it has the whole. */
function withoutStack(lastWords: string): string {
  return lastWords.replace(/\n\s+at [^]*/, '');
}

function closedError(): PassfdError {
  return new PassfdError('ERR_CLOSED', 'The workers are being stopped, or were handed over');
}

function closeOutputs(occupants: readonly Occupant[]): void {
  for (const occupant of occupants) {
    if (!('pid' in occupant)) continue;
    occupant.stdout?.descriptor.close();
    occupant.stderr?.descriptor.close();
  }
}
