// Listener: accepts connections from Clients, here or in Python, and lets only those in that know the key.
import { EventEmitter, setMaxListeners } from 'node:events';
import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Acceptor, listen, PassfdError, type Descriptor, type PeerCredentials } from '../fd/index.js';
import { fromPython, toPython, type ConnectionAddress } from './address.js';
import { authenticateClient, toKey, type AuthKey } from './authentication.js';
import { Connection, type ConnectionOptions } from './connection.js';
import { Crowd, originOf } from './crowd.js';
import { DEFAULT_HANDSHAKE_TIMEOUT_MS, shakeHands } from './handshake.js';
import { checkMilliseconds } from './milliseconds.js';

/**
 * Handshakes at the same time; when one more comes, one of whoever has the most gives way, so that silent clients keep
 * nobody out.
 */
const MAX_HANDSHAKES = 64;

export interface ListenerOptions extends Pick<ConnectionOptions, 'maxFrameBytes' | 'pickleLimits'> {
  /** The key that both ends know; without one, whoever can connect is let in. At least 16 random bytes make a good one. */
  readonly authkey?: AuthKey;
  /** Connections that wait in the kernel at most. */
  readonly backlog?: number;
  /** The file mode of a Unix socket: who may connect. The owner alone, unless it is given. */
  readonly mode?: number;
  /** Time that a client has for the whole handshake. */
  readonly handshakeTimeoutMs?: number;
  /** Looks at who has connected to a Unix socket, before anything of it is read; throws to refuse it. */
  readonly checkPeer?: (peer: PeerCredentials) => void;
  /**
   * Whether those who connect to a Unix socket stay without trust once they are let in, until somebody says
   * `connection.socket.trust()`: see `StreamSocket.distrust`. Until then nobody is trusted.
   */
  readonly distrustsPeers?: boolean;
}

interface ListenerEvents {
  /** A client was not let in: wrong key, broken handshake, out of time. Nobody else is affected. */
  refused: [error: PassfdError];
  /**
   * Accepting failed, and is tried again after a pause; told once for each error until it works again. Where nobody
   * listens to this event, an `accept` that waits is rejected each time; and while no descriptor is free it waits on, and
   * a process warning says so.
   */
  warned: [error: PassfdError];
}

/**
 * Listens for connections, as `multiprocessing.connection.Listener` does.
 * @param address a path, an abstract name or `[host, port]`; without one, a path in a new directory of its own; or a
 * listening socket that is open already, which it takes over
 * @throws {PassfdError} as `listen`
 */
export async function Listener(
  address?: ConnectionAddress | Acceptor,
  options: ListenerOptions = {},
): Promise<Listener> {
  const { authkey, handshakeTimeoutMs = DEFAULT_HANDSHAKE_TIMEOUT_MS } = options;
  checkMilliseconds(handshakeTimeoutMs, 'handshakeTimeoutMs');
  const key = authkey === undefined ? undefined : toKey(authkey);
  if (address !== undefined) {
    const acceptor = address instanceof Acceptor ? address : await listen(await fromPython(address), options);
    return new ConnectionListener(acceptor, key, handshakeTimeoutMs, options);
  }
  const directory = await mkdtemp(join(tmpdir(), 'passfd-'));
  try {
    const acceptor = await listen(join(directory, 'listener'), options);
    return new ConnectionListener(acceptor, key, handshakeTimeoutMs, options, directory);
  } catch (error) {
    await rmdir(directory);
    throw error;
  }
}

/** What `Listener` returns: accepts connections whose handshake succeeded, many handshakes at a time. */
export type Listener = ConnectionListener;

