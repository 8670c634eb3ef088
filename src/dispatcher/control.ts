// The control socket: checks who connects, reads what it says first, and brings it to whom it belongs.
import { EventEmitter } from 'node:events';

import { listen, PassfdError, type Acceptor, type PeerCredentials, type StreamSocket } from '../fd/index.js';
import {
  decodeIntroduction,
  encodeJson,
  isTrusted,
  MAX_HELLO_BYTES,
  type Introduction,
  type WorkerHello,
} from '../handoff/index.js';
import { Connection, Listener, loads, type AuthKey } from '../multiprocessing/index.js';
import { Crowd, originOf } from '../multiprocessing/internal.js';
import { CommandConnection, isEnd, type Commands } from './command-connection.js';
import { CONTROL_LIMITS, Quota } from './quota.js';

export interface ControlOptions {
  /** The key that workers and commands have to know; without one, the peer's user decides alone. */
  readonly authkey?: AuthKey;
  /** Users that may connect, beside this process's own and root. */
  readonly allowUids?: readonly number[];
  /** Groups that may connect: the primary group of the peer, as the kernel tells it. */
  readonly allowGids?: readonly number[];
  /** Time that a peer has to say who it is. */
  readonly handshakeTimeoutMs?: number;
  /** What a control connection can ask for, by the `type` of its message. */
  readonly commands?: Commands;
}

const DEFAULT_HANDSHAKE_TIMEOUT_MS = 10_000;

/** Peers that have not said yet who they are. When one more comes, the process with the most of them loses one. */
const MAX_STRANGERS = 64;

/** Time that peers have to finish their introduction when another process takes over; the others are cut off. */
const SETTLE_TIMEOUT_MS = 1_000;

/** Everyone may try to connect where users are named, since each is checked; else the file's mode keeps others out. */
const OPEN_MODE = 0o666;
const PRIVATE_MODE = 0o600;

export interface Joined {
  readonly socket: StreamSocket;
  readonly peer: PeerCredentials;
}

interface ControlEvents {
  worker: [joined: Joined, hello: WorkerHello];
  multiprocessingWorker: [joined: Joined, pid: number];
  refused: [error: PassfdError];
  /** Nobody could be let in just now; it is tried again. */
  warned: [error: PassfdError];
}

export class Control extends EventEmitter<ControlEvents> {
  readonly #listener: Listener;
  readonly #commands: Commands;
  readonly #timeoutMs: number;
  readonly #options: ControlOptions;
  readonly #mode: number;
  readonly #strangers = new Crowd<Connection>(MAX_STRANGERS);
  readonly #controls = new Quota<CommandConnection>(CONTROL_LIMITS);
  #whenSettled: (() => void) | undefined;
  #accepting: Promise<void> | undefined;

  private constructor(listener: Listener, options: ControlOptions) {
    super();
    this.#listener = listener;
    this.#options = options;
    this.#commands = options.commands ?? {};
    this.#mode = modeFor(options);
    this.#timeoutMs = options.handshakeTimeoutMs ?? DEFAULT_HANDSHAKE_TIMEOUT_MS;
    // Whoever looks for what is wrong has to get an answer when no descriptor is free, too.
    listener.acceptor.keepSpare();
    listener.on('refused', (error) => this.emit('refused', error));
    listener.on('warned', (error) => this.emit('warned', error));
  }

  /**
   * Takes the path. Whoever connects waits until `start`.
   * @param path or a listening socket that another process has made
   * @throws {PassfdError} as `listen`: `ERR_ADDRESS_IN_USE` names the process that is there already
   */
  static async open(path: string | Acceptor, options: ControlOptions): Promise<Control> {
    const { authkey, handshakeTimeoutMs } = options;
    const listener = await Listener(path, {
      ...(authkey !== undefined && { authkey }),
      ...(handshakeTimeoutMs !== undefined && { handshakeTimeoutMs }),
      mode: modeFor(options),
      distrustsPeers: true,
      checkPeer: (peer) => {
        checkPeer(peer, options);
      },
    });
    return new Control(listener, options);
  }

  start(): void {
    this.#accepting ??= this.#accept();
  }

