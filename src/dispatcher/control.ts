// Control: the control socket. Checks each peer, reads its hello, and tells workers from commands.
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
  /** The key that workers and commands must know: a string or bytes. Default: none, so only the peer's user is checked. */
  readonly authkey?: AuthKey;
  /** Users that may connect beside root and the user of this process. Default: none. */
  readonly allowUids?: readonly number[];
  /** Primary groups whose members may connect, as the kernel reports the peer's group. Default: none. */
  readonly allowGids?: readonly number[];
  /** Time for the challenge, and again for the hello, in milliseconds. Default: 10 000. */
  readonly handshakeTimeoutMs?: number;
  /** Commands beyond `status` and `drain`, by the `type` of their message. Default: none. */
  readonly commands?: Commands;
}

const DEFAULT_HANDSHAKE_TIMEOUT_MS = 10_000;

/** Peers that have not said hello. When one more connects, the process that has the most of them loses its oldest. */
const MAX_STRANGERS = 64;

/** Time for peers to say hello when the socket is frozen. The others are disconnected. */
const SETTLE_TIMEOUT_MS = 1_000;

/** The file mode when other users or groups are allowed: each peer is checked. Otherwise the mode keeps them out. */
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
  /** Accepting failed; it is tried again. */
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
    // `passfd status` must get an answer even when no descriptor is free.
    listener.acceptor.keepSpare();
    listener.on('refused', (error) => this.emit('refused', error));
    listener.on('warned', (error) => this.emit('warned', error));
  }

  /**
   * Takes the path. Peers wait in the backlog until `start`.
   * @param path or a listening socket that another process has made
   * @throws {PassfdError} as `listen`; `ERR_ADDRESS_IN_USE` names the process that listens there
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
   * Opens the socket anew if its file was removed. Peers that wait at the old socket are accepted.
   * @returns the new socket, if there is one
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
   * Reads the hello of a worker that this process has called, as if the worker had connected.
   * @returns whether it said hello
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
   * Accepts nobody until `thaw`: peers wait in the backlog. Resolves when each peer that had connected has said hello or
   * was disconnected.
   */
  async freeze(): Promise<void> {
    await this.#listener.freeze(SETTLE_TIMEOUT_MS);
    if (this.#strangers.size === 0) return;
    const timer = setTimeout(() => {
      for (const connection of this.#strangers) connection.close();
    }, SETTLE_TIMEOUT_MS);
    await new Promise<void>((resolve) => (this.#whenSettled = resolve));
    this.#whenSettled = undefined;
    clearTimeout(timer);
  }

  thaw(): void {
    this.#listener.thaw();
  }

  /** Another process goes on with the socket. Peers whose command is not answered are told to ask that process. */
  async disown(): Promise<void> {
    await this.#listener.disown();
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
          `A peer connected and did not say hello within ${this.#timeoutMs} ms`,
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
   * When a user has no place left, closes its oldest idle connection.
   * @throws {PassfdError} `ERR_QUOTA` when none of them is idle
   */
  #makePlace(peer: PeerCredentials): void {
    try {
      this.#controls.check(peer);
    } catch (error) {
      const idle = [...this.#controls].find((one) => one.isIdle && one.peer.uid === peer.uid);
      if (!idle) throw error;
      this.#controls.delete(idle);
      this.#refuse(
        idle.connection,
        new PassfdError('ERR_QUOTA', 'The connection was idle, and its place is needed'),
      );
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
 * Closes the connection of a peer, after a farewell with the reason.
 * @returns the reason; undefined when the peer has hung up itself
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

/** The file mode of a control socket or a raw control socket. */
export function modeFor({ allowUids = [], allowGids = [] }: ControlOptions): number {
  return allowUids.length > 0 || allowGids.length > 0 ? OPEN_MODE : PRIVATE_MODE;
}

/** @throws {PassfdError} `ERR_PEER_DENIED` */
export function checkPeer(peer: PeerCredentials, options: ControlOptions): void {
  const { allowUids = [], allowGids = [] } = options;
  if (isTrusted(peer) || allowUids.includes(peer.uid) || allowGids.includes(peer.gid)) return;
  throw new PassfdError(
    'ERR_PEER_DENIED',
    `Process ${peer.pid} of user ${peer.uid}, group ${peer.gid}, may not connect; --allow-uid or --allow-gid allows it`,
  );
}

/** A recipe worker sends its process id first, by convention. It counts only where the kernel does not know the id. */
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
    `More than ${MAX_STRANGERS} peers have not said hello; this is the oldest of the process that has the most of them`,
  );
}
