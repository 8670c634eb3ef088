// Acceptor: a listening socket that takes connections out of the kernel's backlog exactly when asked.
import { setTimeout as sleep } from 'node:timers/promises';

import { whenAborted } from './abort.js';
import { formatAddress, isAbstract, type Address } from './address.js';
import { countClosing, ownAccount } from './closing.js';
import { Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import { native } from './native.js';
import { PeerGuard } from './peer-guard.js';
import { READABLE, Readiness } from './readiness.js';
import { SpareDescriptor } from './spare-descriptor.js';
import { awaitFreed, stopAwaiting } from './starvation.js';
import { EAGAIN, EMFILE, ENFILE, systemError } from './system-error.js';
import { SocketFile } from './unix-listener.js';

/** Most connections that one call of `acceptUpTo` can bring. */
const MAX_ACCEPTED = 1024;

/** Pause after a failed accept. At the descriptor limit the pause ends early, when this process closes a descriptor. */
const FAILURE_PAUSE_MS = 100;

/** Longest wait for a listening socket to close. Closing waits for what is in the backlog, and holds the address. */
const CLOSE_TIMEOUT_MS = 1_000;

/** Takes every connection as it comes: see `Acceptor.feed`. */
export interface Consumer {
  /** How many connections it can take now. With 0, connections wait in the backlog until `resume`. */
  room(): number;
  /** Gets at least one connection, and owns all it gets. Must not throw. */
  take(accepted: Descriptor[]): void;
  /** True: clients began to wait in the backlog because there is no room. False: the backlog was found empty again. */
  crowded?(isCrowded: boolean): void;
  /**
   * Accepting failed for a reason that does not concern one connection. It is tried again after a pause.
   * @param isRepeated whether the same error was reported before, and accepting has not worked since
   */
  failed(error: PassfdError, isRepeated: boolean): void;
}

/**
 * A listening socket, made by `listen` or received from another process. `accept` brings one connection, a `for await`
 * loop brings all. Waiting for a connection keeps the process alive, unless `unref` was called.
 */
export class Acceptor implements AsyncDisposable, AsyncIterable<Descriptor> {
  readonly #descriptor: Descriptor;
  /** Where it listens. The port is the real one, also when port 0 was asked for. */
  readonly address: Address;
  #file: SocketFile | undefined;
  readonly #readiness: Readiness;
  readonly #waiting: Waiting[] = [];
  #consumer: Consumer | undefined;
  /** Whether clients are known to wait because the consumer had no room. */
  #isCrowded = false;
  #closing: Promise<void> | undefined;
  #isPaused = false;
  /** Runs for `FAILURE_PAUSE_MS` after a failure, even when the pause ended early. */
  #afterFailure: NodeJS.Timeout | undefined;
  #isReferenced = true;
  #guard: PeerGuard | undefined;
  #spare: SpareDescriptor | undefined;
  /** Accept errors that were reported, until accepting has worked for a while. */
  readonly #reported = new Set<number>();
  readonly #goOn = (): void => {
    this.#isPaused = false;
    stopAwaiting(this.#goOn);
    this.#watch();
  };

  /**
   * Takes over a listening socket, and makes it non-blocking.
   * @throws {PassfdError} `ERR_WRONG_KIND`; then the caller still owns the descriptor
   */
  constructor(descriptor: Descriptor);
  /**
   * @param file the socket file that `close` removes
   * @internal
   */
  // eslint-disable-next-line @typescript-eslint/unified-signatures -- the published types have only the first
  constructor(descriptor: Descriptor, file?: SocketFile);
  constructor(descriptor: Descriptor, file?: SocketFile) {
    const { kind } = descriptor.describe();
    if (kind !== 'listener') {
      throw new PassfdError(
        'ERR_WRONG_KIND',
        `Descriptor ${descriptor.fd} is not a listening socket; it is of kind ${kind}`,
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
   * @param options whether `close` removes the file of a Unix socket, and the `fileIdentity` that the file had there. Without
   * an identity, the file that is at the path now counts as the socket's own.
   * @throws {PassfdError} `ERR_WRONG_KIND`; then the caller still owns the descriptor
   * @internal
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

  /** The number of the descriptor, lent: `send` uses it to pass the listening socket. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /** A second descriptor of the same listening socket. The caller owns it. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
  duplicate(): Descriptor {
    return this.#descriptor.duplicate();
  }

  /** See `Descriptor`. @internal */
  get inode(): string {
    return this.#descriptor.inode;
  }

  /** Whether `close` removes a socket file. @internal */
  get removesFile(): boolean {
    return this.#file !== undefined;
  }

  /** Identifies the socket file that `close` removes. The path alone could name another process's file by now. @internal */
  get fileIdentity(): string | undefined {
    return this.#file?.identity;
  }

  /** Whether clients can find the socket: it has no path, or its file is still there. @internal */
  async isReachable(): Promise<boolean> {
    if (!('path' in this.address) || isAbstract(this.address.path)) return true;
    return (await this.#file?.exists()) ?? false;
  }

  /** Whether `close`, `shutdown` or `release` was called. */
  get closed(): boolean {
    return this.#closing !== undefined || this.#descriptor.closed;
  }

  /**
   * Takes the next connection, or waits for it. The connection is a blocking socket, which workers in any language expect.
   * While no descriptor is free, connections wait in the backlog, and this call waits too; a process warning reports it.
   * @param options `signal` ends the waiting; default: none
   * @throws {PassfdError} `ERR_CLOSED`, or the reason of the signal
   */
  async accept(options: { readonly signal?: AbortSignal } = {}): Promise<Descriptor> {
    const [descriptor] = await this.acceptUpTo(1, options);
    if (!descriptor) throw closedError();
    return descriptor;
  }

  /**
   * Takes the connections that wait now, or waits for the first one.
   * @param count most connections to take: 1 to 1024
   * @param options `signal` ends the waiting; default: none
   * @returns at least one connection. The caller owns them.
   * @throws {PassfdError} `ERR_CLOSED`, or the reason of the signal
   */
  acceptUpTo(count: number, options: { readonly signal?: AbortSignal } = {}): Promise<Descriptor[]> {
    return new Promise((resolve, reject) => {
      if (!Number.isInteger(count) || count < 1 || count > MAX_ACCEPTED) {
        throw new TypeError(`count is an integer from 1 to ${MAX_ACCEPTED}, not ${String(count)}`);
      }
      if (this.closed) throw closedError();
      const { signal } = options;
      signal?.throwIfAborted();
      const detach = whenAborted(signal, (reason) => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        reject(reason);
        this.#watch();
      });
      const waiting: Waiting = { count, resolve, reject, detach };
      this.#waiting.push(waiting);
      this.#watch();
    });
  }

  /**
   * Gives every connection to a consumer from now on, without a promise for each. Accepting keeps the process alive while
   * the consumer has room. A further call has `crowded` reported again when the next client waits.
   * @internal
   */
  feed(consumer: Consumer): void {
    this.#consumer = consumer;
    this.#isCrowded = false;
    this.#watch();
  }

  /**
   * Keeps a descriptor in reserve from now on. With it, one connection at a time is accepted even when no other descriptor
   * is free: for sockets that must be reachable just then, such as a control socket. When that connection has ended,
   * `resume` fills the reserve again before another socket takes the number.
   * @internal
   */
  keepSpare(): void {
    this.#spare = new SpareDescriptor();
  }

  /**
   * The consumer's room may have changed. This call accepts the clients that wait: when several acceptors share the room,
   * the event loop would report the same acceptor first again and again.
   * @internal
   */
  resume(): void {
    this.#spare?.refill();
    if (this.#consumer && this.#isCrowded && !this.#isPaused && !this.closed) this.#feed(this.#consumer);
    this.#watch();
  }

  /**
   * Takes the connections that wait in the backlog at this moment.
   * @param count 1 to 1024
   * @returns an empty array when none waits; the caller owns the connections
   * @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT`, `ERR_CLOSED`, `ERR_SYSTEM`
   * @internal
   */
  acceptNow(count: number = MAX_ACCEPTED): Descriptor[] {
    if (this.closed) throw closedError();
    const result = native.accept(this.#descriptor.fd, accepted, count);
    if (result === EAGAIN) return [];
    if (result < 0) throw this.#acceptError(result);
    return this.#ownAccepted(result);
  }

  /** The connections, until the acceptor is closed. The body of the loop owns each. */
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
   * Protects this process from clients of a Unix socket that are not trusted. By what it sends, a client can make the close
   * of its connection wait (see `Descriptor.distrust`). After this call a thread closes connections, on the account of
   * their user, until `trust` is called on a connection. When too many closes of a user are slow, new connections of that
   * user are refused. Root and the own user of this process are never refused. Does nothing for TCP.
   * @param refused gets an `ERR_SLOW_CLOSE` for each connection that was refused, and one when all connections have to wait
   */
  distrustPeers(refused: (error: PassfdError) => void): void {
    if (!('path' in this.address)) return;
    // Connections in the backlog may be of any user.
    this.#descriptor.distrust(ownAccount());
    this.#guard = new PeerGuard(formatAddress(this.address), refused);
  }

  /** Lets a waiting accept keep the process alive. This is the default. */
  ref(): this {
    this.#isReferenced = true;
    this.#watch();
    return this;
  }

  /** Lets the process exit while an accept waits. */
  unref(): this {
    this.#isReferenced = false;
    this.#watch();
    return this;
  }

  /**
   * Stops accepting, and gives the listening socket away. Its file stays. Waiting accepts are rejected with `ERR_CLOSED`.
   * @throws {PassfdError} `ERR_CLOSED`
   */
  release(): Descriptor {
    if (this.closed) throw closedError();
    this.#file = undefined;
    this.#stop();
    return this.#descriptor.move();
  }

  /**
   * Ends listening for every process that holds the socket; `close` ends it for this process only. From this moment clients
   * are refused, and the address is free. Connections in the backlog are reset.
   * @throws {PassfdError} `ERR_CLOSED`, `ERR_SYSTEM`
   */
  async shutdown(): Promise<void> {
    if (this.closed) throw closedError();
    const result = native.shutdown(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'shutdown', { descriptor: formatAddress(this.address) });
    await this.close();
  }

  /** Stops listening, rejects waiting accepts, and removes the socket file that `listen` made. A second call does nothing. */
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
      // First the file: after the close, the file of a successor could get the same inode.
      await this.#file?.remove();
    } finally {
      const { account } = this.#descriptor;
      this.#descriptor.close();
      if (account !== undefined) await untilClosed(account);
    }
  }

  #stop(): void {
    stopAwaiting(this.#goOn);
    this.#spare?.close();
    this.#readiness.close();
    clearTimeout(this.#afterFailure);
    for (const waiting of this.#waiting.splice(0)) {
      waiting.detach();
      waiting.reject(closedError());
    }
  }

  #watch(): void {
    if (this.closed) return;
    const hasRoom = this.#waiting.length > 0 || (this.#consumer?.room() ?? 0) > 0;
    // Without room it still watches until the first client waits, so that `crowded` is reported then.
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
      // All were refused; the event loop reports connections that still wait.
      if (!isFailed && descriptors.length === 0) break;
      this.#waiting.shift();
      waiting.detach();
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
    if (this.#spare && isLimit(result) && this.#spare.spend()) {
      result = native.accept(this.#descriptor.fd, accepted, 1);
      this.#spare.awaitRefill();
      // No client was there, so the number is still free.
      if (result < 0) this.#spare.refill();
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
      // The error may persist while the socket stays readable, so do not ask again at once.
      this.#pauseAccepting(result);
      const isRepeated = this.#reported.has(result);
      this.#reported.add(result);
      consumer.failed(this.#acceptError(result), isRepeated);
    }
  }

  /** Gives each of the first `count` connections of `accepted` an owner. */
  #ownAccepted(count: number): Descriptor[] {
    const descriptors: Descriptor[] = [];
    for (let index = 0; index < count; index++) descriptors.push(new Descriptor(accepted[index] ?? -1));
    if (this.#guard) for (const descriptor of descriptors) this.#guard.distrust(descriptor);
    return descriptors;
  }

  /** As `#ownAccepted`, and closes the connections that are refused. */
  #letIn(count: number): Descriptor[] {
    const descriptors = this.#ownAccepted(count);
    const guard = this.#guard;
    return guard ? descriptors.filter((one) => guard.admits(one)) : descriptors;
  }

  #isHeldUp(): boolean {
    if (!this.#guard?.isFull) return false;
    this.#pauseAccepting(HELD_UP);
    if (!this.#reported.has(HELD_UP)) {
      this.#reported.add(HELD_UP);
      this.#guard.reportFull();
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

  /** The listening socket stays readable while no descriptor is free. Asking again at once would only burn the CPU. */
  #pauseAccepting(result: number): void {
    this.#isPaused = true;
    if (isLimit(result)) awaitFreed(this.#goOn);
    clearTimeout(this.#afterFailure);
    this.#afterFailure = setTimeout(() => {
      this.#afterFailure = undefined;
      if (!this.#isPaused) this.#reported.clear();
      this.#spare?.refill();
      this.#goOn();
    }, FAILURE_PAUSE_MS);
  }

  /** At the limit, each freed descriptor admits one connection, and the next accept fails. That is the same failure. */
  #noteAccepted(): void {
    if (!this.#afterFailure) this.#reported.clear();
  }

  #warnOfLimit(result: number): void {
    if (this.#reported.has(result)) return;
    this.#reported.add(result);
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
  /** Removes the listener from the signal. */
  detach(): void;
}

/** Stands for a full closer where others are results of `accept`. It is no error number. */
const HELD_UP = 0;

// One call at a time uses it: the call into the addon is done with it when it returns.
const accepted = new Int32Array(MAX_ACCEPTED);

async function untilClosed(account: number): Promise<void> {
  const end = performance.now() + CLOSE_TIMEOUT_MS;
  while (countClosing(account, 0) > 0 && performance.now() < end) await sleep(1);
}

function isLimit(result: number): boolean {
  return result === EMFILE || result === ENFILE;
}

function closedError(): PassfdError {
  return new PassfdError('ERR_CLOSED', 'The acceptor is closed');
}