  /**
   * Opens the socket anew when somebody has removed its file. Who waits at the one before is let in.
   * @returns the new one
   * @throws {PassfdError} as `listen`; then it is as before
   */
  async restoreFile(): Promise<Acceptor | undefined> {
    const { acceptor } = this;
    if (!('path' in acceptor.address) || (await acceptor.isReachable())) return undefined;
    const fresh = await listen(acceptor.address, { mode: this.#mode });
    if (acceptor.closed) {
      await fresh.close();
      return undefined;
    }
    fresh.keepSpare();
    try {
      await this.#listener.exchange(fresh);
    } catch (error) {
      await fresh.close();
      throw error;
    }
    return fresh;
  }

  /**
   * Hears a worker that was called from here, as one that has come.
   * @returns whether it said who it is
   */
  async hear(socket: StreamSocket): Promise<boolean> {
    const connection = new Connection(socket);
    try {
      socket.distrust(socket.peer.uid);
      checkPeer(socket.peer, this.#options);
      this.#enter(connection);
      await this.#introduce(connection);
      return true;
    } catch {
      socket.discard();
      return false;
    }
  }

  /** The listening socket. */
  get acceptor(): Acceptor {
    return this.#listener.acceptor;
  }

  /**
   * Lets nobody in until `thaw`: who connects waits in the backlog. Resolves when all who had come are where they belong;
   * those that say nothing are cut off.
   */
  async freeze(): Promise<void> {
    await this.#listener.pause(SETTLE_TIMEOUT_MS);
    if (this.#strangers.size === 0) return;
    const timer = setTimeout(() => {
      for (const connection of this.#strangers) connection.close();
    }, SETTLE_TIMEOUT_MS);
    await new Promise<void>((resolve) => (this.#whenSettled = resolve));
    this.#whenSettled = undefined;
    clearTimeout(timer);
  }

  thaw(): void {
    this.#listener.resume();
  }

  /** Another process goes on with the socket. Peers whose command has no answer yet hear that they should ask there. */
  async abandon(): Promise<void> {
    await this.#listener.abandon();
    for (const connection of this.#strangers) connection.close();
    for (const { connection } of this.#controls) {
      connection.sendBytes(Buffer.from(JSON.stringify({ type: 'again' }))).catch(() => undefined);
      connection.close();
    }
    await this.#accepting;
  }

  async close(): Promise<void> {
    await this.#listener.close();
    for (const connection of this.#strangers) connection.close();
    for (const { connection } of this.#controls) connection.close();
    await this.#accepting;
  }

  async #accept(): Promise<void> {
    for await (const connection of this.#listener) {
      this.#enter(connection);
      this.#introduce(connection).catch((error: unknown) => {
        this.#refuse(connection, error);
      });
    }
  }

  #enter(connection: Connection): void {
    const outgoing = this.#strangers.enter(connection, originOf(connection.socket));
    outgoing?.socket.discard(crowdedOut());
  }

  async #introduce(connection: Connection): Promise<void> {
    const { peer } = connection.socket;
    const introduction = await this.#hear(connection);
    if (introduction.dialect === 'multiprocessing') {
      this.emit(
        'multiprocessingWorker',
        { socket: connection.socket, peer },
        pidIn(introduction.pickle, peer),
      );
    } else if (introduction.hello.role === 'worker') {
      this.emit('worker', { socket: connection.socket, peer }, introduction.hello);
    } else {
      await this.#serveCommands(connection);
    }
  }

  async #hear(connection: Connection): Promise<Introduction> {
    const deadline = setTimeout(() => {
      connection.socket.discard(
        new PassfdError(
          'ERR_HANDSHAKE_TIMEOUT',
          `A peer connected and did not say within ${this.#timeoutMs} ms who it is`,
        ),
      );
    }, this.#timeoutMs);
    try {
      return decodeIntroduction(await connection.recvBytes(MAX_HELLO_BYTES));
    } finally {
      clearTimeout(deadline);
      this.#strangers.delete(connection);
      if (this.#strangers.size === 0) this.#whenSettled?.();
    }
  }

  async #serveCommands(connection: Connection): Promise<void> {
    const one = new CommandConnection(connection, this.#commands);
    this.#makePlace(one.peer);
    this.#controls.add(one, one.peer);
    try {
      await one.run();
    } finally {
      this.#controls.delete(one);
      this.#listener.acceptor.resume();
    }
  }

  /**
   * Where a user has no place left, the oldest of its connections that waits for nothing gives way.
   * @throws {PassfdError} `ERR_QUOTA` when all of them wait for something
   */
  #makePlace(peer: PeerCredentials): void {
    try {
      this.#controls.check(peer);
    } catch (error) {
      const idle = [...this.#controls].find((one) => one.isIdle && one.peer.uid === peer.uid);
      if (!idle) throw error;
      this.#controls.delete(idle);
      this.#refuse(idle.connection, new PassfdError('ERR_QUOTA', 'It was idle, and its place is needed'));
      this.#controls.check(peer);
    }
  }

  #refuse(connection: Connection, error: unknown): void {
    this.#strangers.delete(connection);
    const refusal = turnAway(connection.socket, error);
    this.#listener.acceptor.resume();
    if (refusal) this.emit('refused', refusal);
  }
}

/**
 * Closes the connection of a peer, and tells it why, if it can still hear it.
 * @returns what it was refused for; undefined when it has hung up itself
 */
export function turnAway(socket: StreamSocket, error: unknown): PassfdError | undefined {
  if (isEnd(error)) {
    socket.discard();
    return undefined;
  }
  const refusal = error instanceof PassfdError ? error : new PassfdError('ERR_HELLO', String(error));
  socket
    .send(encodeJson({ type: 'farewell', code: refusal.code, reason: refusal.message }))
    .catch(() => undefined);
  socket.discard();
  return refusal;
}

/** The control file's mode under these options: also for the raw control socket. */
export function modeFor({ allowUids = [], allowGids = [] }: ControlOptions): number {
  return allowUids.length > 0 || allowGids.length > 0 ? OPEN_MODE : PRIVATE_MODE;
}

/** @throws {PassfdError} `ERR_PEER_DENIED` */
export function checkPeer(peer: PeerCredentials, options: ControlOptions): void {
  const { allowUids = [], allowGids = [] } = options;
  if (isTrusted(peer) || allowUids.includes(peer.uid) || allowGids.includes(peer.gid)) return;
  throw new PassfdError(
    'ERR_PEER_DENIED',
    `Process ${peer.pid} of user ${peer.uid}, group ${peer.gid}, may not connect; allow it by --allow-uid or --allow-gid`,
  );
}

/** By convention a worker of the recipe says its process id first; another object says nothing, and the kernel knows. */
function pidIn(pickle: Buffer, peer: PeerCredentials): number {
  try {
    const said = loads(pickle);
    const isPid = typeof said === 'number' && Number.isSafeInteger(said) && said > 0;
    return isPid && peer.pid === 0 ? said : peer.pid;
  } catch {
    return peer.pid;
  }
}

function crowdedOut(): PassfdError {
  return new PassfdError(
    'ERR_HANDSHAKE_TIMEOUT',
    `More than ${MAX_STRANGERS} peers have not said who they are, and this one is the oldest of the process that has the most`,
  );
}
