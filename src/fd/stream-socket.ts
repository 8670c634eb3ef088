// StreamSocket: a connected stream socket that is read exactly as far as asked, and carries descriptors if it is Unix.
import type { Address } from './address.js';
import { refuse } from './closing.js';
import type { Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import type { Message } from './message.js';
import { MAX_DESCRIPTORS, native } from './native.js';
import type { Passable } from './passable.js';
import { READABLE, Readiness, WRITABLE } from './readiness.js';
import { RECEIVE_BYTES, Receiver } from './receiver.js';
import { Sender, type Unsent } from './sender.js';
import { systemError } from './system-error.js';

/** Most bytes of one send: the addon counts in 32 bits, and so does the kernel (MAX_RW_COUNT). */
const MAX_SEND_BYTES = 0x7fff_ffff;

/**
 * The process at the other end, as the kernel noted it when that end connected, or when the socket pair was made (unix(7),
 * SO_PEERCRED).
 */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** Says which connections a message hands out. */
export interface Handoff {
  /** Position of the first connection on its channel, counted from 1. */
  readonly position: number;
  /** The id that `LastWill.addListener` got. */
  readonly listener: number;
  /** The channel counts no positions: a message that cannot be sent does not affect those after it. */
  readonly isLone?: boolean | undefined;
}

export interface SendOptions {
  /**
   * Clears `O_NONBLOCK` on the connections that are passed, for a receiver such as Python that expects connections as
   * accept(2) makes them. All holders of a connection share the flag. Other descriptors stay as they are. Default: false.
   */
  readonly blocking?: boolean | undefined;
  /**
   * The caller keeps the descriptors open until the promise settles. Then a send that has to wait needs no duplicates,
   * which it could not make at the descriptor limit. Default: false.
   * @internal
   */
  readonly kept?: boolean | undefined;
  /**
   * The message hands these connections out: once they are sent, the last will of this process leaves them to the receiver.
   * Implies `kept`, since the will would take a duplicate for one more connection without a worker. When one hand-off cannot
   * be sent, no later one is sent, since its position would be wrong (but see `isLone`). Other messages are still sent.
   * @internal
   */
  readonly handoff?: Handoff | undefined;
  /** Cancels the send while no byte of it is sent. After that it is finished, or the stream would be broken. */
  readonly signal?: AbortSignal | undefined;
}

export interface ReceiveOptions {
  /**
   * Most descriptors that may come. If more come, all are closed, and the receive fails with `ERR_UNEXPECTED_DESCRIPTORS`.
   * Default: `MAX_DESCRIPTORS` for `receive`, 0 for `receiveExactly`, because a peer can send 253 descriptors with each byte.
   */
  readonly descriptors?: number | undefined;
  /** Stops waiting. Bytes that have come stay in the socket for the next receive. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A connected stream socket. A Unix socket carries descriptors beside its bytes; a TCP connection carries bytes only.
 *
 * A receive takes exactly what it asks for: the kernel closes descriptors when their bytes are read without room for them.
 * Sends are served in the order of the calls, and so are receives. A waiting call keeps the process alive, unless `unref`
 * was called.
 */
export class StreamSocket implements Disposable, AsyncDisposable, AsyncIterable<Message> {
  readonly #descriptor: Descriptor;
  /** Whether it is a Unix socket: only these carry descriptors. */
  readonly carriesDescriptors: boolean;
  readonly #readiness: Readiness;
  readonly #receiver: Receiver;
  readonly #sender: Sender;
  #isClosing = false;
  #isPolled = false;

  /**
   * Takes over the descriptor of a connected stream socket.
   * @throws {PassfdError} `ERR_WRONG_KIND`; then the caller still owns the descriptor
   */
  constructor(descriptor: Descriptor) {
    const { kind, family } = descriptor.describe();
    if (kind !== 'stream') {
      throw new PassfdError(
        'ERR_WRONG_KIND',
        `Descriptor ${descriptor.fd} is not a connected stream socket; it is of kind ${kind}`,
      );
    }
    this.#descriptor = descriptor.move();
    this.carriesDescriptors = family === 'unix';
    if (this.#descriptor.account !== undefined) this.distrust(this.#descriptor.account);
    const { fd } = this.#descriptor;
    const update = (): void => {
      this.#updateInterest();
    };
    const accountOf = (): number | undefined =>
      this.carriesDescriptors ? this.#descriptor.account : undefined;
    this.#receiver = new Receiver(fd, accountOf, update);
    this.#sender = new Sender(fd, update);
    this.#readiness = new Readiness(fd, () => {
      this.#sender.continue();
      this.#receiver.continue();
      this.#updateInterest();
    });
  }

  /** The number of the descriptor, lent: `spawn` uses it for a socket in `stdio`, and `send` to pass the socket. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /** A second descriptor of the same socket. The caller owns it. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
  duplicate(): Descriptor {
    return this.#descriptor.duplicate();
  }

  /**
   * Protects this process from a peer that is not trusted. By what it sends, such a peer can make a close wait (see
   * `Descriptor.distrust`). After this call, unexpected descriptors stay in the queue and end the stream here, expected ones
   * are closed by a thread, and so is the socket with what is in its queue. Does nothing for TCP.
   * @param account the user id of the peer
   * @throws {PassfdError} `ERR_SYSTEM`
   */
  distrust(account: number): void {
    if (!this.carriesDescriptors) return;
    const result = native.takeRightsOnly(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'setsockopt', this.#subject);
    this.#descriptor.distrust(account);
  }

  /** Ends the protection of `distrust`, for a peer that has authenticated. */
  trust(): void {
    this.#descriptor.trust();
  }

  /** Whether the socket was closed, destroyed or released. */
  get closed(): boolean {
    return this.#descriptor.closed;
  }

  /** The address of this end. */
  get localAddress(): Address {
    return this.#descriptor.localAddress;
  }

  /** The address of the other end. @throws {PassfdError} `ERR_PEER_GONE` when the connection is over */
  get remoteAddress(): Address {
    return this.#descriptor.remoteAddress;
  }

  /** The process at the other end of a Unix socket. @throws {PassfdError} `ERR_SYSTEM` for a TCP connection on macOS */
  get peer(): PeerCredentials {
    const numbers = new Int32Array(3);
    const result = native.peer(this.#descriptor.fd, numbers);
    if (result < 0) throw systemError(result, 'getsockopt', this.#subject);
    const [pid = 0, uid = 0, gid = 0] = numbers;
    return { pid, uid: uid >>> 0, gid: gid >>> 0 };
  }

  /**
   * What the other end has not received yet, in bytes of kernel memory. 0 means that all was received. A one-byte message
   * with a descriptor counts as some hundred bytes (SIOCOUTQ, unix(7)).
   */
  get unreadBytes(): number {
    const result = native.unread(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'ioctl', this.#subject);
    return result;
  }

  /**
   * Sends bytes, and descriptors that arrive with the first byte. The bytes must not change until the promise settles.
   * Descriptors are lent (a `net.Socket` moves, see `Passable`); the caller may close them as soon as `send` returns. Resolves
   * when the kernel has taken all bytes, so a sender that awaits it is ahead of its receiver by the socket's buffer at most.
   *
   * @param bytes at least one byte when there are descriptors: the kernel drops descriptors without bytes (unix(7))
   * @param passables at most `MAX_DESCRIPTORS`
   * @throws {PassfdError} `ERR_PEER_GONE`, `ERR_CLOSED`, `ERR_TOO_MANY_DESCRIPTORS`, `ERR_NO_DESCRIPTOR_PASSING`,
   * `ERR_NOT_PASSABLE`, `ERR_BYTES_ALREADY_READ`, `ERR_BYTES_UNSENT`, `ERR_DESCRIPTOR_CLOSED`, or the reason of the signal.
   * Then the caller still owns everything that was lent.
   */
  send(bytes: Uint8Array, passables: readonly Passable[] = [], options: SendOptions = {}): Promise<void> {
    try {
      this.#checkOpen();
      if (bytes.length === 0 && passables.length === 0) return Promise.resolve();
      this.checkSendable(bytes, passables.length);
      return this.#sender.send(bytes, passables, options);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Receives what has come, or waits for it. On a Unix socket the kernel ends a receive after a message with descriptors;
   * bytes that were sent before that message may come with it (unix(7)).
   *
   * @param maxBytes most bytes to receive, at least 1. Default and maximum: 64 KiB.
   * @returns null at the end of the stream
   * @throws {PassfdError} `ERR_PEER_GONE`, `ERR_CLOSED`; `ERR_DESCRIPTORS_LOST` or `ERR_UNEXPECTED_DESCRIPTORS`, and then the
   * next receive brings the bytes
   */
  receive(maxBytes = RECEIVE_BYTES, options: ReceiveOptions = {}): Promise<Message | null> {
    const { descriptors = MAX_DESCRIPTORS, signal } = options;
    return this.#started(() =>
      this.#receiver.receive(counted(maxBytes, 'maxBytes'), counted(descriptors, 'descriptors', 0), signal),
    );
  }

  /**
   * Receives exactly `length` bytes. Descriptors may come with any of them; see `ReceiveOptions`.
   *
   * @param length at least 1. Memory is taken as bytes come, so a large length that a peer announced costs nothing yet.
   * @returns null when the stream ends before the first byte
   * @throws {PassfdError} `ERR_EOF` when the stream ends after the first byte; otherwise as `receive`
   */
  receiveExactly(length: number, options: ReceiveOptions = {}): Promise<Message | null> {
    const { descriptors = 0, signal } = options;
    return this.#started(() =>
      this.#receiver.receiveExactly(
        counted(length, 'length'),
        counted(descriptors, 'descriptors', 0),
        signal,
      ),
    );
  }

  /**
   * Copies bytes that have come, and leaves them and their descriptors in the socket.
   * @param maxBytes most bytes to copy. Default and maximum: 64 KiB.
   * @returns null when nothing has come yet; an empty Buffer at the end of the stream
   * @throws {PassfdError} `ERR_PEER_GONE`, `ERR_CLOSED`
   */
  peek(maxBytes = RECEIVE_BYTES): Buffer | null {
    this.#checkOpen();
    return this.#receiver.peek(counted(maxBytes, 'maxBytes'));
  }

  /** Resolves when a receive would not have to wait: bytes have come, or the stream has ended. Receives nothing. */
  untilReadable(options: Pick<ReceiveOptions, 'signal'> = {}): Promise<void> {
    return this.#started(() => this.#receiver.untilReadable(options.signal));
  }

  /** The messages until the stream ends. Descriptors that the body of the loop does not take are closed after each turn. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Message, void, undefined> {
    for (;;) {
      using message = await this.receive();
      if (!message) return;
      yield message;
    }
  }

  /** Ends the sending direction after all pending sends. Receiving goes on. @throws {PassfdError} `ERR_CLOSED` */
  async end(): Promise<void> {
    await this.#sender.flushed();
    this.#checkOpen();
    const result = native.shutdownWrite(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'shutdown', this.#subject);
  }

  /**
   * Ends both directions now, for all holders of the socket. Bytes that have come can still be received. Later sends of the
   * other end fail there with `EPIPE`; over TCP the first of them still goes out and is answered by a reset. Does nothing when
   * the connection is already over.
   * @throws {PassfdError} `ERR_CLOSED`
   */
  shutdown(): void {
    this.#checkOpen();
    const result = native.shutdown(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'shutdown', this.#subject);
  }

  /**
   * Neither sends nor receives until `thaw`. For a socket that may move to another process. Waiting operations go on waiting,
   * and new ones wait after them.
   * @internal
   */
  freeze(): void {
    this.#checkOpen();
    this.#receiver.freeze();
    this.#sender.freeze();
    this.#updateInterest();
  }

  /** The sends that wait now, in order. Their descriptors are lent. @internal */
  unsent(): Unsent[] {
    this.#checkOpen();
    return this.#sender.unsent();
  }

  /** Position of the first hand-off that is not sent; undefined when all are sent. @internal */
  get unsentPosition(): number | undefined {
    return this.#sender.unsentPosition;
  }

  /** Rejects the hand-offs that wait, and every later one. @internal */
  endHandoffs(reason: unknown): void {
    this.#checkOpen();
    this.#sender.endHandoffs(reason);
  }

  /** Ends `freeze`. @internal */
  thaw(): void {
    if (this.closed) return;
    this.#receiver.thaw();
    this.#sender.thaw();
    this.#updateInterest();
  }

  /**
   * While on, receives wait for `poll` instead of the event loop. Under load, when the next `poll` comes soon anyway, arriving
   * bytes then cause no wake-up. The caller that turns it on must go on calling `poll`.
   * @internal
   */
  setPolled(on: boolean): void {
    if (this.closed || on === this.#isPolled) return;
    this.#isPolled = on;
    this.#receiver.setPolled(on);
    this.#updateInterest();
  }

  /** Completes a waiting receive if something has come. @internal */
  poll(): void {
    if (this.closed) return;
    this.#receiver.continue();
    this.#updateInterest();
  }

  /** Lets a waiting operation keep the process alive. This is the default. */
  ref(): this {
    this.#readiness.setReferenced(true);
    this.#sender.setReferenced(true);
    return this;
  }

  /** Lets the process exit while operations wait. */
  unref(): this {
    this.#readiness.setReferenced(false);
    this.#sender.setReferenced(false);
    return this;
  }

  /**
   * Gives the descriptor away, for example to make a `net.Socket` of it.
   * @throws {PassfdError} `ERR_BYTES_UNSENT` while a send waits; `ERR_BYTES_ALREADY_READ` while a receive waits, or when an
   * aborted receive left bytes here; `ERR_CLOSED`
   */
  release(): Descriptor {
    this.#checkOpen();
    if (this.#sender.isBusy) {
      throw new PassfdError('ERR_BYTES_UNSENT', 'Sends are waiting; await them first');
    }
    if (this.#receiver.isBusy) {
      throw new PassfdError(
        'ERR_BYTES_ALREADY_READ',
        'A receive is waiting, or an aborted receive left bytes in this process',
      );
    }
    const released = this.#descriptor.move();
    this.destroy();
    return released;
  }

  /**
   * Finishes pending sends, then frees everything. Meanwhile nothing more can be sent or received. It waits as long as the
   * other end does not read; `destroy` does not wait. A second call does nothing.
   */
  async close(): Promise<void> {
    if (this.closed) return;
    this.#isClosing = true;
    this.#receiver.rejectWaiting(closedError());
    await this.#sender.flushed();
    this.destroy();
  }

  /**
   * Frees everything now, and rejects what waits. A second call does nothing.
   * @param reason the error for what waits. Default: `ERR_CLOSED`.
   */
  destroy(reason: unknown = closedError()): void {
    this.#readiness.close();
    this.#receiver.close(reason);
    this.#sender.close(reason);
    this.#descriptor.close();
  }

  /**
   * As `destroy`, when no other process holds this end. A distrusted peer sees the end at once, and if it left no descriptor
   * in the queue, the number is free when this returns.
   * @internal
   */
  discard(reason: unknown = closedError()): void {
    const account = this.closed || !this.carriesDescriptors ? undefined : this.#descriptor.account;
    if (account === undefined) {
      this.destroy(reason);
      return;
    }
    const fd = this.#descriptor.release();
    this.destroy(reason);
    refuse(fd, account);
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Throws what `send` would throw for these bytes and this number of descriptors. @internal */
  checkSendable(bytes: Uint8Array, descriptors: number): void {
    if (!(bytes instanceof Uint8Array)) {
      throw new TypeError('Only a Uint8Array, such as a Buffer, can be sent');
    }
    if (bytes.length > MAX_SEND_BYTES) {
      throw new TypeError(
        `One send takes at most ${MAX_SEND_BYTES} bytes, not ${bytes.length}; send several times`,
      );
    }
    if (descriptors === 0) return;
    if (bytes.length === 0) {
      throw new TypeError(
        'Descriptors need at least one byte to travel with: the kernel drops them without bytes',
      );
    }
    if (descriptors > MAX_DESCRIPTORS) {
      throw new PassfdError(
        'ERR_TOO_MANY_DESCRIPTORS',
        `One message takes at most ${MAX_DESCRIPTORS} descriptors, not ${descriptors}; send several messages`,
      );
    }
    if (!this.carriesDescriptors) {
      throw new PassfdError(
        'ERR_NO_DESCRIPTOR_PASSING',
        'This is a TCP connection, and only Unix sockets carry descriptors',
      );
    }
  }

  /** Turns an error that is thrown at once into a rejection. */
  #started<T>(receive: () => Promise<T>): Promise<T> {
    try {
      this.#checkOpen();
      return receive();
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #updateInterest(): void {
    if (this.closed) return;
    const isReading = this.#receiver.isWaiting && !this.#isPolled;
    this.#readiness.want((isReading ? READABLE : 0) | (this.#sender.isWaiting ? WRITABLE : 0));
  }

  #checkOpen(): void {
    if (this.closed || this.#isClosing) throw closedError();
  }

  get #subject(): { descriptor: string } {
    return { descriptor: `the socket with descriptor ${this.#descriptor.fd}` };
  }
}

function closedError(): PassfdError {
  return new PassfdError('ERR_CLOSED', 'The socket is closed');
}

function counted(count: number, name: string, least = 1): number {
  if (Number.isSafeInteger(count) && count >= least) return count;
  throw new TypeError(`${name} is an integer of at least ${least}, not ${String(count)}`);
}
