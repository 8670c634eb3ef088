// WorkerHandle: the dispatcher's view of a worker, whatever its dialect is.
import type { Descriptor, PassfdError, StreamSocket } from '../../fd/index.js';
import type { Unsent } from '../../fd/internal.js';
import type { FormerChild } from '../../handoff/index.js';
import type { AcceptedConnection, Listener } from '../listener.js';
import type { Candidate } from '../policy.js';
import type { WorkerState } from '../succession/worker-state.js';

export type Dialect = 'passfd' | 'multiprocessing' | 'raw';

/** What others may know of a worker. */
export interface WorkerView {
  readonly id: number;
  readonly pid: number;
  readonly dialect: Dialect;
  readonly state: 'starting' | 'ready' | 'draining';
  /** Connections that it took since it joined. */
  readonly adopted: number;
  /** Connections that it has open; null where the dialect cannot tell. */
  readonly active: number | null;
  /** Sent, not yet adopted. */
  readonly inFlight: number;
  /** Whether it takes connections of any address now. */
  readonly listens: boolean;
  /** Whether something is in flight to it and it has not answered for a while; until it does, it gets nothing new. */
  readonly isStalled: boolean;
  /** Whether it was told to drain, by `drain`. Undefined where the dialect does not know. */
  readonly isTakenOut?: boolean;
  /** What it told of its end before that, if it did. */
  readonly lastWords?: string | undefined;
  /** Of one of this user that has come back from a dispatcher that died, and was its child, as it says. */
  readonly formerChild?: FormerChild | undefined;
}

export interface WorkerHandle extends WorkerView, Candidate {
  /** Whether it is ready for connections of this address, though it may have no room at the moment. */
  serves(listener: Listener): boolean;
  /** How many connections of this address it may be given now. */
  roomFor(listener: Listener): number;
  /** Whether it has as many connections as it said that it takes. That no more may be on the way to it is not that. */
  readonly isFull: boolean;
  /**
   * Whether a connection that is given now may have to wait until the worker is done with another one. Such a worker is a
   * candidate only when no other worker is, or when all others have much to do.
   */
  readonly mayQueue: boolean;
  /** Puts a connection on its way. It owns it from here on, until it is adopted, or comes back by `WorkerEvents`. */
  give(connection: AcceptedConnection): void;
  /** Sends what was given. */
  flush(): void;
  /** Whether it has connections open that came from no dispatcher: it is not drained before they are closed. */
  readonly isHolding: boolean;
  /** Descriptors of connections that were sent to it and are still open here. */
  readonly handedOut: readonly Descriptor[];
  /** Gives it nothing more, and tells it so. A second call does nothing. */
  drain(): void;
  /** Ends the channel; what is in flight goes back. */
  end(): void;
  /**
   * Neither hears nor tells it anything until `thaw`, or until it is `disown`ed. Resolves when all that had come from it
   * is dealt with; when it has left by then, that was told.
   */
  freeze(): Promise<FrozenWorker>;
  thaw(): void;
  /** Another process goes on with it: closes what this one has of it, and tells nobody. */
  disown(): void;
}

/** What another process needs to go on with a worker. It is lent, and good while the worker is frozen. */
export interface FrozenWorker {
  readonly snapshot: WorkerState;
  readonly socket: StreamSocket;
  /** In the order in which they were sent. */
  readonly inFlight: readonly AcceptedConnection[];
  /** See `StreamSocket.unsent`. */
  unsent(): Unsent[];
}

/** What a worker handle tells the pool. */
export interface WorkerEvents {
  ready(worker: WorkerHandle): void;
  /** It may have room that it had not, or has something less open. */
  changed(worker: WorkerHandle): void;
  adopted(count: number): void;
  /** It could not take them, and says why. The receiver owns them. */
  refused(worker: WorkerHandle, connections: AcceptedConnection[], reason: string): void;
  draining(worker: WorkerHandle): void;
  /** It has become `isStalled`. What is in flight to it stays with it while it lives. */
  stalled(worker: WorkerHandle): void;
  /** It answers again. Told when what it has answered is counted, and was told: then nothing more is to be done. */
  resumed(worker: WorkerHandle): void;
  /** It broke the protocol; `left` follows. */
  broke(error: PassfdError): void;
  /** Something failed that is no fault of its own. Where it is parted with for that, `left` follows. */
  failed(error: unknown): void;
  /** Its channel has ended. What it had not adopted comes back; the receiver owns it. */
  left(worker: WorkerHandle, connections: AcceptedConnection[], reason: string): void;
}
