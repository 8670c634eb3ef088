// Snapshot: everything that one generation of the dispatcher hands to the next, with the descriptors that belong to it.
import type { Descriptor } from '../../fd/index.js';
import type { Unsent } from '../../fd/internal.js';
import type { TicketSecretMessage } from '../../handoff/index.js';
import type { ListenerIdentity } from '../listener.js';
import type { OfferedSocket } from '../listeners.js';
import type { PassfdWorkerSnapshot } from '../workers/passfd-worker.js';
import type { PoolCounts } from '../pool.js';
import type { RecipeWorkerSnapshot } from '../workers/recipe-worker.js';

/** On the side that hands over the descriptors are lent, and on the other one they are its own. */
export interface Snapshot {
  readonly generation: number;
  readonly counts: PoolCounts & { readonly refusedPeers: number };
  readonly control: SocketSnapshot | undefined;
  readonly rawControl: SocketSnapshot | undefined;
  readonly listeners: readonly ListenerSnapshot[];
  readonly offered: readonly OfferedSocket[];
  readonly workers: readonly WorkerSnapshot[];
  /** Processes that were started as workers, and have not said anything yet. */
  readonly silentChildren: readonly ChildSnapshot[];
  /** Connections without a worker, in their order. */
  readonly waiting: readonly ConnectionSnapshot[];
}

export interface SocketSnapshot {
  readonly descriptor: Descriptor;
  /** Whether the file of the socket is removed with it. */
  readonly removesFile: boolean;
  /** What its maker knows the file by. Earlier generations do not say it. */
  readonly fileIdentity?: string | undefined;
}

export interface ListenerSnapshot extends SocketSnapshot, ListenerIdentity {
  readonly accepted: number;
  /** Where a worker has asked for it. */
  readonly tickets?: TicketSecretMessage | undefined;
}

export interface ChildSnapshot {
  readonly id: number;
  readonly pid: number;
  readonly channel: Descriptor;
}

export interface WorkerSnapshot {
  readonly worker: PassfdWorkerSnapshot | RecipeWorkerSnapshot;
  readonly channel: Descriptor;
  /** In the order in which they were sent. */
  readonly inFlight: readonly ConnectionSnapshot[];
  readonly unsent: readonly Unsent[];
}

export interface ConnectionSnapshot {
  readonly descriptor: Descriptor;
  /** The listener that it came to. */
  readonly listener: number;
}

export function* descriptorsOf(snapshot: Snapshot): Generator<Descriptor> {
  for (const socket of [snapshot.control, snapshot.rawControl, ...snapshot.listeners, ...snapshot.offered]) {
    if (socket) yield socket.descriptor;
  }
  for (const { channel, inFlight, unsent } of snapshot.workers) {
    yield channel;
    for (const { descriptor } of inFlight) yield descriptor;
    for (const { descriptors } of unsent) yield* descriptors;
  }
  for (const { channel } of snapshot.silentChildren) yield channel;
  for (const { descriptor } of snapshot.waiting) yield descriptor;
}
