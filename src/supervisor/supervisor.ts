// Supervisor: a number of children for one dispatcher, from their start until the last has ended.
import { EventEmitter } from 'node:events';

import { PassfdError } from '../fd/index.js';
import { Child, type Report } from './child.js';
import { describeExit, type Exit } from './exit.js';
import { CHANNEL_FD, realHost, type Host, type Start } from './host.js';
import type { Pool, PoolWorker } from './pool.js';

/** Time that a child has to end when it is stopped, unless it is given. */
const DEFAULT_DRAIN_TIMEOUT_MS = 30_000;

/** Where the output of a child goes: it is this process's own, or each line of it comes here and gets a `[1] `. */
export type Output = 'inherit' | 'prefixed';

export interface SupervisorOptions {
  /** The program of a child and its arguments. */
  readonly command: readonly [program: string, ...args: string[]];
  /** How many children; they have the numbers from 1. */
  readonly count: number;
  /** The dispatcher's control socket, which children can join by too: `PASSFD_CONTROL` of theirs. */
  readonly controlPath?: string;
  /** The environment of the children, beside what they are told of their channel. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly output?: Output;
  /** Time that a child has to end when it is stopped: 30 s unless it is given. */
  readonly drainTimeoutMs?: number;
}

/** What others may know of a child. */
export interface ChildView {
  /** Its slot, and its id as a worker when it speaks through its channel. */
  readonly id: number;
  /** Undefined when it could not be started. */
  readonly pid: number | undefined;
}

export interface SupervisorEvents {
  started: [child: ChildView];
  ready: [child: ChildView];
  /** It ended when it should not have, and is started again. */
  died: [child: ChildView, death: { readonly exit: Exit; readonly restartInMs: number }];
  /** It died early so many times in a row that it hardly works the next time. It is still started again. */
  crashLooped: [child: ChildView, death: { readonly exit: Exit }];
  /** It did not end in time, and was made to. */
  killed: [child: ChildView];
  /** It ended and is not started again: it had no more to do, or was stopped. No exit when it had no process. */
  exited: [child: ChildView, end: { readonly exit: Exit | undefined }];
  /** Every child had no more to do, and none was stopped. */
  finished: [];
}

export class Supervisor extends EventEmitter<SupervisorEvents> {
  readonly #children: readonly Child[];
  readonly #pool: Pool;
  #starting: Deferred | undefined;
  #stopping: Deferred | undefined;
  /** Why the start failed. */
  #failure: PassfdError | undefined;

  /** Reserves the ids of the children in the pool, so make it before others can join there. */
  constructor(pool: Pool, options: SupervisorOptions, host: Host = realHost) {
    super();
    const { count, drainTimeoutMs = DEFAULT_DRAIN_TIMEOUT_MS } = options;
    if (!Number.isInteger(count) || count < 1) {
      throw new TypeError(`count is an integer from 1, not ${String(count)}`);
    }
    this.#pool = pool;
    this.#children = Array.from({ length: count }, (_, index) => {
      const id = index + 1;
      const start = startOf(id, options);
      return new Child(id, { start, drainTimeoutMs }, pool, host, (child, report) => {
        this.#onReport(child, report);
      });
    });
    pool.reserveIds(count);
  }

  /**
   * Starts the children, and resolves when each of them was ready once, or has finished.
   * @throws {PassfdError} `ERR_WORKER_FAILED` when none ever was, and one cannot be started or is in a crash loop; then
   * all have ended. `ERR_CLOSED` when they are stopped before
   */
  start(): Promise<void> {
    if (this.#starting) throw new TypeError('A supervisor is started once');
    this.#starting = new Deferred();
    this.#pool.on('ready', this.#onReady);
    this.#pool.on('left', this.#onLeft);
    for (const child of this.#children) child.start();
    return this.#starting.promise;
  }

  /**
   * Drains every child at once and ends it, and resolves when all have ended: those that still run after the drain
   * timeout are killed. A second call kills at once those that are left.
   */
  stop(): Promise<void> {
    if (this.#stopping) return this.kill();
    this.#stopping = new Deferred();
    for (const child of this.#children) child.stop();
    this.#noteOver();
    return this.#stopping.promise;
  }

  /** Ends every child now, and resolves when all have ended. */
  kill(): Promise<void> {
    const stopped = this.#stopping?.promise ?? this.stop();
    for (const child of this.#children) child.kill();
    return stopped;
  }

  readonly #onReady = (worker: PoolWorker): void => {
    this.#children.find((child) => child.is(worker))?.onReady(worker);
  };

  readonly #onLeft = (worker: PoolWorker): void => {
    this.#children.find((child) => child.is(worker))?.onLeft(worker);
  };

  #onReport(child: Child, report: Report): void {
    const { id, pid } = child;
    const view: ChildView = { id, pid };
    switch (report.is) {
      case 'started':
      case 'killed':
        this.emit(report.is, view);
        break;
      case 'ready':
        this.emit('ready', view);
        this.#noteStarted();
        break;
      case 'died':
        this.#onDied(view, report);
        break;
      case 'exited':
        this.emit('exited', view, { exit: report.exit });
        this.#noteStarted();
        this.#noteOver();
    }
  }

  #onDied(view: ChildView, { exit, restartInMs, crashLoopBegan }: Extract<Report, { is: 'died' }>): void {
    this.emit('died', view, { exit, restartInMs });
    if (crashLoopBegan) this.emit('crashLooped', view, { exit });
    if (crashLoopBegan || exit.is === 'not-started') this.#failStart(view, exit);
  }

  /** As long as nothing ever worked, more tries would only hide from who started it that nothing does. */
  #failStart({ id }: ChildView, exit: Exit): void {
    if (this.#stopping || this.#children.some(({ wasReady, hasFinished }) => wasReady || hasFinished)) return;
    this.#failure = new PassfdError(
      'ERR_WORKER_FAILED',
      `No worker was ever ready, and worker ${id} ${describeExit(exit)}; run its command on its own to see why`,
      exit.is === 'not-started' ? { cause: exit.error } : {},
    );
    // Owned by `start`, which is rejected when all have ended.
    this.stop().catch(() => undefined);
  }

  #noteStarted(): void {
    if (this.#stopping) return;
    if (this.#children.every(({ wasReady, hasFinished }) => wasReady || hasFinished)) {
      this.#starting?.resolve();
    }
  }

  #noteOver(): void {
    if (!this.#children.every(({ isOver }) => isOver)) return;
    this.#pool.off('ready', this.#onReady);
    this.#pool.off('left', this.#onLeft);
    if (!this.#stopping) {
      this.emit('finished');
      return;
    }
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

function startOf(id: number, options: SupervisorOptions): Start {
  const { command, controlPath, env = {}, output = 'inherit' } = options;
  const [program, ...args] = command;
  return {
    program,
    args,
    env: {
      ...process.env,
      ...env,
      PASSFD_CHANNEL_FD: String(CHANNEL_FD),
      PASSFD_WORKER_ID: String(id),
      PASSFD_CONTROL: controlPath,
      // Of a worker that joins by the control socket; this one has a channel.
      PASSFD_JOIN: undefined,
    },
    prefix: output === 'prefixed' ? `[${id}] ` : undefined,
  };
}
