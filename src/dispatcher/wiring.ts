// The parts of a dispatcher, and what happens in one part when another reports something.
import type { EventEmitter } from 'node:events';

import { PassfdError } from '../fd/index.js';
import { DEFAULT_READY_TIMEOUT_MS, traceStep } from '../handoff/index.js';
import { Admission } from './admission.js';
import { Bequest } from './bequest.js';
import type { Clock } from './clock.js';
import { ControlSockets } from './control-sockets.js';
import { acceptModeOf } from './direct/accept-mode.js';
import { Governor } from './direct/governor.js';
import { systemKernel } from './direct/system-kernel.js';
import { Drains } from './drains.js';
import { Lifetime } from './lifetime.js';
import type { Listener } from './listener.js';
import { Listeners } from './listeners.js';
import type { DispatcherEvents, DispatcherOptions } from './options.js';
import { createPolicy, isolated } from './policy.js';
import { Pool } from './pool.js';
import { ServedAddresses } from './served-addresses.js';
import { SharedTickets } from './shared-tickets.js';
import type { PassfdWorkerEvents, PassfdWorkerHost } from './workers/passfd-worker-host.js';
import { PassfdWorker } from './workers/passfd-worker.js';
import { RecipeWorker } from './workers/recipe-worker.js';
import type { WorkerHandle } from './workers/worker-handle.js';

export interface DispatcherParts {
  readonly lifetime: Lifetime;
  readonly listeners: Listeners;
  readonly pool: Pool;
  readonly controls: ControlSockets;
  readonly admission: Admission;
  readonly addresses: ServedAddresses;
  readonly drains: Drains;
  readonly tickets: SharedTickets;
  readonly governor: Governor;
  readonly bequest: Bequest;
  readonly own: {
    /** Which incarnation of the dispatcher this is, from 1. */
    generation: number;
    refusedPeers: number;
  };
}

/**
 * @param events emits the events of the dispatcher
 * @throws {TypeError} when `recipeConcurrency` is no positive integer, or `accept` contradicts another option
 * @throws {PassfdError} `ERR_UNSUPPORTED` when this system has no direct accept
 */
