// WorkerHandle: the dispatcher's view of a worker, in any dialect.
import { PassfdError, type Descriptor, type StreamSocket } from '../../fd/index.js';
import type { Unsent } from '../../fd/internal.js';
import type { FormerChild } from '../../handoff/index.js';
import type { AcceptedConnection, Listener } from '../listener.js';
import type { Candidate } from '../policy.js';
import type { WorkerState } from '../succession/worker-state.js';
import type { OwnAccepts } from './own-accepts.js';

export type Dialect = 'passfd' | 'multiprocessing' | 'raw';

/** What events, the supervisor and the status show of a worker. */
export interface WorkerView {
  /** Stays the same when a supervised worker is replaced: two workers can have it for a while. */
  readonly id: number;
  readonly pid: number;
  readonly dialect: Dialect;
  readonly state: 'starting' | 'ready' | 'draining';
  /** Connections that the worker has adopted, or accepted by itself, since it joined. */
  readonly adopted: number;
  /** Connections that the worker has open. Null where the dialect or the kernel cannot tell. */
  readonly active: number | null;
  /** Connections that were sent to the worker and are not adopted yet. */
  readonly inFlight: number;
  /** Whether the worker takes connections of any address now. */
  readonly listens: boolean;
  /**
   * Whether the worker has answered nothing for a second although something is in flight, or its event loop has not gone round
   * for a second although it should. It gets nothing new until it does.
   */
  readonly isStalled: boolean;
  /** Whether the worker accepts connections by itself now. Undefined for a worker that only gets hand-offs. */
  readonly isWatching?: boolean | undefined;
  /** For how long its event loop is in its present turn; 0 while it waits. Undefined for a worker that only gets hand-offs. */
  readonly loopDelayMs?: number | undefined;
  /** Whether the dispatcher was asked to drain the worker. Undefined for a recipe worker. */
  readonly isTakenOut?: boolean;
  /** Why the worker ends, as it reported before its end. */
  readonly lastWords?: string | undefined;
  /** The slot and the service that the worker had as a child of a dispatcher that died. Only a worker of this user has it. */
  readonly formerChild?: FormerChild | undefined;
}

export interface WorkerHandle extends WorkerView, Candidate {
  /** Whether the worker is ready for connections of the listener, even if it has no room at the moment. */
  serves(listener: Listener): boolean;
  /** How many connections of the listener the worker may be given now. */
  roomFor(listener: Listener): number;
  /** Whether the worker has as many connections as it may have. A worker whose window is full may still have fewer. */
  readonly isFull: boolean;
  /**
   * Whether a connection that is given now may have to wait until the worker is done with another one. Such a worker is a
   * candidate only when no other worker is, or when all others have much to do.
   */
  readonly mayQueue: boolean;
  /** Owns the connection until it is adopted, or comes back with an event. */
  give(connection: AcceptedConnection): void;
  /** Sends what was given. */
  flush(): void;
  /** Whether the worker has connections open that came from no dispatcher. Its drain waits for them too. */
  readonly isHolding: boolean;
  /** What the worker accepts by itself. Undefined for a recipe worker, which accepts nothing. */
  readonly own?: OwnAccepts;
  /** Descriptors of connections that were sent to the worker and are still open here. */
  readonly handedOut: readonly Descriptor[];
  /** Has the worker drain: it gets nothing more, and finishes what it has. A second call does nothing. */
  drain(): void;
  /** Ends the channel. What is in flight comes back with `left`. */
  end(): void;
  /**
   * Sends and reads nothing until `thaw` or `disown`. Resolves when everything that was received before is dealt with. A
   * worker that left meanwhile has emitted `left`.
   */
  freeze(): Promise<FrozenWorker>;
  thaw(): void;
  /** Another process goes on with the worker: closes what this process has of it, and emits nothing. */
  disown(): void;
}

/** What another process needs to go on with a worker. Lent, and valid while the worker is frozen. */
export interface FrozenWorker {
  readonly snapshot: WorkerState;
  readonly socket: StreamSocket;
  /** In the order of their positions. */
  readonly inFlight: readonly AcceptedConnection[];
  /** See `StreamSocket.unsent`. */
  unsent(): Unsent[];
}

/** What a handle reports of its worker. */
export interface WorkerEvents {
  ready(worker: WorkerHandle): void;
  /** The worker may have more room than before, or fewer connections open. */
  changed(worker: WorkerHandle): void;
  adopted(count: number): void;
  /** The worker could not take the connections. The receiver owns them. */
  refused(worker: WorkerHandle, connections: AcceptedConnection[], reason: string): void;
  draining(worker: WorkerHandle): void;
  /** `isStalled` has become true. What is in flight stays with the worker until it exits. */
  stalled(worker: WorkerHandle): void;
  /** The worker answers again. Comes after the events of its answer. */
  resumed(worker: WorkerHandle): void;
  /** The worker broke the protocol. `left` follows. */
  broke(error: PassfdError): void;
  /** Something failed that is no fault of the worker. If the worker is disconnected for it, `left` follows. */
  failed(error: unknown): void;
  /** The channel of the worker has ended. The receiver owns the connections, which the worker had not adopted. */
  left(worker: WorkerHandle, connections: AcceptedConnection[], reason: string): void;
}

/** @returns the reason for `left`, when reading the channel failed. This process closes a channel itself only when it stops */
export function whyLeft(error: Error): string {
  return error instanceof PassfdError && error.code === 'ERR_CLOSED' ? 'the service stopped' : error.message;
}
