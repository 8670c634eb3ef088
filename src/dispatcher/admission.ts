// Admission: which peers and children become workers, and under which id.
import { setTimeout as sleep } from 'node:timers/promises';

import { PassfdError, StreamSocket, type PeerCredentials } from '../fd/index.js';
import { SocketDiagnostics } from '../fd/internal.js';
import {
  callWorker,
  decodeIntroduction,
  hasOtherUser,
  isTrusted,
  MAX_HELLO_BYTES,
  RETURN_TIMEOUT_MS,
  traceStep,
  type WorkerHello,
} from '../handoff/index.js';
import { Connection } from '../multiprocessing/index.js';
import { AwaitedWorkers, type AwaitedWorker } from './awaited-workers.js';
import { turnAway, type Control, type Joined } from './control.js';
import type { Lifetime } from './lifetime.js';
import type { AcceptedConnection, Listener } from './listener.js';
import { JOINED_LIMITS, Quota } from './quota.js';
import type { WorkerSnapshot } from './succession/snapshot.js';
import type { PassfdWorkerEvents, PassfdWorkerHost } from './workers/passfd-worker-host.js';
import { PassfdWorker } from './workers/passfd-worker.js';
import { RecipeWorker, type RecipeWorkerOptions } from './workers/recipe-worker.js';
import type { Dialect, WorkerHandle } from './workers/worker-handle.js';

/** Pause before a worker that did not answer is called again. It may be stopped. */
const CALL_AGAIN_MS = 1_000;

/** A process that the owner of the dispatcher has started as a worker. */
export interface ChildIdentity {
  /** Its slot. */
  readonly id: number;
  readonly pid: number;
}

type Worker = PassfdWorker | RecipeWorker;

export interface AdmissionHost {
  /** All workers at present. */
  readonly workers: readonly WorkerHandle[];
  /** Whether the dispatcher has addresses of its own. */
  readonly servesOwn: boolean;
  workerEvents(): PassfdWorkerEvents;
  /** @param isTrusted whether the worker may have the dispatcher listen at addresses that it names */
  workerHost(isTrusted: boolean): PassfdWorkerHost;
  joined(worker: Worker): void;
  refusedPeer(error: PassfdError): void;
  /** A refused peer was closed: its descriptor is free again. */
  resume(): void;
  /** A child has said hello, or will never do so. */
  childSpoke(): void;
}

export class Admission {
  readonly #lifetime: Lifetime;
  readonly #recipeConcurrency: number | undefined;
  readonly #host: AdmissionHost;
  readonly #diagnostics = SocketDiagnostics.open();
  /** Workers that joined at a control socket, and the sockets of workers that wait to be admitted. */
  readonly #quota = new Quota<WorkerHandle | StreamSocket>(JOINED_LIMITS);
  /** Channels of children that have not said hello yet. */
  readonly #silentChildren = new Map<StreamSocket, ChildIdentity>();
  readonly #awaited = new AwaitedWorkers();
  /** Settled when the addresses are open that a new worker may ask for. */
  #prepared: Promise<void> = Promise.resolve();
  #isPreparing = false;
  #firstId = 1;

  /** @param recipeConcurrency see `DispatcherOptions` */
  constructor(lifetime: Lifetime, recipeConcurrency: number | undefined, host: AdmissionHost) {
    this.#lifetime = lifetime;
    this.#recipeConcurrency = recipeConcurrency;
    this.#host = host;
  }

  get prepared(): Promise<void> {
    return this.#prepared;
  }

  /** Whether new workers wait until the addresses are open. */
  get isPreparing(): boolean {
    return this.#isPreparing;
  }

  get silentChildren(): ReadonlyMap<StreamSocket, ChildIdentity> {
    return this.#silentChildren;
  }

  /** Ids up to `count` belong to children. Workers that join by themselves get higher ids. */
  reserveIds(count: number): void {
    this.#firstId = count + 1;
  }

  /**
   * Waits for the workers of a dispatcher that died, and prepares what new workers may ask for. New workers wait meanwhile.
   * @param prepare runs when one worker has returned with all listening sockets, or when none can return any more
   */
  prepare(control: Control, awaited: readonly AwaitedWorker[], prepare: () => Promise<void>): Promise<void> {
    this.#prepared = this.#prepare(control, awaited, prepare);
    return this.#prepared;
  }

