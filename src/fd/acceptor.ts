// Acceptor: a listening socket, and the connections that come to it, as descriptors.
import { openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

import {
  formatAddress,
  isAbstract,
  resolveHost,
  toAddress,
  type Address,
  type AddressLike,
} from './address.js';
import { countClosing, isLate, ownAccount, refuse } from './closing.js';
import { Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import { native } from './native.js';
import { READABLE, Readiness } from './readiness.js';
import { awaitFreed, awaitReserve, stopAwaiting } from './starvation.js';
import { EAGAIN, EMFILE, ENFILE, systemError } from './system-error.js';
import { listenUnix, SocketFile } from './unix-listener.js';

/** Connections that may wait in the kernel: what Node's `server.listen` asks for; `net.core.somaxconn` caps it. */
const DEFAULT_BACKLOG = 511;

/** Only the same user may connect to a Unix socket: connecting needs write permission on the file (unix(7)). */
const DEFAULT_MODE = 0o600;

/** Most connections that one call of `acceptUpTo` can bring. */
const MAX_ACCEPTED = 1024;

/** Pause before the next try when accepting fails. At the descriptor limit it ends when this process closes a descriptor. */
const FAILURE_PAUSE_MS = 100;

/** Time that a listening socket may take to close, for what waits in its backlog. Its address may not be free after that. */
const CLOSE_TIMEOUT_MS = 1_000;

export interface ListenOptions {
  /** Connections that wait in the kernel at most. */
  readonly backlog?: number;
  /** The file mode of a Unix socket: who may connect. In force before anyone can. */
  readonly mode?: number;
  /** `::` takes IPv6 only, and not IPv4 too. */
  readonly ipv6Only?: boolean;
}

/**
 * Listens at a path, an abstract name or a TCP address. A socket file that is left from a process that ended is
 * replaced; one behind which someone listens is not.
 *
 * @throws {PassfdError} `ERR_ADDRESS_IN_USE` naming who holds it, `ERR_ADDRESS_MISSING`, `ERR_ADDRESS_DENIED`,
 * `ERR_ADDRESS`, `ERR_DESCRIPTOR_LIMIT`
 */
export async function listen(address: AddressLike, options: ListenOptions = {}): Promise<Acceptor> {
  const { backlog = DEFAULT_BACKLOG, mode = DEFAULT_MODE, ipv6Only = false } = options;
  const wanted = toAddress(address);
  if ('path' in wanted) {
    const { descriptor, file } = await listenUnix(wanted.path, backlog, mode);
    return new Acceptor(descriptor, file);
  }
  const [host = wanted.host] = await resolveHost(wanted.host);
  const result = native.listenTcp(host, wanted.port, backlog, ipv6Only ? 1 : 0);
  if (result < 0) throw systemError(result, 'listen', { address: formatAddress(wanted) });
  return new Acceptor(new Descriptor(result));
}

/** Who takes every connection as it comes: see `feed`. */
export interface Consumer {
  /** How many it takes at this moment; with 0 they wait in the backlog until `resume`. */
  room(): number;
  /** Gets at least one, and owns them. Must not throw. */
  take(accepted: Descriptor[]): void;
  /**
   * Clients began to wait in the backlog for want of room; or the backlog was found empty again. A client that waits has
   * come between the two.
   */
  crowded?(isCrowded: boolean): void;
  /**
   * Accepting failed, in a way that is not of one connection, and is tried again after a pause.
   * @param isRepeated whether the same was told before, and accepting has not worked since
   */
  failed(error: PassfdError, isRepeated: boolean): void;
}

/** A listening socket. `accept` takes connections out of the kernel's backlog exactly when asked. */
export class Acceptor implements AsyncDisposable, AsyncIterable<Descriptor> {
  readonly #descriptor: Descriptor;
  readonly address: Address;
  #file: SocketFile | undefined;
  readonly #readiness: Readiness;
  readonly #waiting: Waiting[] = [];
  #consumer: Consumer | undefined;
  /** Whether clients wait, as far as is known, for whom the consumer had no room. */
  #isCrowded = false;
  #closing: Promise<void> | undefined;
  #isPaused = false;
  /** Runs for a while after a failure, also when the pause has ended before. */
  #afterFailure: NodeJS.Timeout | undefined;
  #isReferenced = true;
  /** There when those who connect are not trusted. */
  #onRefused: ((error: PassfdError) => void) | undefined;
  /** Undefined while it is spent; null when none is kept. */
  #spare: Descriptor | undefined | null = null;
  /** Errors of accepting that were told, until it works again for a while. */
  readonly #told = new Set<number>();
  readonly #goOn = (): void => {
    this.#isPaused = false;
    stopAwaiting(this.#goOn);
    this.#watch();
  };
  readonly #refillSpare = (): boolean => {
    if (this.#spare === undefined && !this.closed) this.#spare = openSpare();
    if (this.#spare === undefined) return false;
    stopAwaiting(this.#refillSpare);
    return true;
  };

  /**
   * Takes over a listening socket, and makes it non-blocking.
   * @param file the file that `close` removes
   * @throws {PassfdError} `ERR_WRONG_KIND`; then the descriptor stays with the caller
   */
  constructor(descriptor: Descriptor, file?: SocketFile) {
    const { kind } = descriptor.describe();
    if (kind !== 'listener') {
      throw new PassfdError(
        'ERR_WRONG_KIND',
        `Wanted a listening socket, but descriptor ${descriptor.fd} is: ${kind}`,
      );
    }
    this.address = descriptor.localAddress;
    descriptor.setNonblocking(true);
    this.#descriptor = descriptor.move();
    this.#readiness = new Readiness(this.#descriptor.fd, () => {
      this.#onReady();
    });
    this.#file = file;
  }

  /**
   * Takes over a listening socket that another process made.
   * @param options whether `close` removes the file of a Unix socket, and its `fileIdentity` there; without that, the file
   * at its path is taken for its own
   * @throws {PassfdError} `ERR_WRONG_KIND`; then the descriptor stays with the caller
   */
  static async inherit(
    descriptor: Descriptor,
    {
      removesFile = false,
      fileIdentity,
    }: { readonly removesFile?: boolean; readonly fileIdentity?: string | undefined } = {},
  ): Promise<Acceptor> {
    const address = descriptor.localAddress;
    if (!removesFile || !('path' in address)) return new Acceptor(descriptor);
    const { path } = address;
    const file = fileIdentity === undefined ? await SocketFile.at(path) : new SocketFile(path, fileIdentity);
    return new Acceptor(descriptor, file);
  }

  /** The descriptor's number, lent: it is what lets `send` pass the listening socket on. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /** A descriptor of the same listening socket, which the caller owns. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
  duplicate(): Descriptor {
    return this.#descriptor.duplicate();
  }

  /** See `Descriptor`. */
  get inode(): string {
    return this.#descriptor.inode;
  }

  /** Whether `close` removes a socket file. */
  get removesFile(): boolean {
    return this.#file !== undefined;
  }

  /** Of the socket file that `close` removes: by its path alone, it could be somebody else's by now. */
  get fileIdentity(): string | undefined {
    return this.#file?.identity;
  }

  /** Whether clients can find it: it is at no path of a Unix socket, or its file is still there. */
  async isReachable(): Promise<boolean> {
    if (!('path' in this.address) || isAbstract(this.address.path)) return true;
    return (await this.#file?.exists()) ?? false;
  }

  get closed(): boolean {
    return this.#closing !== undefined || this.#descriptor.closed;
  }

  /**
   * Takes the next connection, or waits for it. It is a blocking socket, as a worker in any language wants it.
   * While no descriptor is free, connections wait in the backlog and this waits too; a process warning says so.
   * @throws {PassfdError} `ERR_CLOSED`, or the reason of the signal
   */
  async accept(options: { readonly signal?: AbortSignal } = {}): Promise<Descriptor> {
    const [descriptor] = await this.acceptUpTo(1, options);
    if (!descriptor) throw closedError();
    return descriptor;
  }

  /**
   * Takes what waits, or waits for the first.
   * @param count 1 to 1024
   * @returns at least one, which the caller owns
   */
  acceptUpTo(count: number, options: { readonly signal?: AbortSignal } = {}): Promise<Descriptor[]> {
    return new Promise((resolve, reject) => {
      if (!Number.isInteger(count) || count < 1 || count > MAX_ACCEPTED) {
        throw new TypeError(`count is an integer from 1 to ${MAX_ACCEPTED}, not ${String(count)}`);
      }
      if (this.closed) throw closedError();
      const { signal } = options;
      signal?.throwIfAborted();
      const abort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        reject(signal?.reason as Error);
        this.#watch();
      };
      const waiting: Waiting = {
        count,
        resolve: (accepted) => {
          signal?.removeEventListener('abort', abort);
          resolve(accepted);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abort);
          reject(error);
        },
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#waiting.push(waiting);
      this.#watch();
    });
  }

  /**
   * Hands every connection to a consumer from now on, without a promise for each. Accepting keeps the process alive
   * while the consumer has room.
   */
  feed(consumer: Consumer): void {
    this.#consumer = consumer;
    this.#watch();
  }

  /**
   * Keeps a descriptor in reserve from now on, so that one connection at a time can be taken though no other is free: for
   * whoever has to be reachable just then. `resume` behind the end of that connection fills the reserve again, before
   * another one takes what that end has freed.
   */
  keepSpare(): void {
    this.#spare = openSpare();
    if (!this.#spare) awaitReserve(this.#refillSpare);
  }

  /**
   * The consumer may have room again, or has none any more. Who waits is let in by this call: of several acceptors that
   * share the room, the event loop would name the same one first again and again.
   */
  resume(): void {
    this.#refillSpare();
    if (this.#consumer && this.#isCrowded && !this.#isPaused && !this.closed) this.#feed(this.#consumer);
    this.#watch();
  }

  /**
   * Takes what waits in the backlog at this moment.
   * @param count 1 to 1024
   * @returns none when nothing waits; the caller owns them
   * @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT`, `ERR_CLOSED`, `ERR_SYSTEM`
   */
  acceptNow(count: number = MAX_ACCEPTED): Descriptor[] {
    if (this.closed) throw closedError();
    const result = native.accept(this.#descriptor.fd, accepted, count);
    if (result === EAGAIN) return [];
    if (result < 0) throw this.#acceptError(result);
    return this.#ownAccepted(result);
  }

  /** The connections, until the acceptor is closed. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Descriptor, void, undefined> {
    while (!this.closed) {
      let descriptor;
      try {
        descriptor = await this.accept();
      } catch (error) {
        if (error instanceof PassfdError && error.code === 'ERR_CLOSED') return;
        throw error;
      }
      yield descriptor;
    }
  }

  /**
   * Protects this process from those who connect to a Unix socket without its trust, who could make the close of a
   * connection wait by what they send: see `Descriptor.distrust`. Connections are closed by a thread, on the account of
   * their user, until somebody says `trust`. Where too many closes of a user are slow, its connections are refused, but
   * not those of root and of this process's own user. Does nothing for TCP.
   * @param refused gets an `ERR_SLOW_CLOSE` for each connection that was refused, and one when all have to wait
   */
  distrustPeers(refused: (error: PassfdError) => void): void {
    if (!('path' in this.address)) return;
    // Those in the backlog may be of any user.
    this.#descriptor.distrust(ownAccount());
    this.#onRefused = refused;
  }

  /** Whether a waiting accept keeps the process alive; it does from the start. */
  ref(): this {
    this.#isReferenced = true;
    this.#watch();
    return this;
  }

  unref(): this {
    this.#isReferenced = false;
    this.#watch();
    return this;
  }

  /** Stops accepting, and gives the listening socket away; its file stays. Accepts that wait are rejected. */
  release(): Descriptor {
    if (this.closed) throw closedError();
    this.#file = undefined;
    this.#stop();
    return this.#descriptor.move();
  }

  /**
   * Ends the listening for every process that holds the socket, as `close` does for this one: clients are refused from
   * this moment on, and the address is free. Those that waited in the backlog are reset.
   * @throws {PassfdError} `ERR_CLOSED`, `ERR_SYSTEM`
   */
  async shutdown(): Promise<void> {
    if (this.closed) throw closedError();
    const result = native.shutdown(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'shutdown', { descriptor: formatAddress(this.address) });
    await this.close();
  }

  /** Stops listening, rejects accepts that wait, and removes the socket file if it is still the one made here. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    this.#stop();
    try {
      // While the socket is open its inode is its own; a successor's file could get the same one after that.
      await this.#file?.remove();
    } finally {
      const { account } = this.#descriptor;
      this.#descriptor.close();
      if (account !== undefined) await untilClosed(account);
    }
  }

  #stop(): void {
    stopAwaiting(this.#goOn);
    stopAwaiting(this.#refillSpare);
    this.#spare?.close();
    this.#spare = null;
    this.#readiness.close();
    clearTimeout(this.#afterFailure);
    for (const waiting of this.#waiting.splice(0)) waiting.reject(closedError());
  }

  #watch(): void {
    if (this.closed) return;
    const hasRoom = this.#waiting.length > 0 || (this.#consumer?.room() ?? 0) > 0;
    // Without room too, until somebody waits: that is to be known then.
    const isWatched = hasRoom || (this.#consumer !== undefined && !this.#isCrowded);
    this.#readiness.setReferenced(this.#isReferenced && hasRoom);
    this.#readiness.want(isWatched && !this.#isPaused ? READABLE : 0);
  }

  #onReady(): void {
    if (this.#consumer && this.#waiting.length === 0) this.#feed(this.#consumer);
    for (let waiting = this.#waiting[0]; waiting && !this.#isHeldUp(); waiting = this.#waiting[0]) {
      const result = native.accept(this.#descriptor.fd, accepted, waiting.count);
      if (result === EAGAIN) break;
      if (isLimit(result)) {
        this.#pauseAccepting(result);
        this.#warnOfLimit(result);
        break;
      }
      this.#noteAccepted();
      const isFailed = result < 0;
      const descriptors = isFailed ? [] : this.#letIn(result);
      // All were refused; the event loop names those that still wait.
      if (!isFailed && descriptors.length === 0) break;
      this.#waiting.shift();
      if (isFailed) waiting.reject(this.#acceptError(result));
      else waiting.resolve(descriptors);
    }
    this.#watch();
  }

  #feed(consumer: Consumer): void {
    const room = Math.min(consumer.room(), MAX_ACCEPTED);
    if (room < 1) {
      this.#setCrowded(consumer, true);
      return;
    }
    if (this.#isHeldUp()) return;
    let result = native.accept(this.#descriptor.fd, accepted, room);
    if (isLimit(result) && this.#spare) {
      // Not by its owner's `close`: nobody else is to get this one.
      native.close(this.#spare.release());
      this.#spare = undefined;
      result = native.accept(this.#descriptor.fd, accepted, 1);
      awaitReserve(this.#refillSpare);
      // Nobody came, so that it is still free.
      if (result < 0) this.#refillSpare();
    }
    if (result > 0) {
      this.#noteAccepted();
      const descriptors = this.#letIn(result);
      if (descriptors.length > 0) consumer.take(descriptors);
      if (result < room) this.#setCrowded(consumer, false);
    } else if (result === EAGAIN) {
      this.#noteAccepted();
      this.#setCrowded(consumer, false);
    } else {
      // It may stay so, and the socket readable: not to ask again and again at once.
      this.#pauseAccepting(result);
      const isRepeated = this.#told.has(result);
      this.#told.add(result);
      consumer.failed(this.#acceptError(result), isRepeated);
    }
  }

  /** The first of those that were just accepted, each with an owner. */
  #ownAccepted(count: number): Descriptor[] {
    const descriptors: Descriptor[] = [];
    for (let index = 0; index < count; index++) descriptors.push(new Descriptor(accepted[index] ?? -1));
    if (this.#onRefused) for (const descriptor of descriptors) descriptor.distrust(userOf(descriptor.fd));
    return descriptors;
  }

  /** The same, without those that are refused. */
  #letIn(count: number): Descriptor[] {
    const descriptors = this.#ownAccepted(count);
    return this.#onRefused ? descriptors.filter((one) => !this.#refuses(one)) : descriptors;
  }

  #refuses(descriptor: Descriptor): boolean {
    const user = descriptor.account;
    if (user === undefined || user === 0 || user === process.geteuid?.() || !isLate(user)) return false;
    refuse(descriptor.release(), user);
    this.#onRefused?.(
      new PassfdError(
        'ERR_SLOW_CLOSE',
        `A connection of user ${user} to ${formatAddress(this.address)} was refused: too many descriptors that this user ` +
          'has passed are slow to close',
      ),
    );
    return true;
  }

  /**
   * Anybody who may connect can leave descriptors in the queue that keep the number of the connection taken, also when it
   * is refused. While half of all numbers are taken in this way, nobody is let in here: the rest is for other sockets.
   */
  #isHeldUp(): boolean {
    if (!this.#onRefused || !native.isCloserFull()) return false;
    this.#pauseAccepting(HELD_UP);
    if (!this.#told.has(HELD_UP)) {
      this.#told.add(HELD_UP);
      this.#onRefused(
        new PassfdError(
          'ERR_SLOW_CLOSE',
          `Connections to ${formatAddress(this.address)} wait: half of the descriptors that this process may have are slow ` +
            'to close. End the processes that passed them, or raise the limit (ulimit -n)',
        ),
      );
    }
    return true;
  }

  #setCrowded(consumer: Consumer, isCrowded: boolean): void {
    if (this.#isCrowded === isCrowded) return;
    this.#isCrowded = isCrowded;
    consumer.crowded?.(isCrowded);
  }

  #acceptError(result: number): PassfdError {
    return systemError(
      result,
      'accept',
      { descriptor: formatAddress(this.address) },
      isLimit(result)
        ? 'connections wait in the backlog until a descriptor is free; raise the limit (ulimit -n), or close what is not needed'
        : undefined,
    );
  }

  /** The listening socket stays readable while no descriptor is free, and to ask at once again would only burn the CPU. */
  #pauseAccepting(result: number): void {
    this.#isPaused = true;
    if (isLimit(result)) awaitFreed(this.#goOn);
    clearTimeout(this.#afterFailure);
    this.#afterFailure = setTimeout(() => {
      this.#afterFailure = undefined;
      if (!this.#isPaused) this.#told.clear();
      this.#refillSpare();
      this.#goOn();
    }, FAILURE_PAUSE_MS);
  }

  /** At the limit each descriptor that is freed lets one connection in, and the next one fails: that is the same failure. */
  #noteAccepted(): void {
    if (!this.#afterFailure) this.#told.clear();
  }

  #warnOfLimit(result: number): void {
    if (this.#told.has(result)) return;
    this.#told.add(result);
    process.emitWarning(
      `No descriptor is free: connections to ${formatAddress(this.address)} wait in the backlog until one is. ` +
        'Raise the limit (ulimit -n), or close what is not needed.',
      { type: 'PassfdWarning', code: 'ERR_DESCRIPTOR_LIMIT' },
    );
  }
}

interface Waiting {
  readonly count: number;
  resolve(accepted: Descriptor[]): void;
  reject(error: Error): void;
}

/** No error number. */
const HELD_UP = 0;

const accepted = new Int32Array(MAX_ACCEPTED);

/** Who is at the other end of a Unix socket. One that the kernel does not name gets an account of its own. */
function userOf(fd: number): number {
  const credentials = new Int32Array(3);
  return native.peer(fd, credentials) < 0 ? ownAccount() : (credentials[1] ?? 0) >>> 0;
}

async function untilClosed(account: number): Promise<void> {
  const end = performance.now() + CLOSE_TIMEOUT_MS;
  while (countClosing(account, 0) > 0 && performance.now() < end) await sleep(1);
}

function isLimit(result: number): boolean {
  return result === EMFILE || result === ENFILE;
}

/** @returns undefined when none is free */
function openSpare(): Descriptor | undefined {
  try {
    return new Descriptor(openSync('/dev/null', 'r'));
  } catch {
    return undefined;
  }
}

function closedError(): PassfdError {
  return new PassfdError('ERR_CLOSED', 'The acceptor is closed');
}
