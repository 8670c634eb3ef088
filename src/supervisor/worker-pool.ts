// WorkerPool: what the supervisor needs of a dispatcher. A `Dispatcher` is one.
import type { Address, StreamSocket } from '../fd/index.js';

/** A worker as the dispatcher knows it. A `WorkerView` is one. */
export interface PoolWorker {
  readonly id: number;
  readonly pid: number;
  /** `starting` until it can take connections. */
  readonly state: 'starting' | 'ready' | 'draining';
  /** Whether it listens. For a worker that has left: whether it did at its end. */
  readonly listens: boolean;
  /** Whether somebody has drained it by hand. */
  readonly isTakenOut?: boolean;
  /** The error that the worker reported before it died. */
  readonly lastWords?: string | undefined;
}

type PoolEvent = 'ready' | 'serving' | 'left';

export interface WorkerPool {
  readonly workers: readonly PoolWorker[];
  /** Ids up to `count` belong to children. */
  reserveIds(count: number): void;
  /** Sets how many children are starting, or will be started, in place of children that have served. */
  expectChildren(count: number): void;
  /** Opens the addresses again that a worker had closed before it ended, for the worker that follows it. */
  reopen(worker: PoolWorker): void;
  /** Takes over the socket. The child has its other end. */
  addChild(socket: StreamSocket, child: { readonly id: number; readonly pid: number }): void;
  /** Gives this worker no more connections. Resolves when it has none open, or has left. */
  drain(worker: PoolWorker): Promise<void>;
  /**
   * Addresses that a worker serves, or served when it left, and that nobody would serve if another one took its place.
   * @param last the worker before it: its addresses count too, and those that are kept open for the next process
   */
  missing(other: PoolWorker, worker: PoolWorker, last?: PoolWorker): readonly Address[];
  /** `serving`: the worker serves other addresses than before. */
  on(event: PoolEvent, listener: (worker: PoolWorker) => void): unknown;
  off(event: PoolEvent, listener: (worker: PoolWorker) => void): unknown;
}
