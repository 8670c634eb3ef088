// What the handle of a passfd worker asks of the dispatcher, and what it reports.
import type { Descriptor } from '../../fd/index.js';
import type { CustodyLabel, TicketSecretMessage, WantedAddress } from '../../handoff/index.js';
import type { Listener } from '../listener.js';
import type { PassfdWorker } from './passfd-worker.js';
import type { WorkerEvents } from './worker-handle.js';

/** What a passfd worker asks of its dispatcher. */
export interface PassfdWorkerHost {
  /** Whether workers that can accept by themselves do. Where they do not, they do not begin to when the dispatcher dies. */
  readonly acceptsDirectly: boolean;
  /** The dispatcher's own listeners, once they are open. */
  ownListeners(): Promise<readonly Listener[]>;
  /**
   * Listens at an address for the worker.
   * @throws {PassfdError} as `listen` of `passfd`; `ERR_ADDRESS_DENIED` when the worker may not choose addresses
   */
  listen(address: WantedAddress, backlog: number): Promise<Listener>;
  /** Resolves when the address is free, if this worker was the last to listen there. @returns whether it is still open */
  unlisten(worker: PassfdWorker, listener: Listener): Promise<boolean>;
  /**
   * The secret from which the ticket keys of a listener are derived.
   * @param brought the secret that the worker has already, from an earlier dispatcher
   * @returns undefined when the worker may not have the secret
   */
  ticketSecret(listener: Listener, brought: TicketSecretMessage | null): TicketSecretMessage | undefined;
  /** Takes a listening socket that the worker kept for a dispatcher that died. Owns the descriptor from now on. */
  takeCustody(label: CustodyLabel, descriptor: Descriptor): Promise<void>;
}

/** What a passfd worker reports beyond what every worker does. */
export interface PassfdWorkerEvents extends WorkerEvents {
  /** The set of listeners whose connections the worker takes has changed. It is empty while the worker is disconnected. */
  subscribed(worker: PassfdWorker): void;
  /** The worker serves one address more, or one less. */
  serving(worker: PassfdWorker): void;
  /** The worker cannot accept connections of a listener by itself. */
  unwatched(worker: PassfdWorker, listener: number): void;
  /** The worker takes no connections of these listeners any more. Others may serve them. */
  leaving(worker: PassfdWorker, listeners: readonly Listener[]): void;
  /** The worker has come back from a dispatcher that died. @param hasCustody whether it brought listening sockets */
  returned(worker: PassfdWorker, hasCustody: boolean): void;
}
