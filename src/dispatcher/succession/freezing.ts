// Freezing: how all parts of a dispatcher stop for a takeover, become a snapshot, and go on here or in another process.
import {
  closeAll,
  formatAddress,
  PassfdError,
  StreamSocket,
  type Acceptor,
  type Descriptor,
} from '../../fd/index.js';
import { ownAccount, type Unsent } from '../../fd/internal.js';
import type { ControlOptions } from '../control.js';
import { AcceptedConnection, type Listener } from '../listener.js';
import type { Pool } from '../pool.js';
import type { DispatcherParts } from '../wiring.js';
import type { FrozenWorker, WorkerHandle } from '../workers/worker-handle.js';
import {
  descriptorsOf,
  type ConnectionSnapshot,
  type Snapshot,
  type SocketSnapshot,
  type WorkerSnapshot,
} from './snapshot.js';
import type { WorkerState } from './worker-state.js';

/** The snapshot of a frozen dispatcher. Disposing it closes the descriptors that were duplicated for it. */
export interface Frozen extends Disposable {
  readonly snapshot: Snapshot;
}

/** See `Dispatcher.freeze`. The parts stay frozen when this rejects. */
export async function freeze(parts: DispatcherParts): Promise<Frozen> {
  const duplicates: Descriptor[] = [];
  const dispose = (): void => {
    closeAll(duplicates);
  };
  parts.lifetime.freeze();
  parts.addresses.freeze();
  parts.tickets.freeze();
  try {
    return { snapshot: await takeSnapshot(parts, duplicates), [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/**
 * Connections are lent and not duplicated: if this process died, a duplicate would be given to a second worker.
 * @param duplicates gets the duplicates of sockets
 */
async function takeSnapshot(parts: DispatcherParts, duplicates: Descriptor[]): Promise<Snapshot> {
  const { lifetime, admission, controls, listeners, pool, tickets, governor, own } = parts;
  const duplicateOf = (socket: { duplicate(): Descriptor }): Descriptor => {
    const duplicate = socket.duplicate();
    duplicates.push(duplicate);
    return duplicate;
  };
  const socketOf = (acceptor: Acceptor): SocketSnapshot => ({
    descriptor: duplicateOf(acceptor),
    removesFile: acceptor.removesFile,
    fileIdentity: acceptor.fileIdentity,
  });
  const connectionOf = ({ descriptor, listener }: AcceptedConnection): ConnectionSnapshot => {
    if (listeners.has(listener)) return { descriptor, listener: listener.id };
    throw new PassfdError(
      'ERR_BUSY',
      `Connections to ${formatAddress(listener.address)}, which is closed, are still on their way`,
    );
  };
  await lifetime.changed();
  // Peers that are being admitted come in first. Nobody new comes after this.
  await controls.freeze();
  await admission.prepared.catch(() => undefined);
  pool.freeze();
  admission.freeze();
  governor.freeze();
  const frozen = await freezeWorkers(pool);
  await listeners.restored();
  const workers: WorkerSnapshot[] = [];
  for (const [worker, state] of frozen) {
    // A worker that has left meanwhile gave back its connections.
    if (!pool.workers.includes(worker)) continue;
    workers.push({
      worker: state.snapshot,
      channel: duplicateOf(state.socket),
      inFlight: state.inFlight.map(connectionOf),
      unsent: state.unsent(),
    });
  }
  return {
    generation: own.generation,
    counts: { ...pool.counts, refusedPeers: own.refusedPeers },
    control: controls.control && socketOf(controls.control),
    rawControl: controls.raw && socketOf(controls.raw),
    listeners: Array.from(listeners, (listener) => ({
      id: listener.id,
      key: listener.key,
      isOwn: listener.isOwn,
      backlog: listener.backlog,
      accepted: listener.accepted,
      tickets: tickets.encoded(listener),
      ...socketOf(listener.acceptor),
    })),
    offered: listeners.offered.map(({ acceptor, isInherited }) => ({
      isInherited,
      descriptor: duplicateOf(acceptor),
    })),
    workers,
    silentChildren: Array.from(admission.silentChildren, ([socket, child]) => ({
      ...child,
      channel: duplicateOf(socket),
    })),
    waiting: pool.waiting.map(connectionOf),
  };
}

async function freezeWorkers(pool: Pool): Promise<Map<WorkerHandle, FrozenWorker>> {
  const frozen = new Map<WorkerHandle, FrozenWorker>();
  // A child whose hello was read just before may become a worker meanwhile.
  const next = (): WorkerHandle | undefined => pool.workers.find((worker) => !frozen.has(worker));
  for (let worker = next(); worker; worker = next()) frozen.set(worker, await worker.freeze());
  return frozen;
}

/** Goes on after `freeze`, or begins after `restore`. */
export function thaw(parts: DispatcherParts): void {
  const { lifetime, admission, controls, addresses, pool, tickets, governor, bequest } = parts;
  lifetime.thaw();
  tickets.thaw();
  bequest.open();
  if (!pool.isEmpty) bequest.noteAccepted();
  for (const worker of pool.workers) worker.thaw();
  admission.thaw();
  governor.thaw();
  pool.thaw();
  controls.thaw();
  addresses.thaw();
}

/** See `Dispatcher.restore`. */
export async function restore(
  parts: DispatcherParts,
  snapshot: Snapshot,
  options: ControlOptions,
): Promise<void> {
  const { lifetime, admission, controls, listeners, pool, tickets, governor, own } = parts;
  const { refusedPeers, ...counts } = snapshot.counts;
  lifetime.freeze();
  tickets.freeze();
  pool.freeze();
  governor.freeze();
  try {
    own.generation = snapshot.generation + 1;
    own.refusedPeers = refusedPeers;
    for (const { tickets: secret, ...state } of snapshot.listeners) {
      const listener = await listeners.restore(state);
      if (secret) tickets.restore(listener, secret);
    }
    await listeners.offer(snapshot.offered);
    const byId = new Map(Array.from(listeners, (listener) => [listener.id, listener]));
    for (const worker of snapshot.workers) {
      const inFlight = connectionsOf(worker.inFlight, byId);
      checkUnsent(worker.worker, inFlight.length, worker.unsent);
      const handle = admission.restore(worker, byId, inFlight);
      pool.add(handle);
      lifetime.track(handle.run());
    }
    for (const { channel, id, pid } of snapshot.silentChildren) {
      admission.addChild(new StreamSocket(channel), { id, pid });
    }
    pool.restore(connectionsOf(snapshot.waiting, byId), counts);
    await controls.restore(snapshot, options);
  } catch (error) {
    closeAll([...descriptorsOf(snapshot)]);
    throw error;
  }
}

/** Another process goes on with everything: closes what this process has, and reports nothing. */
export async function disown(parts: DispatcherParts): Promise<void> {
  const { admission, controls, listeners, addresses, pool, tickets, governor, bequest } = parts;
  addresses.freeze();
  tickets.freeze();
  governor.end();
  bequest.cancel();
  admission.stopWaiting();
  for (const worker of pool.workers) worker.disown();
  admission.close();
  pool.disown();
  for (const { acceptor } of [...listeners, ...listeners.offered]) acceptor.release().close();
  await controls.disown();
  admission.closeDiagnostics();
}

/** @throws {PassfdError} `ERR_PROTOCOL` when a connection came to an unknown listener */
function connectionsOf(
  connections: readonly ConnectionSnapshot[],
  listeners: ReadonlyMap<number, Listener>,
): AcceptedConnection[] {
  // Workers without trust may have had them before.
  const account = ownAccount();
  return connections.map(({ descriptor, listener: id }) => {
    const listener = listeners.get(id);
    if (!listener) {
      throw new PassfdError('ERR_PROTOCOL', `A connection came to listener ${id}, which is not there`);
    }
    descriptor.distrust(account);
    return new AcceptedConnection(descriptor, listener);
  });
}

/** @throws {PassfdError} `ERR_PROTOCOL` when an unsent hand-off is of connections that are not in flight */
function checkUnsent(worker: WorkerState, inFlight: number, unsent: readonly Unsent[]): void {
  if (worker.dialect !== 'passfd') return;
  for (const { handoff } of unsent) {
    if (!handoff) continue;
    const first = handoff.position - worker.settled - 1;
    if (first >= 0 && first + handoff.count <= inFlight) continue;
    throw new PassfdError(
      'ERR_PROTOCOL',
      `An unsent hand-off of ${handoff.count} connections from position ${handoff.position} is for worker ${worker.id}, ` +
        `which has settled ${worker.settled} and has ${inFlight} in flight`,
    );
  }
}