class ConnectionListener
  extends EventEmitter<ListenerEvents>
  implements AsyncDisposable, AsyncIterable<Connection>
{
  /** Where it listens: the path, or `[host, port]`, as in Python. */
  readonly address: string | [host: string, port: number];
  #acceptor: Acceptor;
  readonly #key: Buffer | undefined;
  readonly #handshakeTimeoutMs: number;
  /** Made for the socket alone, and removed with it. */
  readonly #directory: string | undefined;
  readonly #options: ListenerOptions;
  readonly #closing = new AbortController();
  readonly #handshakes = new Crowd<Handshake>(MAX_HANDSHAKES);
  /** Let in, and not yet taken by an `accept`: at most as many as there are handshakes at a time. */
  readonly #ready: Connection[] = [];
  readonly #waiting: Waiting[] = [];
  #isPaused = false;

  constructor(
    acceptor: Acceptor,
    key: Buffer | undefined,
    handshakeTimeoutMs: number,
    options: ListenerOptions,
    directory?: string,
  ) {
    super();
    this.address = toPython(acceptor.address);
    this.#acceptor = acceptor;
    this.#key = key;
    this.#handshakeTimeoutMs = handshakeTimeoutMs;
    this.#options = options;
    this.#directory = directory;
    // Every handshake listens to it.
    setMaxListeners(0, this.#closing.signal);
    this.#feedFrom(acceptor);
  }

  #feedFrom(acceptor: Acceptor): void {
    acceptor.distrustPeers((error) => {
      process.nextTick(() => {
        this.#refuse(error);
      });
    });
    acceptor.feed({
      // One at a time, while somebody waits for one: each may fail its handshake.
      room: () => (this.#waiting.length > 0 && !this.#isPaused ? 1 : 0),
      take: (descriptors) => {
        for (const descriptor of descriptors) this.#startHandshake(descriptor);
      },
      failed: (error, isRepeated) => {
        this.#onFailed(error, isRepeated);
      },
    });
  }

  /**
   * The next connection whose handshake succeeded. Unlike in Python, a client that fails it does not end the call: it
   * is told by the event `refused`.
   * @throws {PassfdError} `ERR_CLOSED`, `ERR_SYSTEM` (see `warned`), or the reason of the signal
   */
  accept(options: { readonly signal?: AbortSignal } = {}): Promise<Connection> {
    const { signal } = options;
    return new Promise((resolve, reject) => {
      this.#closing.signal.throwIfAborted();
      signal?.throwIfAborted();
      const ready = this.#ready.shift();
      if (ready) {
        resolve(ready);
        return;
      }
      const abort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        this.#acceptor.resume();
        reject(signal?.reason);
      };
      const waiting: Waiting = {
        resolve: (connection) => {
          signal?.removeEventListener('abort', abort);
          resolve(connection);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abort);
          reject(error);
        },
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#waiting.push(waiting);
      this.#acceptor.resume();
    });
  }

  /** The connections, until the listener is closed. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Connection, void, undefined> {
    for (;;) {
      try {
        yield await this.accept();
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        throw error;
      }
    }
  }

  /** The listening socket, which stays this object's own: to hand it to another process while this one is paused. */
  get acceptor(): Acceptor {
    return this.#acceptor;
  }

  /**
   * Leaves whoever connects in the backlog until `resume`. Resolves when no handshake is under way any more.
   * @param timeoutMs time for those that are; the others are refused
   */
  async pause(timeoutMs: number): Promise<void> {
    this.#isPaused = true;
    this.#acceptor.resume();
    const timer = setTimeout(() => {
      for (const { connection } of this.#handshakes) connection.socket.discard(pausedError());
    }, timeoutMs);
    await Promise.all(Array.from(this.#handshakes, ({ ended }) => ended));
    clearTimeout(timer);
  }

  /**
   * Listens with another socket from now on. Who waits at the one before, which is closed, is let in.
   * @throws {PassfdError} as `Acceptor.acceptNow`; then it listens with the one before
   */
  async exchange(acceptor: Acceptor): Promise<void> {
    const before = this.#acceptor;
    const waiting = before.acceptNow();
    this.#acceptor = acceptor;
    this.#feedFrom(acceptor);
    for (const descriptor of waiting) this.#startHandshake(descriptor);
    await before.close();
  }

  resume(): void {
    this.#isPaused = false;
    this.#acceptor.resume();
  }

  /** As `close`, where another process listens on with the same socket: its file stays. */
  async abandon(): Promise<void> {
    if (!this.#acceptor.closed) this.#acceptor.release().close();
    await this.close();
  }

  /** Stops listening, ends handshakes that are under way, and removes the socket file. Connections taken live on. */
  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new PassfdError('ERR_CLOSED', 'The listener is closed'));
    this.#rejectWaiting(this.#closing.signal.reason);
    try {
      await this.#acceptor.close();
    } finally {
      await Promise.all(Array.from(this.#handshakes, ({ ended }) => ended));
      for (const connection of this.#ready.splice(0)) connection.close();
      if (this.#directory !== undefined) await rmdir(this.#directory);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #startHandshake(descriptor: Descriptor): void {
    const connection = new Connection(descriptor, this.#options);
    // One that is refused is closed at once.
    const origin = originOf(connection.socket);
    const handshake: Handshake = {
      connection,
      ended: this.#letIn(connection).finally(() => {
        this.#handshakes.delete(handshake);
        this.#acceptor.resume();
      }),
    };
    // Nobody makes room for one that was refused at once.
    if (connection.closed) return;
    const outgoing = this.#handshakes.enter(handshake, origin);
    outgoing?.connection.socket.discard(crowdedOutError());
  }

  /** Never rejects. */
  async #letIn(connection: Connection): Promise<void> {
    const key = this.#key;
    const { signal } = this.#closing;
    try {
      this.#checkPeer(connection);
      if (key) {
        const authenticate = (channel: Connection): Promise<void> => authenticateClient(channel, key);
        await shakeHands(connection, authenticate, this.#handshakeTimeoutMs, signal);
      }
    } catch (error) {
      // Not from within: what a listener of the event throws is no business of the handshake's.
      if (!signal.aborted) {
        process.nextTick(() => {
          this.#refuse(error as PassfdError);
        });
      }
      return;
    }
    if (this.#options.distrustsPeers !== true) connection.socket.trust();
    const waiting = this.#waiting.shift();
    if (waiting) waiting.resolve(connection);
    else this.#ready.push(connection);
  }

  /** @throws what the option says, and then it is closed */
  #checkPeer(connection: Connection): void {
    try {
      this.#options.checkPeer?.(connection.socket.peer);
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  #refuse(error: PassfdError): void {
    if (this.emit('refused', error)) return;
    process.emitWarning(error.message, {
      type: 'PassfdWarning',
      code: error.code,
      detail: `The listener at ${String(this.address)} refused a client; listen to its "refused" event to handle this.`,
    });
  }

  #onFailed(error: PassfdError, isRepeated: boolean): void {
    const isHeard = this.listenerCount('warned') > 0;
    // Whoever waits without a listener for the event has to hear of it every time.
    if (!isHeard && error.code !== 'ERR_DESCRIPTOR_LIMIT') this.#rejectWaiting(error);
    else if (isRepeated) return;
    else if (isHeard) this.emit('warned', error);
    else process.emitWarning(error.message, { type: 'PassfdWarning', code: error.code });
  }

  #rejectWaiting(error: unknown): void {
    for (const waiting of this.#waiting.splice(0)) waiting.reject(error);
  }
}

interface Handshake {
  readonly connection: Connection;
  readonly ended: Promise<void>;
}

function crowdedOutError(): PassfdError {
  return new PassfdError(
    'ERR_HANDSHAKE_TIMEOUT',
    `More than ${MAX_HANDSHAKES} clients are in their handshake, and this one is the oldest of the process or host that has the most`,
  );
}

function pausedError(): PassfdError {
  return new PassfdError(
    'ERR_HANDSHAKE_TIMEOUT',
    'The listener is paused, and this client was too slow for that',
  );
}

interface Waiting {
  resolve(connection: Connection): void;
  reject(error: unknown): void;
}
