// The control socket: checks who connects, reads what it says first, and brings it to whom it belongs.
import { EventEmitter } from 'node:events';

import { PassfdError, type Acceptor, type PeerCredentials, type StreamSocket } from '../fd/index.js';
import {
  decodeCommand,
  decodeIntroduction,
  encodeJson,
  isTrusted,
  MAX_HELLO_BYTES,
  shortened,
  type Introduction,
  type WorkerHello,
} from '../handoff/index.js';
import { Listener, loads, type AuthKey, type Connection } from '../multiprocessing/index.js';
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

/** @param progress tells whoever asked how far it is */
export type CommandHandler = (
  message: Readonly<Record<string, unknown>>,
  progress: (text: string) => void,
) => Promise<unknown>;

export type Commands = Readonly<Record<string, CommandHandler>>;

const DEFAULT_HANDSHAKE_TIMEOUT_MS = 10_000;

/** Peers that have not said yet who they are; when one more comes, the oldest gives way. */
const MAX_STRANGERS = 64;

/** Time that peers have to finish their introduction when another process takes over; the others are cut off. */
const SETTLE_TIMEOUT_MS = 1_000;

/** Longest command. */
const MAX_COMMAND_BYTES = 65_536;

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
  /** In the order in which they came. */
  readonly #strangers = new Set<Connection>();
  readonly #controls = new Quota<Connection>(CONTROL_LIMITS);
  #whenSettled: (() => void) | undefined;
  #loop: Promise<void> | undefined;

  private constructor(listener: Listener, options: ControlOptions) {
    super();
    this.#listener = listener;
    this.#commands = options.commands ?? {};
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
      checkPeer: (peer) => {
        checkPeer(peer, options);
      },
    });
    return new Control(listener, options);
  }

  start(): void {
    this.#loop ??= this.#accept();
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

  /** Another process goes on with the socket. Who has asked for something and has no answer yet is told to ask there. */
  async abandon(): Promise<void> {
    await this.#listener.abandon();
    for (const connection of this.#strangers) connection.close();
    for (const connection of this.#controls) {
      connection.sendBytes(Buffer.from(JSON.stringify({ type: 'again' }))).catch(() => undefined);
      connection.close();
    }
    await this.#loop;
  }

  async close(): Promise<void> {
    await this.#listener.close();
    for (const connection of [...this.#strangers, ...this.#controls]) connection.close();
    await this.#loop;
  }

  async #accept(): Promise<void> {
    for await (const connection of this.#listener) {
      const [oldest] = this.#strangers;
      if (oldest && this.#strangers.size >= MAX_STRANGERS) oldest.socket.destroy(crowdedOut());
      this.#strangers.add(connection);
      this.#introduce(connection).catch((error: unknown) => {
        this.#refuse(connection, error);
      });
    }
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
      connection.socket.destroy(
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

  /** One answer for each command, until the peer hangs up. */
  async #serveCommands(connection: Connection): Promise<void> {
    const { peer } = connection.socket;
    this.#controls.check(peer);
    this.#controls.add(connection, peer);
    try {
      for (;;) {
        const frame = await connection.recvBytes(MAX_COMMAND_BYTES);
        const answer = await this.#run(frame, connection);
        await connection.sendBytes(Buffer.from(JSON.stringify(answer)));
      }
    } catch (error) {
      connection.close();
      if (!isEnd(error)) throw error;
    } finally {
      this.#controls.delete(connection);
      this.#listener.acceptor.resume();
    }
  }

  async #run(frame: Buffer, connection: Connection): Promise<unknown> {
    const progress = (text: string): void => {
      // Who has hung up does not want to know.
      connection.sendBytes(Buffer.from(JSON.stringify({ type: 'progress', text }))).catch(() => undefined);
    };
    try {
      const message = decodeCommand(frame);
      const { type } = message;
      if (type !== 'status' && !isTrusted(connection.socket.peer)) {
        throw new PassfdError(
          'ERR_PEER_DENIED',
          'Only the user of the dispatcher, and root, may ask for that',
        );
      }
      const command = Object.hasOwn(this.#commands, type) ? this.#commands[type] : undefined;
      if (!command) {
        const known = Object.keys(this.#commands).join(', ');
        throw new PassfdError(
          'ERR_PROTOCOL',
          shortened(`There is no command ${JSON.stringify(type)} here, but: ${known}`),
        );
      }
      return { type: 'done', result: (await command(message, progress)) ?? null };
    } catch (error) {
      const code = error instanceof PassfdError ? error.code : 'ERR_PROTOCOL';
      return { type: 'failed', code, reason: (error as Error).message };
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
    socket.destroy();
    return undefined;
  }
  const refusal = error instanceof PassfdError ? error : new PassfdError('ERR_HELLO', String(error));
  socket
    .send(encodeJson({ type: 'farewell', code: refusal.code, reason: refusal.message }))
    .catch(() => undefined);
  socket.destroy();
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

function isEnd(error: unknown): boolean {
  return error instanceof PassfdError && ['ERR_EOF', 'ERR_PEER_GONE', 'ERR_CLOSED'].includes(error.code);
}

function crowdedOut(): PassfdError {
  return new PassfdError(
    'ERR_HANDSHAKE_TIMEOUT',
    `More than ${MAX_STRANGERS} peers have not said who they are, and this one has taken the longest`,
  );
}
