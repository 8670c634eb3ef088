// Dispatcher: accepts connections, chooses a worker for each, and hands it off; runs no user code but a custom policy.
import { EventEmitter } from 'node:events';
import { readFileSync } from 'node:fs';

import {
  Acceptor,
  Descriptor,
  formatAddress,
  listen,
  PassfdError,
  SocketDiagnostics,
  StreamSocket,
  type Address,
  type AddressLike,
} from '../fd/index.js';
import { decodeIntroduction, MAX_HELLO_BYTES, type WantedAddress } from '../handoff/index.js';
import { Connection } from '../multiprocessing/index.js';
import { AcceptLoop } from './accept-loop.js';
import {
  checkPeer,
  Control,
  isTrusted,
  modeFor,
  sayFarewell,
  type ControlOptions,
  type Joined,
} from './control.js';
import { PassfdWorker, type PassfdWorkerEvents } from './passfd-worker.js';
import { createPolicy, type Policy, type PolicyName } from './policy.js';
import { Pool, type Overload } from './pool.js';
import { RecipeWorker } from './recipe-worker.js';
import { describeStatus, type Status } from './status.js';
import type { WorkerHandle, WorkerView } from './worker-handle.js';

export interface DispatcherOptions {
  /** The rule that chooses the worker: `round-robin` unless it is given. */
  readonly policy?: PolicyName | Policy;
  /** When no worker has room: let clients wait in the kernel's backlog, or accept and close them. */
  readonly overload?: Overload;
  /** Connections that wait in the kernel at most, for each of the dispatcher's own addresses. */
  readonly backlog?: number;
}

export interface DispatcherEvents {
  joined: [worker: WorkerView];
  ready: [worker: WorkerView];
  draining: [worker: WorkerView];
  left: [worker: WorkerView, how: { readonly redelivered: number; readonly reason: string }];
  listening: [address: Address];
  unlistened: [address: Address];
  /** A peer of the control socket was not let in, or broke the protocol. */
  peerRefused: [error: PassfdError];
  /** Connections were closed without a worker. */
  refused: [what: { readonly count: number; readonly reason: string }];
  /** A worker has no descriptor left; its connections went elsewhere. */
  starved: [worker: WorkerView];
  /** Something failed that stops no connection; the message says what. */
  warned: [error: unknown];
}

/** Time that connections which wait have to find a worker when the dispatcher stops. */
const STOP_TIMEOUT_MS = 5_000;

/** Listeners have 16 bits in the protocol (`docs/protocol.md`, HANDOFF). */
const MAX_LISTENER_ID = 65_535;

/** Most rounds in which a backlog is emptied at the end: new clients may come as fast as they are taken. */
const LAST_ROUNDS = 16;

const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

export class Dispatcher extends EventEmitter<DispatcherEvents> implements AsyncDisposable {
  readonly #options: DispatcherOptions;
  readonly #pool: Pool;
  readonly #loops = new Map<number, AcceptLoop>();
  /** Addresses that workers asked for, by what they asked for. */
  readonly #wanted = new Map<string, Wanted>();
  readonly #diagnostics = SocketDiagnostics.open();
  readonly #startedAt = performance.now();
  /** What to call when a worker that drains has nothing open any more. */
  readonly #drains = new Map<WorkerHandle, () => void>();
  readonly #runs = new Set<Promise<void>>();
  /** Channels of children that have not said anything yet. */
  readonly #silentChildren = new Set<StreamSocket>();
  #control: Control | undefined;
  #rawControl: Acceptor | undefined;
  #nextLoop = 0;
  #firstId = 1;
  #refusedPeers = 0;
  #closing: Promise<void> | undefined;

