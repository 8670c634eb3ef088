// Pool: what the supervisor needs of a dispatcher, which is one.
import type { StreamSocket } from '../fd/index.js';

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

export interface Pool {
  readonly workers: readonly PoolWorker[];
  /** Ids up to `count` belong to children. */
  reserveIds(count: number): void;
  /** Takes over the socket, whose other end the child has. */
  addChild(socket: StreamSocket, child: { readonly id: number; readonly pid: number }): void;
  /** Gives exactly this worker nothing new, and resolves when it has nothing open any more, or has left. */
  drain(worker: PoolWorker): Promise<void>;
  on(event: 'ready' | 'left', listener: (worker: PoolWorker) => void): unknown;
  off(event: 'ready' | 'left', listener: (worker: PoolWorker) => void): unknown;
}
