// Snapshot: everything that one generation of the dispatcher gives to the next, with the descriptors that belong to it.
import * as v from 'valibot';

import type { Descriptor } from '../../fd/index.js';
import type { Unsent } from '../../fd/internal.js';
import { count, positive, ticketSecretMessage } from '../../handoff/index.js';
import type { WorkerState } from './worker-state.js';

export const counts = v.object({
  accepted: count,
  adopted: count,
  redelivered: count,
  refused: count,
  refusedPeers: count,
});

/** The file of a Unix socket. */
export const socketFile = v.object({
  /** Whether the file is removed when the socket is closed. */
  removesFile: v.boolean(),
  /** Device and inode of the file. Earlier releases omit it. */
  fileIdentity: v.optional(v.string()),
});

/** A listening socket that workers or clients know by its number. */
export const listenerState = v.object({
  id: count,
  key: v.string(),
  isOwn: v.boolean(),
  backlog: v.optional(count),
  accepted: count,
  ...socketFile.entries,
  /** The secret of its TLS ticket keys, if a worker has asked for it. */
  tickets: v.optional(ticketSecretMessage),
});

/** A listening socket that a worker may still ask for. */
export const offeredState = v.object({ isInherited: v.boolean() });

/** A process that was started as a worker and has not said hello yet. */
export const childState = v.object({ id: positive, pid: positive });

interface WithDescriptor {
  readonly descriptor: Descriptor;
}

/** The descriptors are lent on the side that hands over. The side that takes over owns them. */
export interface Snapshot {
  readonly generation: number;
  readonly counts: v.InferOutput<typeof counts>;
  readonly control: SocketSnapshot | undefined;
  readonly rawControl: SocketSnapshot | undefined;
  readonly listeners: readonly ListenerSnapshot[];
  readonly offered: readonly OfferedSnapshot[];
  readonly workers: readonly WorkerSnapshot[];
  readonly silentChildren: readonly ChildSnapshot[];
  /** Connections that wait for a worker, in their order. */
  readonly waiting: readonly ConnectionSnapshot[];
}

export type SocketSnapshot = Readonly<v.InferOutput<typeof socketFile>> & WithDescriptor;
export type ListenerSnapshot = Readonly<v.InferOutput<typeof listenerState>> & WithDescriptor;
export type OfferedSnapshot = Readonly<v.InferOutput<typeof offeredState>> & WithDescriptor;
export type ChildSnapshot = Readonly<v.InferOutput<typeof childState>> & { readonly channel: Descriptor };

export interface WorkerSnapshot {
  readonly worker: WorkerState;
  readonly channel: Descriptor;
  /** In the order in which they were sent. */
  readonly inFlight: readonly ConnectionSnapshot[];
  readonly unsent: readonly Unsent[];
}

export interface ConnectionSnapshot extends WithDescriptor {
  /** The listener that accepted it. */
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