  constructor(options: DispatcherOptions = {}) {
    super();
    const { policy = 'round-robin', overload = 'wait' } = options;
    this.#options = options;
    this.#pool = new Pool(typeof policy === 'string' ? createPolicy(policy) : policy, overload, {
      refused: (count, reason) => this.emit('refused', { count, reason }),
      policyFailed: (error) => this.emit('warned', error),
    });
  }

  /**
   * Accepts at an address of the dispatcher's own, for all workers that serve.
   * @param address also `{ fd }`, a listening socket that this process has inherited; it stays open here
   * @throws {PassfdError} as `listen` of `passfd`
   */
  async listen(address: AddressLike | { readonly fd: number }): Promise<Address> {
    const { backlog } = this.#options;
    const acceptor =
      typeof address === 'object' && 'fd' in address
        ? inherited(address.fd)
        : await listen(address, backlog === undefined ? {} : { backlog });
    return this.#open(acceptor, true).address;
  }

  /** Lets workers and commands connect at a path. @throws {PassfdError} `ERR_ADDRESS_IN_USE` names who is there */
  async openControl(path: string, options: ControlOptions = {}): Promise<void> {
    this.#control = await Control.open(path, {
      ...options,
      commands: {
        status: () => Promise.resolve(this.status()),
        drain: ({ worker }) => this.drainWorker(Number(worker)),
        ...options.commands,
      },
    });
    this.#control.on('worker', (joined, hello) => {
      this.#join(
        new PassfdWorker(
          joined.socket,
          hello,
          { id: this.#freeId(), pid: joined.peer.pid, serves: this.#servesOwn },
          this.#eventsFor(isTrusted(joined.peer)),
        ),
      );
    });
    this.#control.on('multiprocessingWorker', (joined, pid) => {
      this.#joinRecipe(joined, pid, 'multiprocessing');
    });
    this.#control.on('refused', (error) => {
      this.#refusePeer(error);
    });
    await options.prepare?.();
    this.#control.start();
  }

  /** Lets raw workers connect at a path: each gets `x` with one descriptor, and answers `OK`. */
  async openRawControl(path: string, options: ControlOptions = {}): Promise<void> {
    const acceptor = await listen(path, { mode: modeFor(options) });
    this.#rawControl = acceptor;
    this.#track(this.#acceptRaw(acceptor, options));
  }

  /**
   * Adds a worker that inherited the other end of a socket pair. It needs no key, and may begin to speak whenever it is
   * ready to.
   * @param child its slot and its process
   */
  addChild(socket: StreamSocket, child: { readonly id: number; readonly pid: number }): void {
    this.#track(this.#hearChild(socket, child));
  }

  /** Ids up to `count` belong to children; workers that join on their own get higher ones. */
  reserveIds(count: number): void {
    this.#firstId = count + 1;
  }

  get workers(): readonly WorkerView[] {
    return this.#pool.workers;
  }

  status(): Status {
    return describeStatus(
      { version, pid: process.pid, generation: 1, uptimeMs: Math.round(performance.now() - this.#startedAt) },
      this.#loops.values(),
      this.#pool,
      this.#refusedPeers,
    );
  }

  /**
   * Gives a worker nothing new, and resolves when it has nothing open any more, or has left.
   * @throws {PassfdError} `ERR_DISPATCHER` when there is no such worker
   */
  drainWorker(id: number): Promise<void> {
    const worker =
      this.#pool.workers.find((candidate) => candidate.id === id && candidate.state !== 'draining') ??
      this.#pool.workers.find((candidate) => candidate.id === id);
    if (!worker) {
      const known = this.#pool.workers.map((each) => each.id).join(', ') || 'none';
      return Promise.reject(
        new PassfdError('ERR_DISPATCHER', `There is no worker ${id} here; these are: ${known}`),
      );
    }
    return this.drain(worker);
  }

  /** As `drainWorker`, of exactly this one: while a worker is replaced, two have the same id. */
  drain(view: WorkerView): Promise<void> {
    const worker = this.#pool.workers.find((candidate) => candidate === view);
    if (!worker) return Promise.resolve();
    worker.drain();
    return new Promise((resolve) => {
      const before = this.#drains.get(worker);
      this.#drains.set(worker, () => {
        before?.();
        resolve();
      });
      this.#noteDrained(worker);
    });
  }

  /** Takes what waits in the backlogs, closes the listening sockets, and resolves when all of it has found a worker. */
  async stopAccepting(timeoutMs = STOP_TIMEOUT_MS): Promise<void> {
    for (const loop of [...this.#loops.values()]) {
      this.#takeBacklog(loop);
      await this.#closeLoop(loop);
    }
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([this.#pool.emptied(), timeout]);
    clearTimeout(timer);
  }

  /** Frees everything. Workers see their channels end, and keep what they have adopted. A second call does nothing. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    await this.#control?.close();
    await this.#rawControl?.close();
    for (const loop of [...this.#loops.values()]) await this.#closeLoop(loop);
    for (const worker of this.#pool.workers) worker.end();
    for (const socket of this.#silentChildren) socket.destroy();
    await Promise.allSettled(this.#runs);
    // A worker may have been in the middle of being given one.
    for (const loop of [...this.#loops.values()]) await this.#closeLoop(loop);
    this.#pool.destroy('the dispatcher is closed');
    this.#diagnostics?.close();
  }

  get #servesOwn(): boolean {
    return [...this.#loops.values()].some(({ isOwn }) => isOwn);
  }

  #track(run: Promise<void>): void {
    this.#runs.add(run);
    run
      .catch((error: unknown) => this.emit('warned', error))
      .finally(() => this.#runs.delete(run))
      .catch(() => undefined);
  }

  #freeId(): number {
    const taken = new Set(this.#pool.workers.map(({ id }) => id));
    let id = this.#firstId;
    while (taken.has(id)) id++;
    return id;
  }

  /** Not one that was just given back: connections of that may be on their way. */
  #freeLoopId(): number {
    for (let tries = 0; tries <= MAX_LISTENER_ID; tries++) {
      const id = this.#nextLoop;
      this.#nextLoop = id === MAX_LISTENER_ID ? 0 : id + 1;
      if (!this.#loops.has(id)) return id;
    }
    throw new PassfdError('ERR_DISPATCHER', `More than ${MAX_LISTENER_ID} addresses are open`);
  }

  #open(acceptor: Acceptor, isOwn: boolean): AcceptLoop {
    const loop = new AcceptLoop(this.#freeLoopId(), acceptor, isOwn);
    this.#loops.set(loop.id, loop);
    this.#pool.open(loop, (error) => this.emit('warned', error));
    this.emit('listening', loop.address);
    return loop;
  }

  async #closeLoop(loop: AcceptLoop): Promise<void> {
    this.#loops.delete(loop.id);
    this.#pool.close(loop);
    for (const [key, wanted] of this.#wanted) {
      if (wanted.loop === loop) this.#wanted.delete(key);
    }
    try {
      await loop.acceptor.close();
    } catch (error) {
      // The socket is closed; its file could not be removed.
      this.emit('warned', error);
    }
    this.emit('unlistened', loop.address);
  }

  #takeBacklog(loop: AcceptLoop): void {
    try {
      for (let round = 0; round < LAST_ROUNDS; round++) {
        const descriptors = loop.acceptor.acceptNow();
        if (descriptors.length === 0) return;
        this.#pool.take(loop, descriptors);
      }
    } catch (error) {
      this.emit('warned', error);
    }
  }

  #join(worker: PassfdWorker | RecipeWorker): void {
    this.#pool.add(worker);
    this.emit('joined', worker);
    if (worker instanceof RecipeWorker) {
      this.emit('ready', worker);
      this.#pool.update();
    }
    this.#track(worker.run());
  }

  #joinRecipe({ socket }: Joined, pid: number, dialect: 'multiprocessing' | 'raw'): void {
    this.#join(
      new RecipeWorker(
        socket,
        { id: this.#freeId(), pid, dialect },
        this.#eventsFor(false),
        this.#diagnostics,
      ),
    );
  }

  async #acceptRaw(acceptor: Acceptor, options: ControlOptions): Promise<void> {
    for await (const descriptor of acceptor) {
      const socket = new StreamSocket(descriptor);
      try {
        const { peer } = socket;
        checkPeer(peer, options);
        this.#joinRecipe({ socket, peer }, peer.pid, 'raw');
      } catch (error) {
        socket.destroy();
        if (!(error instanceof PassfdError)) throw error;
        this.#refusePeer(error);
      }
    }
  }

  /** A child that never speaks is no worker, and its channel ends when it does. */
  async #hearChild(
    socket: StreamSocket,
    child: { readonly id: number; readonly pid: number },
  ): Promise<void> {
    const connection = new Connection(socket);
    this.#silentChildren.add(socket);
    try {
      const introduction = decodeIntroduction(await connection.recvBytes(MAX_HELLO_BYTES));
      if (introduction.dialect !== 'passfd' || introduction.hello.role !== 'worker') {
        throw new PassfdError('ERR_HELLO', `Worker ${child.id} said something else than a worker's hello`);
      }
      const { hello } = introduction;
      this.#join(
        new PassfdWorker(socket, hello, { ...child, serves: this.#servesOwn }, this.#eventsFor(true)),
      );
    } catch (error) {
      if (error instanceof PassfdError && error.code === 'ERR_HELLO') {
        sayFarewell(connection, error);
        this.#refusePeer(error);
      }
      connection.close();
    } finally {
      this.#silentChildren.delete(socket);
    }
  }

  #refusePeer(error: PassfdError): void {
    this.#refusedPeers++;
    this.emit('peerRefused', error);
  }

  /** @param mayListen whether this worker may have the dispatcher listen at addresses that it names */
  #eventsFor(mayListen: boolean): PassfdWorkerEvents {
    return {
      ready: (worker) => {
        this.emit('ready', worker);
        this.#pool.update();
      },
      changed: (worker) => {
        this.#noteDrained(worker);
        this.#pool.update();
      },
      adopted: (count) => {
        this.#pool.counts.adopted += count;
      },
      refused: (worker, connections, reason) => {
        if (reason === 'descriptors') this.emit('starved', worker);
        this.#pool.takeBack(connections);
        this.#noteDrained(worker);
      },
      draining: (worker) => {
        this.emit('draining', worker);
        this.#noteDrained(worker);
      },
      broke: (error) => {
        this.#refusePeer(error);
      },
      left: (worker, connections, reason) => {
        this.#pool.takeBack(connections);
        this.#pool.remove(worker);
        this.#drains.get(worker)?.();
        this.#drains.delete(worker);
        this.emit('left', worker, { redelivered: connections.length, reason });
      },
      serve: () => [...this.#loops.values()].filter(({ isOwn }) => isOwn),
      listen: async (_worker, address, backlog) => {
        if (!mayListen) {
          throw new PassfdError(
            'ERR_ADDRESS_DENIED',
            'Only workers of the same user may have the dispatcher listen at an address',
          );
        }
        return this.#listenFor(address, backlog);
      },
      unlisten: (_worker, loop) => this.#releaseLoop(loop),
    };
  }

  #noteDrained(worker: WorkerHandle): void {
    if (worker.state !== 'draining' || worker.inFlight > 0 || worker.active !== 0) return;
    this.#drains.get(worker)?.();
    this.#drains.delete(worker);
  }

  /** The first worker that asks for an address makes it; the others get the same one. */
  async #listenFor(address: WantedAddress, backlog: number): Promise<AcceptLoop> {
    const existing = this.#findLoop(address);
    if (existing) return existing;
    const key = JSON.stringify(address);
    const known = this.#wanted.get(key);
    if (known) return known.opening;
    const opening = openWanted(address, backlog).then((acceptor) => this.#open(acceptor, false));
    const wanted: Wanted = { opening, loop: undefined };
    this.#wanted.set(key, wanted);
    try {
      wanted.loop = await opening;
      return wanted.loop;
    } catch (error) {
      this.#wanted.delete(key);
      throw error;
    }
  }

  /** An address that is open already, whoever asked for it, and in whatever words. */
  #findLoop(address: WantedAddress): AcceptLoop | undefined {
    if ('fd' in address || ('port' in address && (address.port === 0 || address.host === null))) {
      return undefined;
    }
    const wanted = formatAddress(
      'path' in address ? address : { host: address.host ?? '', port: address.port },
    );
    return [...this.#loops.values()].find((loop) => formatAddress(loop.address) === wanted);
  }

  /** When the last worker has closed its server, the address is free again. One that died has not closed anything. */
  async #releaseLoop(loop: AcceptLoop): Promise<void> {
    if (loop.isOwn || !this.#loops.has(loop.id)) return;
    const isServed = this.#pool.workers.some(
      (worker) => worker instanceof PassfdWorker && worker.isSubscribed(loop),
    );
    if (isServed) return;
    this.#pool.abandon(loop);
    await this.#closeLoop(loop);
  }
}

/** An address that a worker asked for, from then on until it is closed. */
interface Wanted {
  readonly opening: Promise<AcceptLoop>;
  loop: AcceptLoop | undefined;
}

/** @throws {PassfdError} `ERR_WRONG_KIND`, `ERR_DESCRIPTOR_CLOSED` */
function inherited(fd: number): Acceptor {
  const borrowed = new Descriptor(fd);
  try {
    using duplicate = borrowed.duplicate();
    return new Acceptor(duplicate);
  } finally {
    borrowed.release();
  }
}

async function openWanted(address: WantedAddress, backlog: number): Promise<Acceptor> {
  if ('fd' in address) return inherited(address.fd);
  if ('path' in address) return listen(address.path, { backlog, mode: address.mode });
  const { host, port, ipv6Only } = address;
  if (host !== null) return listen({ host, port }, { backlog, ipv6Only });
  try {
    return await listen({ host: '::', port }, { backlog, ipv6Only });
  } catch (error) {
    // As Node: IPv4 alone where this machine has no IPv6 (net, server.listen).
    if (error instanceof PassfdError && error.code === 'ERR_ADDRESS') {
      return listen({ host: '0.0.0.0', port }, { backlog });
    }
    throw error;
  }
}
