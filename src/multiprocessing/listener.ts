// Listener: accepts connections from Clients, in Node or Python, that authenticate with the key.
import { EventEmitter, setMaxListeners } from 'node:events';
import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Acceptor, listen, PassfdError, type Descriptor, type PeerCredentials } from '../fd/index.js';
import { whenAborted } from '../fd/internal.js';
import { fromPython, toPython, type ConnectionAddress } from './address.js';
import { authenticateClient, toKey, type AuthKey } from './authentication.js';
import { Connection, type ConnectionOptions } from './connection.js';
import { Crowd, originOf } from './crowd.js';
import { DEFAULT_HANDSHAKE_TIMEOUT_MS, shakeHands } from './handshake.js';
import { checkMilliseconds } from './milliseconds.js';

/**
 * Most handshakes at the same time. When one more comes, the client with the most handshakes loses one, so that silent clients
 * do not keep others out.
 */
const MAX_HANDSHAKES = 64;

export interface ListenerOptions extends Pick<ConnectionOptions, 'maxFrameBytes' | 'pickleLimits'> {
  /** The key that both ends know; use at least 16 random bytes. Default: none, and then every client is accepted. */
  readonly authkey?: AuthKey;
  /** Most connections that wait in the kernel. Default: 511. */
  readonly backlog?: number;
  /** File mode of a Unix socket: who may connect. Default: 0o600, the owner. */
  readonly mode?: number;
  /** Time limit of a client for the whole handshake. Default: 10000. */
  readonly handshakeTimeoutMs?: number;
  /** Checks the client of a Unix socket before anything is read from it; throws to refuse it. Default: no check. */
  readonly checkPeer?: (peer: PeerCredentials) => void;
  /**
   * Whether clients of a Unix socket stay distrusted after they were accepted, until `connection.socket.trust()` is called:
   * see `StreamSocket.distrust`. Default: false. Before that, every client is distrusted.
   */
  readonly distrustsPeers?: boolean;
}

interface ListenerEvents {
  /** A client was refused: wrong key, broken handshake, or timeout. Other clients are not affected. */
  refused: [error: PassfdError];
  /**
   * Accepting failed, and is tried again after a pause. The event comes once for each error until accepting works again.
   * Without a listener for it, a waiting `accept` is rejected each time; only while no descriptor is free it waits on, and a
   * process warning reports it.
   */
  warned: [error: PassfdError];
}

/**
 * Listens for connections, as `multiprocessing.connection.Listener` does.
 * @param address a path, an abstract name or `[host, port]`; or an open listening socket, which it takes over. Default: a path
 * in a new directory.
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

/** The result of `Listener`: accepts connections whose handshake succeeded. Many handshakes run at the same time. */
export type Listener = ConnectionListener;