  async #prepare(
    control: Control,
    awaited: readonly AwaitedWorker[],
    prepare: () => Promise<void>,
  ): Promise<void> {
    const returned = this.#awaited.any(awaited, RETURN_TIMEOUT_MS);
    this.#isPreparing = true;
    control.start();
    for (const { pid } of awaited) this.#lifetime.track(this.#callBack(control, pid));
    try {
      await returned;
      await prepare();
      traceStep('prepared');
    } finally {
      this.#isPreparing = false;
    }
  }

  /** A worker has returned from a dispatcher that died. @param hasCustody whether it brought listening sockets */
  noteReturned(worker: WorkerHandle, hasCustody: boolean): void {
    this.#awaited.note(worker.pid, hasCustody);
  }

  /**
   * Admits a worker that has said hello at the control socket. A new worker waits until everything is open that it may
   * ask for.
   */
  async admit({ socket, peer }: Joined, hello: WorkerHello): Promise<void> {
    const waits = !hello.returns && this.#isPreparing;
    if (waits && !(await this.#awaitPrepared({ socket, peer }))) return;
    // The worker takes the place of its socket.
    this.#quota.delete(socket);
    if (this.#lifetime.hasEnded) {
      socket.discard();
      return;
    }
    const awaitedId = this.#awaited.idOf(peer.pid);
    const create = (): PassfdWorker =>
      PassfdWorker.welcome(
        socket,
        hello,
        {
          id: awaitedId ?? this.#slotOf(peer, hello) ?? this.#freeId(hello.returns?.id),
          pid: peer.pid,
          serves: this.#host.servesOwn,
          isTrusted: isTrusted(peer),
        },
        this.#host.workerEvents(),
        this.#host.workerHost(isTrusted(peer)),
      );
    // A returning worker has connections open, and had a place with the dispatcher before, perhaps as a child.
    const hasPlace = waits || (hello.returns !== undefined && (awaitedId !== undefined || isTrusted(peer)));
    if (hasPlace) this.#add({ socket, peer }, create());
    else this.#addIfPlace({ socket, peer }, 'passfd', create);
  }

  /** Admits a worker of the recipe. */
  admitRecipe(joined: Joined, pid: number, dialect: 'multiprocessing' | 'raw'): void {
    this.#addIfPlace(joined, dialect, () => {
      const identity = { id: this.#freeId(), pid, dialect };
      return new RecipeWorker(joined.socket, identity, this.#recipeWorkerOptions());
    });
  }

  /** Takes over the channel of a child. The child becomes a worker when it has said hello. */
  addChild(socket: StreamSocket, child: ChildIdentity): void {
    if (this.#lifetime.hasEnded) socket.destroy();
    else this.#lifetime.track(this.#admitChild(socket, child));
  }

  /** Admits a child when it has said hello. A child that never does is no worker; its channel ends with its process. */
  async #admitChild(socket: StreamSocket, child: ChildIdentity): Promise<void> {
    const connection = new Connection(socket);
    this.#silentChildren.set(socket, child);
    if (this.#lifetime.isFrozen) socket.freeze();
    try {
      const introduction = decodeIntroduction(await connection.recvBytes(MAX_HELLO_BYTES));
      if (introduction.dialect !== 'passfd' || introduction.hello.role !== 'worker') {
        throw new PassfdError('ERR_HELLO', `The first message of worker ${child.id} is not a worker's hello`);
      }
      const identity = { ...child, serves: this.#host.servesOwn, isTrusted: true };
      this.#host.joined(
        PassfdWorker.welcome(
          socket,
          introduction.hello,
          identity,
          this.#host.workerEvents(),
          this.#host.workerHost(true),
        ),
      );
    } catch (error) {
      this.#turnAway(socket, error);
    } finally {
      this.#silentChildren.delete(socket);
      this.#host.childSpoke();
    }
  }

  /**
   * Makes the handle of a worker of another generation. It is frozen.
   * @param inFlight the connections that were in flight to it
   */
  restore(
    { worker: state, channel, unsent }: WorkerSnapshot,
    listeners: ReadonlyMap<number, Listener>,
    inFlight: readonly AcceptedConnection[],
  ): Worker {
    const socket = new StreamSocket(channel);
    const worker =
      state.dialect === 'passfd'
        ? PassfdWorker.restore(
            socket,
            state,
            { listeners, inFlight, unsent },
            this.#host.workerEvents(),
            this.#host.workerHost(state.isTrusted),
          )
        : RecipeWorker.restore(socket, state, inFlight[0], this.#recipeWorkerOptions());
    // The kernel names the worker's process only if that has connected by itself. A child was given one end of a pair.
    const { peer } = socket;
    if (peer.pid === worker.pid) this.#quota.add(worker, peer, descriptorsFor(worker.dialect));
    return worker;
  }

  /** The worker has left: its place is free. */
  delete(worker: WorkerHandle): void {
    this.#quota.delete(worker);
  }

  freeze(): void {
    for (const socket of this.#silentChildren.keys()) socket.freeze();
  }

  thaw(): void {
    for (const socket of this.#silentChildren.keys()) socket.thaw();
  }

  /** Ends all waiting for workers of a dispatcher that died. */
  stopWaiting(): void {
    this.#awaited.close();
  }

  close(): void {
    for (const socket of this.#silentChildren.keys()) socket.destroy();
  }

  closeDiagnostics(): void {
    this.#diagnostics?.close();
  }

  #recipeWorkerOptions(): RecipeWorkerOptions {
    return {
      events: this.#host.workerEvents(),
      diagnostics: this.#diagnostics,
      concurrency: this.#recipeConcurrency,
    };
  }

  /** Calls an awaited worker that has changed its user: the control socket may not let it in. */
  async #callBack(control: Control, pid: number): Promise<void> {
    const { closed } = this.#awaited;
    while (this.#awaited.isAwaited(pid)) {
      if (hasOtherUser(pid)) {
        const socket = await callWorker(pid, closed).catch(() => undefined);
        // A frozen dispatcher admits nobody.
        if (this.#lifetime.isFrozen) socket?.discard();
        else if (socket && (await control.hear(socket))) return;
      }
      await sleep(CALL_AGAIN_MS, undefined, { ref: false, signal: closed }).catch(() => undefined);
    }
  }

  /**
   * Waits until everything is open that a new worker may ask for. Its socket takes the place of a worker meanwhile.
   * @returns false when there is no place, or when the worker has hung up
   */
  async #awaitPrepared({ socket, peer }: Joined): Promise<boolean> {
    try {
      this.#quota.check(peer, descriptorsFor('passfd'));
    } catch (error) {
      this.#turnAway(socket, error);
      return false;
    }
    this.#quota.add(socket, peer, descriptorsFor('passfd'));
    const prepared = new AbortController();
    const isPrepared = this.#prepared.catch(() => undefined).then(() => true);
    const isThere = await Promise.race([isPrepared, untilEnd(socket, prepared.signal).then(() => false)]);
    prepared.abort();
    if (isThere) return true;
    this.#quota.delete(socket);
    socket.discard();
    return false;
  }

  #addIfPlace(joined: Joined, dialect: Dialect, create: () => Worker): void {
    try {
      this.#quota.check(joined.peer, descriptorsFor(dialect));
    } catch (error) {
      this.#turnAway(joined.socket, error);
      return;
    }
    this.#add(joined, create());
  }

  #add({ peer }: Joined, worker: Worker): void {
    this.#quota.add(worker, peer, descriptorsFor(worker.dialect));
    this.#host.joined(worker);
  }

  #turnAway(socket: StreamSocket, error: unknown): void {
    const refusal = turnAway(socket, error);
    this.#host.resume();
    if (refusal) this.#host.refusedPeer(refusal);
  }

  /** The slot of a worker that was a child of a dispatcher that died. Its supervisor gives it the place, or ends it. */
  #slotOf(peer: PeerCredentials, { returns }: WorkerHello): number | undefined {
    const slot = returns?.child?.slot;
    return slot !== undefined && slot < this.#firstId && isTrusted(peer) ? slot : undefined;
  }

  /** @param wanted the id that a returning worker had, unless it was a child */
  #freeId(wanted = 0): number {
    const taken = new Set(this.#host.workers.map(({ id }) => id));
    let id = this.#firstId;
    if (wanted > id) id = taken.has(wanted) ? id : wanted;
    while (taken.has(id)) id++;
    return id;
  }
}

/** Descriptors that a worker takes here: its channel; a recipe worker also a watch of its process and one of its receipts. */
function descriptorsFor(dialect: Dialect): number {
  return dialect === 'passfd' ? 1 : 3;
}

/** Resolves when the peer has hung up without another word. Never resolves otherwise. */
function untilEnd(socket: StreamSocket, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    socket
      .untilReadable({ signal })
      .then(() => {
        if (socket.peek(1)?.length === 0) resolve();
      })
      .catch(() => {
        if (!signal.aborted) resolve();
      });
  });
}
