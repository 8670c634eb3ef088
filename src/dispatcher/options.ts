// The options and events of a Dispatcher.
import type { Address, PassfdError } from '../fd/index.js';
import type { AwaitedWorker } from './awaited-workers.js';
import type { ControlOptions } from './control.js';
import type { AcceptMode } from './direct/accept-mode.js';
import type { Policy, PolicyName } from './policy.js';
import type { Overload } from './pool.js';
import type { WorkerView } from './workers/worker-handle.js';

export interface DispatcherOptions {
  /**
   * Who accepts. `'direct'`: the workers, from the shared listening sockets, wherever they can; the dispatcher decides which
   * of them do (Linux only). `'hand-off'`: the dispatcher, which gives each connection to a worker. `'auto'` is `'hand-off'`
   * in this release. Default: `'auto'`.
   */
  readonly accept?: AcceptMode;
  /** The rule that chooses the worker of a connection that the dispatcher hands off. Default: `'round-robin'`. */
  readonly policy?: PolicyName | Policy;
  /**
   * When no worker has room: `'wait'` leaves clients in the kernel's backlog, `'refuse'` accepts and closes them.
   * Default: `'wait'`.
   */
  readonly overload?: Overload;
  /** Most connections that wait in the kernel, for each of the dispatcher's own addresses. Default: 511. */
  readonly backlog?: number;
  /**
   * Most connections that a recipe worker may have open at a time, where the kernel can be asked (Linux). Default: no limit; a
   * worker with open connections gets another when no other worker is free, or when all others have 16 or more. Must be a
   * positive integer.
   */
  readonly recipeConcurrency?: number;
  /**
   * Whether accepted connections that no worker has yet go to the workers when this process dies, even by `kill -9`. Starts
   * a helper process, one for each process. If the system does not allow that, `warned` is emitted, and such connections are
   * lost when this process dies. Default: false.
   */
  readonly lastWill?: boolean;
  /**
   * How long an address that workers have asked for stays open without a worker, while one may come, in milliseconds.
   * Default: 30 000.
   */
  readonly readyTimeoutMs?: number;
}

export interface OpenControlOptions extends ControlOptions {
  /**
   * Workers of a dispatcher that died. Until one of them has returned with the listening sockets, or none can return any
   * more, new workers wait and `prepare` is not called. Default: none.
   */
  readonly awaited?: readonly AwaitedWorker[];
  /**
   * Runs when the path is taken and before a new worker is admitted: the place to call `listen`, since a worker asks only
   * once for the dispatcher's addresses. Default: nothing is run.
   */
  readonly prepare?: () => Promise<void>;
}

export interface DrainOptions {
  /** Ends the waiting; a drain that has begun goes on. If the signal is aborted already, no drain begins. */
  readonly signal?: AbortSignal | undefined;
}

export interface StopOptions {
  /** Time for waiting connections to find a worker, in milliseconds. Default: 5000. */
  readonly timeoutMs?: number;
  /** Whether another process keeps the listening sockets for the next dispatcher. Then they are closed only here. Default: false. */
  readonly isKept?: boolean;
}

export interface DispatcherEvents {
  /** The worker has said hello. */
  joined: [worker: WorkerView];
  /** The worker takes connections. */
  ready: [worker: WorkerView];
  /** The worker has returned from a dispatcher that died, with the listening sockets that it had. */
  returned: [worker: WorkerView];
  /** The worker serves other addresses than before. */
  serving: [worker: WorkerView];
  /** The worker drains: it takes no new connections. */
  draining: [worker: WorkerView];
  /** Connections are in flight to the worker and it does not answer. It gets no more until it does. */
  stalled: [worker: WorkerView];
  /** The worker answers again. */
  resumed: [worker: WorkerView];
  /**
   * The worker's channel has ended.
   * @param how the number of connections that it had not adopted and that go to other workers, and why it left
   */
  left: [worker: WorkerView, how: { readonly redelivered: number; readonly reason: string }];
  /** @param socket the listening socket, lent, and whether another process has made it */
  listening: [address: Address, socket: { readonly fd: number; readonly isInherited: boolean }];
  unlistened: [address: Address];
  /** The file of a Unix socket had been removed. Another socket is there now, in place of the old one. */
  relistened: [address: Address, socket: { readonly fd: number }];
  /**
   * No worker serves the address any more, so it is being closed; `unlistened` follows.
   * @param how whether a worker was expected there and did not come in time
   */
  released: [address: Address, how: { readonly isLate: boolean }];
  /** A peer of a control socket was not admitted, or broke the protocol. */
  peerRefused: [error: PassfdError];
  /** Connections were closed without a worker. */
  refused: [what: { readonly count: number; readonly reason: string }];
  /** The worker has no descriptor left. Its connections went to other workers. */
  starved: [worker: WorkerView];
  /** Something failed that stops no connection; the message says what. */
  warned: [error: unknown];
}