export function createParts(
  options: DispatcherOptions,
  clock: Clock,
  events: EventEmitter<DispatcherEvents>,
): DispatcherParts {
  const { overload = 'wait', lastWill = false, recipeConcurrency } = options;
  const mode = acceptModeOf(options);
  // Where workers accept by themselves, what is handed off is to keep them even.
  const { policy = mode === 'direct' ? 'least-connections' : 'round-robin' } = options;
  if (
    recipeConcurrency !== undefined &&
    !(Number.isSafeInteger(recipeConcurrency) && recipeConcurrency > 0)
  ) {
    throw new TypeError(`recipeConcurrency must be a positive integer, not ${recipeConcurrency}`);
  }
  const own = { generation: 1, refusedPeers: 0 };
  const warned = (error: unknown): void => {
    events.emit('warned', error);
  };
  const refusedPeer = (error: PassfdError): void => {
    own.refusedPeers++;
    events.emit('peerRefused', error);
  };

  const lifetime = new Lifetime(warned);
  const drains = new Drains();
  const createPolicyFor = typeof policy === 'string' ? () => createPolicy(policy) : () => isolated(policy);
  const governor: Governor = new Governor(mode, clock, systemKernel, {
    get workers() {
      return pool.workers;
    },
    accepted: (listener, count) => {
      pool.counts.accepted += count;
      pool.counts.adopted += count;
      if (listener) listener.accepted += count;
    },
    drained: (worker) => {
      drains.review(worker);
    },
    resume: (listener) => {
      pool.resume(listener);
    },
    rearm: (listener) => {
      pool.rearm(listener);
    },
    entrust,
    warned,
  });
  const pool: Pool = new Pool(
    createPolicyFor,
    overload,
    {
      taken: () => {
        bequest.noteAccepted();
      },
      refused: (count, reason) => events.emit('refused', { count, reason }),
      policyFailed: warned,
    },
    governor,
  );
  const listeners = new Listeners({
    opened: (listener) => {
      bequest.addListener(listener);
      if (lifetime.isRunning) bequest.open();
      feedPool(listener);
      governor.open(listener);
      const { address, isInherited, acceptor } = listener;
      events.emit('listening', address, { fd: acceptor.fd, isInherited });
    },
    stranded: (listener, acceptor) => {
      pool.takeBacklog(listener, acceptor);
    },
    exchanged: (listener) => {
      pool.close(listener);
      feedPool(listener);
      events.emit('relistened', listener.address, { fd: listener.acceptor.fd });
    },
    closing: (listener) => {
      addresses.delete(listener);
      tickets.forget(listener);
      pool.close(listener);
      governor.close(listener);
      for (const worker of pool.workers) {
        if (worker instanceof PassfdWorker) worker.custodian.relieve(listener);
      }
    },
    closed: (address) => events.emit('unlistened', address),
    refusedPeer,
    warned,
  });
  const controls = new ControlSockets(lifetime, {
    worker: (joined, hello) => {
      lifetime.track(admission.admit(joined, hello));
    },
    recipeWorker: (joined, pid, dialect) => {
      admission.admitRecipe(joined, pid, dialect);
    },
    opened: (acceptor) => {
      bequest.closeFirst(acceptor);
    },
    reopened: ({ address, fd }) => events.emit('relistened', address, { fd }),
    refusedPeer,
    warned,
  });
  const admission = new Admission(lifetime, recipeConcurrency, {
    get workers() {
      return pool.workers;
    },
    get servesOwn() {
      return listeners.own.length > 0;
    },
    workerEvents: () => workerEvents,
    workerHost: (isTrusted) => (isTrusted ? trustedWorkerHost : workerHost),
    joined: (worker) => {
      pool.add(worker);
      events.emit('joined', worker);
      governor.admit(worker);
      for (const listener of listeners) entrust(worker, listener);
      if (worker instanceof RecipeWorker) {
        events.emit('ready', worker);
        governor.review();
        pool.update();
      }
      lifetime.track(worker.run());
    },
    refusedPeer,
    resume: () => {
      controls.resume();
    },
    childSpoke: () => {
      addresses.review();
    },
  });
  const readyTimeoutMs = options.readyTimeoutMs ?? DEFAULT_READY_TIMEOUT_MS;
  const addresses = new ServedAddresses(listeners, lifetime, readyTimeoutMs, {
    get workers() {
      return pool.workers;
    },
    hasSilentChildren: () => admission.silentChildren.size > 0,
    released: (address, isLate) => events.emit('released', address, { isLate }),
    refuseAll: (listener) => {
      pool.refuseAll(listener);
      bequest.removeListener(listener);
    },
  });
  const tickets = new SharedTickets(clock, (listener, secret) => {
    for (const worker of pool.workers) {
      if (worker instanceof PassfdWorker) worker.changeTickets(listener, secret);
    }
  });
  const bequest = new Bequest(
    { isEnabled: lastWill, isDeferred: mode === 'direct' },
    () => ({
      closedFirst: [controls.control, controls.raw].filter((acceptor) => acceptor !== undefined),
      listeners,
      workers: pool.workers,
    }),
    warned,
  );

  /** Also gives workers a duplicate of the present socket, in place of the one that they may have. */
  function feedPool(listener: Listener): void {
    pool.open(listener, warned);
    for (const worker of pool.workers) entrust(worker, listener);
  }

  /** If this process dies, the listening socket lives on in the worker. */
  function entrust(worker: WorkerHandle, listener: Listener): void {
    if (!(worker instanceof PassfdWorker)) return;
    try {
      worker.custodian.entrust(listener);
    } catch (error) {
      // No descriptor is free for the duplicate. Other workers have one.
      warned(error);
    }
  }

  const workerEvents: PassfdWorkerEvents = {
    ready: (worker) => {
      bequest.setWorker(worker);
      events.emit('ready', worker);
      governor.review();
      pool.update();
      addresses.review();
    },
    changed: (worker) => {
      drains.review(worker);
      pool.update();
    },
    subscribed: (worker) => {
      bequest.setWorker(worker);
    },
    unwatched: (worker, id) => {
      governor.noteUnwatched(worker, id);
    },
    serving: (worker) => {
      events.emit('serving', worker);
      governor.review();
      addresses.review();
    },
    leaving: (worker, left) => {
      addresses.note(left, !worker.isTakenOut);
    },
    adopted: (count) => {
      pool.counts.adopted += count;
    },
    refused: (worker, connections, reason) => {
      bequest.takeBack(connections);
      if (reason === 'descriptors') events.emit('starved', worker);
      pool.takeBack(connections);
      drains.review(worker);
    },
    draining: (worker) => {
      bequest.setWorker(worker);
      events.emit('draining', worker);
      governor.review();
      drains.review(worker);
    },
    stalled: (worker) => {
      events.emit('stalled', worker);
    },
    resumed: (worker) => {
      events.emit('resumed', worker);
    },
    broke: refusedPeer,
    failed: warned,
    left: (worker, connections, reason) => {
      // Before a client gets the descriptor that is free now: the control socket may need it as its reserve.
      controls.resume();
      bequest.takeBack(connections);
      pool.takeBack(connections);
      pool.remove(worker);
      governor.remove(worker);
      admission.delete(worker);
      drains.end(worker);
      events.emit('left', worker, { redelivered: connections.length, reason });
    },
    returned: (worker, hasCustody) => {
      admission.noteReturned(worker, hasCustody);
      events.emit('returned', worker);
      traceStep('worker-returned');
      lifetime.track(relieveOfStale(worker));
    },
  };

  /** When every wanted address is open, closes the other sockets that the worker has brought, here and there. */
  async function relieveOfStale(worker: PassfdWorker): Promise<void> {
    await admission.prepared;
    await listeners.closeReturned();
    worker.custodian.relieveOfStale();
  }

  const trustedWorkerHost: PassfdWorkerHost = {
    acceptsDirectly: mode === 'direct',
    ownListeners: async () => {
      await admission.prepared;
      return listeners.own;
    },
    listen: (address, backlog) => listeners.openWanted(address, backlog),
    unlisten: (worker, listener) => addresses.unlisten(worker, listener),
    ticketSecret: (listener, brought) =>
      listeners.has(listener) ? tickets.answer(listener, brought) : undefined,
    takeCustody: async (label, descriptor) => {
      await listeners.takeReturned(label, descriptor);
      addresses.note(listeners, true);
      traceStep('socket-returned');
    },
  };

  /** A worker of another user may not choose where the dispatcher listens, and gets no secrets. */
  const workerHost: PassfdWorkerHost = {
    ...trustedWorkerHost,
    listen: () =>
      Promise.reject(
        new PassfdError(
          'ERR_ADDRESS_DENIED',
          'Only workers of the same user may have the dispatcher listen at an address',
        ),
      ),
    ticketSecret: () => undefined,
  };

  return {
    lifetime,
    listeners,
    pool,
    controls,
    admission,
    addresses,
    drains,
    tickets,
    governor,
    bequest,
    own,
  };
}
