// Pool: the workers and the connections that wait for them. Gives each connection to one worker, and never to two.
import type { Acceptor, Descriptor } from '../fd/index.js';
import type { Consumer } from '../fd/internal.js';
import { AcceptedConnection, type Listener } from './listener.js';
import { Patience } from './patience.js';
import type { Policy } from './policy.js';
import type { WorkerHandle } from './workers/worker-handle.js';

/**
 * What happens to a connection when no worker has room. `wait`: it waits in the kernel. `refuse`: it is accepted and closed, at
 * once if every worker has reached its capacity, otherwise after it has waited for a second.
 */
export type Overload = 'wait' | 'refuse';

/** Most connections accepted at once. More room than that need not be counted. */
const ACCEPTED_AT_ONCE = 256;

/** Most connections refused at once, so that refusing does not keep the process from its work. */
const REFUSED_AT_ONCE = 64;

/** Most rounds in which a backlog is emptied: new clients may come as fast as they are accepted. */
const LAST_ROUNDS = 16;

/** A policy that fails does so for every connection: one report in this time is enough. */
const POLICY_FAILURE_PAUSE_MS = 1_000;

/** A worker with so many connections has much to do. The next client may be served as soon by a worker that may queue it. */
const MUCH = 16;

const NOBODY_LISTENS = 'no worker listens at their address any more';

export interface PoolCounts {
  accepted: number;
  adopted: number;
  redelivered: number;
  refused: number;
}

/** What the pool asks of a governor. Where workers accept by themselves, the dispatcher accepts for the other workers. */
export interface PoolGovernor {
  /** Whether the worker accepts the connections of the listener by itself. */
  isLeftTo(worker: WorkerHandle, listener: Listener): boolean;
  /** How many connections may be accepted there now. May be infinite. */
  mayAccept(listener: Listener): number;
  noteAccepted(listener: Listener, count: number): void;
  /** A client waits. */
  wake(): void;
}

/** Without a governor, the dispatcher accepts everything. */
export const ungoverned: PoolGovernor = {
  isLeftTo: () => false,
  mayAccept: () => Infinity,
  noteAccepted: () => undefined,
  wake: () => undefined,
};

/** What the pool reports. */
export interface PoolEvents {
  /** Connections were accepted and have no worker yet. */
  taken(): void;
  refused(count: number, reason: string): void;
  /**
   * A custom policy threw, or chose a worker that it was not offered. The first worker with room was taken. Reported at most
   * once a second.
   */
  policyFailed(error: unknown): void;
}

export class Pool {
  readonly counts: PoolCounts = { accepted: 0, adopted: 0, redelivered: 0, refused: 0 };
  readonly #createPolicy: () => Policy;
  /** Each address has its own policy, so that its turns do not depend on the connections of other addresses. */
  readonly #policies = new WeakMap<Listener, Policy>();
  readonly #overload: Overload;
  readonly #events: PoolEvents;
  readonly #governor: PoolGovernor;
  /** In the order of their ids. */
  #workers: WorkerHandle[] = [];
  /** With what feeds on each. Least recently served first, so that listeners take turns when there is little room. */
  readonly #listeners = new Map<Listener, Consumer>();
  /** One for each address, under `refuse`. */
  readonly #patience = new Map<Listener, Patience>();
  readonly #refused = new WeakSet<Listener>();
  /** Accepted, and without a worker. Those that came back are first. */
  #waiting: AcceptedConnection[] = [];
  #whenEmpty: (() => void)[] = [];
  #isFrozen = false;
  /** A custom policy may call the dispatcher while it is asked. */
  #isPlacing = false;
  /** The last failure that is not reported yet. */
  #policyFailure: { readonly error: unknown } | undefined;
  #policyFailureReportedAt = Number.NEGATIVE_INFINITY;

  /** @param createPolicy makes the policy of one address */
  constructor(
    createPolicy: () => Policy,
    overload: Overload,
    events: PoolEvents,
    governor: PoolGovernor = ungoverned,
  ) {
    this.#createPolicy = createPolicy;
    this.#overload = overload;
    this.#events = events;
    this.#governor = governor;
  }