class ConnectionListener
  extends EventEmitter<ListenerEvents>
  implements AsyncDisposable, AsyncIterable<Connection>
{
  /** The address where it listens: the path, or `[host, port]`, as in Python. */
  readonly address: string | [host: string, port: number];
  #acceptor: Acceptor;
  readonly #key: Buffer | undefined;
  readonly #handshakeTimeoutMs: number;
  /** The directory that was made for the socket, and is removed with it. */
  readonly #directory: string | undefined;
  readonly #options: ListenerOptions;
  readonly #closing = new AbortController();
  readonly #handshakes = new Crowd<Handshake>(MAX_HANDSHAKES);
  /** Accepted connections that no `accept` has taken yet: at most `MAX_HANDSHAKES`. */
  readonly #ready: Connection[] = [];
  readonly #waiting: Waiting[] = [];
  #isFrozen = false;

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
    // Every handshake adds a listener to the signal.
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
      // One at a time, while an `accept` waits: each client may fail its handshake.
      room: () => (this.#waiting.length > 0 && !this.#isFrozen ? 1 : 0),
      take: (descriptors) => {
        for (const descriptor of descriptors) this.#startHandshake(descriptor);
      },
      failed: (error, isRepeated) => {
        this.#onFailed(error, isRepeated);
      },
    });
  }

  /**
   * The next connection whose handshake succeeded. Unlike in Python, a client that fails the handshake does not end the call;
   * the event `refused` reports it.
   * @param options `signal` ends the waiting; default: none
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
      const detach = whenAborted(signal, (reason) => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        this.#acceptor.resume();
        reject(reason);
      });
      const waiting: Waiting = { resolve, reject, detach };
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

  /** The listening socket, which this object still owns. To pass it to another process while this one is frozen. @internal */
  get acceptor(): Acceptor {
    return this.#acceptor;
  }

  /**
   * Leaves new clients in the backlog until `thaw`. Resolves when no handshake is running any more.
   * @param timeoutMs time limit for running handshakes; after it they are refused
   * @internal
   */
  async freeze(timeoutMs: number): Promise<void> {
    this.#isFrozen = true;
    this.#acceptor.resume();
    const timer = setTimeout(() => {
      for (const { connection } of this.#handshakes) connection.socket.discard(frozenError());
    }, timeoutMs);
    await Promise.all(Array.from(this.#handshakes, ({ ended }) => ended));
    clearTimeout(timer);
  }

  /**
   * Listens with another socket from now on. Clients that wait at the old socket are accepted; then it is closed.
   * @throws {PassfdError} as `Acceptor.acceptNow`; then the old socket is still in use
   * @internal
   */
  async exchange(acceptor: Acceptor): Promise<void> {
    const before = this.#acceptor;
    const waiting = before.acceptNow();
    this.#acceptor = acceptor;
    this.#feedFrom(acceptor);
    for (const descriptor of waiting) this.#startHandshake(descriptor);
    await before.close();
  }

  /** Ends `freeze`. @internal */
  thaw(): void {
    this.#isFrozen = false;
    this.#acceptor.resume();
  }

  /** As `close`, but the socket file stays, because another process goes on listening with the same socket. @internal */
  async disown(): Promise<void> {
    if (!this.#acceptor.closed) this.#acceptor.release().close();
    await this.close();
  }

  /**
   * Stops listening, ends running handshakes, and removes the socket file. Connections that `accept` has returned stay open.
   * A second call does nothing.
   */
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
    // Read before `#letIn`, which closes a refused connection at once.
    const origin = originOf(connection.socket);
    const handshake: Handshake = {
      connection,
      ended: this.#letIn(connection).finally(() => {
        this.#handshakes.delete(handshake);
        this.#acceptor.resume();
      }),
    };
    // It was refused at once, so no other client has to give way.
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
      // In the next tick: an error that a listener of the event throws must not reach the handshake.
      if (!signal.aborted) {
        process.nextTick(() => {
          this.#refuse(error as PassfdError);
        });
      }
      return;
    }
    if (this.#options.distrustsPeers !== true) connection.socket.trust();
    const waiting = this.#waiting.shift();
    waiting?.detach();
    if (waiting) waiting.resolve(connection);
    else this.#ready.push(connection);
  }

  /** Closes the connection if the check throws. @throws what `checkPeer` throws */
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
    // Without a listener for the event, a waiting caller must see every failure.
    if (!isHeard && error.code !== 'ERR_DESCRIPTOR_LIMIT') this.#rejectWaiting(error);
    else if (isRepeated) return;
    else if (isHeard) this.emit('warned', error);
    else process.emitWarning(error.message, { type: 'PassfdWarning', code: error.code });
  }

  #rejectWaiting(error: unknown): void {
    for (const waiting of this.#waiting.splice(0)) {
      waiting.detach();
      waiting.reject(error);
    }
  }
}

interface Handshake {
  readonly connection: Connection;
  readonly ended: Promise<void>;
}

function crowdedOutError(): PassfdError {
  return new PassfdError(
    'ERR_HANDSHAKE_TIMEOUT',
    `More than ${MAX_HANDSHAKES} handshakes are running, and this is the oldest one of the process or host that has the most`,
  );
}

function frozenError(): PassfdError {
  return new PassfdError(
    'ERR_HANDSHAKE_TIMEOUT',
    'The listener was frozen before this client finished its handshake',
  );
}

interface Waiting {
  resolve(connection: Connection): void;
  reject(error: unknown): void;
  /** Removes the listener from the signal. */
  detach(): void;
}
