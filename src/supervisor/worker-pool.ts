// Pool: what the supervisor needs of a dispatcher, which is one.
import type { Address, StreamSocket } from '../fd/index.js';

export interface PoolWorker {
  readonly id: number;
  readonly pid: number;
  /** `starting` until it says that it can take connections. */
  readonly state: 'starting' | 'ready' | 'draining';
  /** Whether it takes connections now; of one that has left, whether it did at its end. */
  readonly listens: boolean;
  /** Whether the dispatcher has told it to drain. */
  readonly isTakenOut?: boolean;
  /** What it told its dispatcher before it died: for people, why. */
  readonly lastWords?: string | undefined;
}

type PoolEvent = 'ready' | 'serving' | 'left';

export interface WorkerPool {
  readonly workers: readonly PoolWorker[];
  /** Ids up to `count` belong to children. */
  reserveIds(count: number): void;
  /** So many children are to be started, or to be ready, in place of others that have served. */
  expectChildren(count: number): void;
  /** Of a worker that has ended, and is followed by another one: opens again what it had served and closed as it ended. */
  reopen(worker: PoolWorker): void;
  /** Takes over the socket, whose other end the child has. */
  addChild(socket: StreamSocket, child: { readonly id: number; readonly pid: number }): void;
  /** Gives exactly this worker nothing new, and resolves when it has nothing open any more, or has left. */
  drain(worker: PoolWorker): Promise<void>;
  /**
   * Addresses that a worker serves, or served when it left, and that nobody serves if another one takes its place.
   * @param last the worker before it: what it left, and what is kept open for the next process, counts too
   */
  missing(other: PoolWorker, worker: PoolWorker, last?: PoolWorker): readonly Address[];
  /** `serving`: the worker serves other addresses than before. */
  on(event: PoolEvent, listener: (worker: PoolWorker) => void): unknown;
  off(event: PoolEvent, listener: (worker: PoolWorker) => void): unknown;
}