  get workers(): readonly WorkerHandle[] {
    return this.#workers;
  }

  get waiting(): readonly AcceptedConnection[] {
    return this.#waiting;
  }

  add(worker: WorkerHandle): void {
    this.#workers = [...this.#workers, worker].sort((a, b) => a.id - b.id);
  }

  remove(worker: WorkerHandle): void {
    this.#workers = this.#workers.filter((other) => other !== worker);
    this.update();
  }

  /** Accepts at an address from now on. @param failed called when accepting fails, once for each error until it works again */
  open(listener: Listener, failed: (error: unknown) => void): void {
    const patience = this.#overload === 'refuse' ? this.#patienceAt(listener) : undefined;
    const consumer: Consumer = {
      room: () => this.#roomFor(listener),
      take: (descriptors) => {
        if (this.#listeners.size > 1 && this.#listeners.delete(listener)) {
          this.#listeners.set(listener, consumer);
        }
        this.take(listener, descriptors);
      },
      crowded: (isCrowded) => {
        if (isCrowded) {
          patience?.begin();
          this.#governor.wake();
        } else patience?.end();
        if (this.#isFrozen) patience?.reset();
      },
      failed: (error, isRepeated) => {
        if (!isRepeated) failed(error);
      },
    };
    this.#listeners.set(listener, consumer);
    listener.acceptor.feed(consumer);
  }

  /** Has the governor woken by the next client that waits there, whether or not one has waited before. */
  rearm(listener: Listener): void {
    const consumer = this.#listeners.get(listener);
    if (consumer && !listener.acceptor.closed) listener.acceptor.feed(consumer);
  }

  /** The dispatcher may accept more at a listener than before. */
  resume(listener: Listener): void {
    if (this.#listeners.has(listener)) listener.acceptor.resume();
  }

  /** Accepts no more there. Connections that wait are still placed. */
  close(listener: Listener): void {
    this.#listeners.delete(listener);
    this.#patience.get(listener)?.end();
    this.#patience.delete(listener);
  }

  /** Places accepted connections, or lets them wait. */
  take(listener: Listener, descriptors: readonly Descriptor[]): void {
    listener.accepted += descriptors.length;
    this.counts.accepted += descriptors.length;
    this.#events.taken();
    this.#governor.noteAccepted(listener, descriptors.length);
    const arrived = descriptors.map((descriptor) => new AcceptedConnection(descriptor, listener));
    this.#waiting.push(...arrived);
    this.#place();
    if (this.#waiting.length > 0 && this.#refuses(listener)) this.#refuse(new Set(arrived));
  }

  /**
   * Accepts and places what waits at a socket of the listener that is about to be closed.
   * @throws {PassfdError} as `Acceptor.acceptNow`; what was accepted before the error is placed
   */
  takeBacklog(listener: Listener, acceptor: Acceptor = listener.acceptor): void {
    for (let round = 0; round < LAST_ROUNDS; round++) {
      const descriptors = acceptor.acceptNow();
      if (descriptors.length === 0) return;
      this.take(listener, descriptors);
    }
  }

  /** Places connections that a worker did not adopt, before all others. */
  takeBack(connections: readonly AcceptedConnection[]): void {
    const [refused, served] = partition(connections, ({ listener }) => this.#refused.has(listener));
    this.#closeRefused(refused, NOBODY_LISTENS);
    for (const connection of served) connection.return();
    this.#waiting = [...served, ...this.#waiting];
    this.update();
  }

  /** No worker will serve an address again: closes its connections that wait, and those that come back later. */
  refuseAll(listener: Listener): void {
    this.#refused.add(listener);
    this.#drop(listener, NOBODY_LISTENS);
  }

  /** A worker may have room that it had not. */
  update(): void {
    this.#place();
    // A listener that accepts moves to the end of the set while this loop runs, and is resumed once more: to no effect.
    for (const { acceptor } of this.#listeners.keys()) acceptor.resume();
    this.#noteEmpty();
  }

  /** Accepts and places nothing until `thaw`. The patience of clients does not run out meanwhile. */
  freeze(): void {
    this.#isFrozen = true;
    for (const patience of this.#patience.values()) patience.reset();
    for (const { acceptor } of this.#listeners.keys()) acceptor.resume();
  }

  thaw(): void {
    this.#isFrozen = false;
    this.update();
  }

  /** Takes over from another generation. */
  restore(waiting: readonly AcceptedConnection[], counts: PoolCounts): void {
    for (const connection of waiting) connection.return();
    this.#waiting = [...waiting];
    Object.assign(this.counts, counts);
  }

  /** Another process goes on with the waiting connections: closes them here. */
  disown(): void {
    for (const patience of this.#patience.values()) patience.end();
    this.#patience.clear();
    for (const { descriptor } of this.#waiting.splice(0)) descriptor.close();
  }

  /** Resolves when no connection waits and none is in flight. */
  emptied(): Promise<void> {
    if (this.isEmpty) return Promise.resolve();
    return new Promise((resolve) => this.#whenEmpty.push(resolve));
  }

  /** Closes the waiting connections. */
  destroy(reason: string): void {
    this.#closeRefused(this.#waiting.splice(0), reason);
    this.#noteEmpty();
  }

  #roomFor(listener: Listener): number {
    if (this.#isFrozen) return 0;
    const most = this.#governor.mayAccept(listener);
    if (most === 0) return 0;
    // Waiting connections of other addresses have no worker with room, so they do not compete for this room.
    let room =
      this.#waiting.length === 0 ? 0 : -this.#waiting.filter((other) => other.listener === listener).length;
    for (const worker of this.#workers) {
      if (this.#governor.isLeftTo(worker, listener)) continue;
      room += worker.roomFor(listener);
      if (room >= ACCEPTED_AT_ONCE) break;
    }
    if (room > 0) return Math.min(room, most);
    return this.#refuses(listener) ? REFUSED_AT_ONCE : 0;
  }

  /** Whether a client that finds no room there is closed. */
  #refuses(listener: Listener): boolean {
    const patience = this.#patience.get(listener);
    if (!patience) return false;
    const workers = this.#workers.filter((worker) => worker.serves(listener));
    if (workers.length === 0) {
      patience.reset();
      return false;
    }
    patience.restart();
    return patience.isOver || workers.every(({ isFull }) => isFull);
  }

  #patienceAt(listener: Listener): Patience {
    const patience = new Patience(() => {
      listener.acceptor.resume();
    });
    this.#patience.set(listener, patience);
    return patience;
  }

  #place(): void {
    if (this.#isFrozen || this.#isPlacing || this.#waiting.length === 0) return;
    this.#isPlacing = true;
    const candidates = new Map<Listener, Candidates>();
    const left: AcceptedConnection[] = [];
    const given = new Set<WorkerHandle>();
    try {
      // One at a time: connections that arrive or come back while a policy is asked are placed too.
      for (let next = this.#waiting.shift(); next; next = this.#waiting.shift()) {
        left.push(next);
        const worker = this.#workerFor(next, candidates);
        if (!worker) continue;
        left.pop();
        if (next.placeAgain()) this.counts.redelivered++;
        given.add(worker);
        worker.give(next);
        for (const each of candidates.values()) each.update(worker);
      }
    } finally {
      // Even if a worker throws, the other workers get theirs, and nothing is sent to two.
      this.#waiting = [...left, ...this.#waiting];
      this.#isPlacing = false;
      for (const worker of given) worker.flush();
    }
    this.#reportPolicyFailure();
    this.#noteEmpty();
  }

  #workerFor(
    connection: AcceptedConnection,
    allCandidates: Map<Listener, Candidates>,
  ): WorkerHandle | undefined {
    const { listener } = connection;
    let candidates = allCandidates.get(listener);
    if (!candidates) {
      candidates = new Candidates(this.#workers, listener, this.#policyAt(listener), this.#governor);
      allCandidates.set(listener, candidates);
    }
    if (candidates.list.length === 0) return undefined;
    const worker = this.#choose(candidates.policy, candidates.list, connection);
    if (worker.roomFor(listener) > 0) return worker;
    // The policy of a user has drained it.
    candidates.update(worker);
    return candidates.list[0];
  }

  #choose(policy: Policy, candidates: readonly WorkerHandle[], connection: AcceptedConnection): WorkerHandle {
    const [first] = candidates;
    if (!first) throw new TypeError('No worker has room');
    let chosen: WorkerHandle | undefined;
    try {
      chosen = policy(candidates, connection);
    } catch (error) {
      this.#policyFailure = { error };
      return first;
    }
    if (candidates.includes(chosen)) return chosen;
    this.#policyFailure = { error: new TypeError('The policy returned a worker that it was not offered') };
    return first;
  }

  #policyAt(listener: Listener): Policy {
    let policy = this.#policies.get(listener);
    if (!policy) this.#policies.set(listener, (policy = this.#createPolicy()));
    return policy;
  }

  /** Called when all are placed: a listener of the event may call the dispatcher. */
  #reportPolicyFailure(): void {
    const failure = this.#policyFailure;
    if (!failure) return;
    this.#policyFailure = undefined;
    const now = performance.now();
    if (now - this.#policyFailureReportedAt < POLICY_FAILURE_PAUSE_MS) return;
    this.#policyFailureReportedAt = now;
    this.#events.policyFailed(failure.error);
  }

  /** Refuses connections that have just arrived. One that came back from a worker was let in before, and waits. */
  #refuse(arrived: ReadonlySet<AcceptedConnection>): void {
    const [refused, kept] = partition(this.#waiting, (connection) => arrived.has(connection));
    this.#waiting = kept;
    this.#closeRefused(refused, 'no worker has room');
    this.#noteEmpty();
  }

  #drop(listener: Listener, reason: string): void {
    const [dropped, kept] = partition(this.#waiting, (connection) => connection.listener === listener);
    this.#waiting = kept;
    this.#closeRefused(dropped, reason);
    this.#noteEmpty();
  }

  #closeRefused(connections: readonly AcceptedConnection[], reason: string): void {
    if (connections.length === 0) return;
    this.counts.refused += connections.length;
    for (const { descriptor } of connections) descriptor.close();
    this.#events.refused(connections.length, reason);
  }

  /** Whether no connection waits and none is in flight. */
  get isEmpty(): boolean {
    return (
      !this.#isPlacing && this.#waiting.length === 0 && this.#workers.every(({ inFlight }) => inFlight === 0)
    );
  }

  #noteEmpty(): void {
    if (this.#whenEmpty.length === 0 || !this.isEmpty) return;
    for (const resolve of this.#whenEmpty.splice(0)) resolve();
  }
}

function partition<T>(all: readonly T[], isFirst: (one: T) => boolean): [T[], T[]] {
  return [all.filter(isFirst), all.filter((one) => !isFirst(one))];
}

/** The workers that the policy may choose for one address, while a batch is placed. */
class Candidates {
  readonly policy: Policy;
  readonly #workers: readonly WorkerHandle[];
  readonly #listener: Listener;
  readonly #governor: PoolGovernor;
  #candidates: readonly WorkerHandle[] = [];

  constructor(workers: readonly WorkerHandle[], listener: Listener, policy: Policy, governor: PoolGovernor) {
    this.policy = policy;
    this.#governor = governor;
    this.#workers = workers;
    this.#listener = listener;
    this.#look();
  }

  get list(): readonly WorkerHandle[] {
    return this.#candidates;
  }

  /** The worker was given a connection. Asking all workers again after each would cost more than the connection. */
  update(worker: WorkerHandle): void {
    if (worker.mayQueue || worker.roomFor(this.#listener) === 0) this.#look();
  }

  #look(): void {
    const all = this.#workers.filter((worker) => worker.roomFor(this.#listener) > 0);
    // Workers that accept by themselves take what is left: the dispatcher accepts for the others.
    const served = all.filter((worker) => !this.#governor.isLeftTo(worker, this.#listener));
    const withRoom = served.length > 0 ? served : all;
    const prompt = withRoom.filter(({ mayQueue }) => !mayQueue);
    this.#candidates = prompt.some(({ load }) => load < MUCH) ? prompt : withRoom;
  }
}
