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

/** What one send may hold: the addon counts in 32 bits, and so does the kernel (MAX_RW_COUNT). */
const MAX_SEND_BYTES = 0x7fff_ffff;

/** Who is at the other end: as of the moment it connected, or the socket pair was made (unix(7), SO_PEERCRED). */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** Which connections a message hands out. */
export interface Handoff {
  /** Of the first of them: how many were sent on the channel until then, and one. */
  readonly position: number;
  /** The id that `LastWill.addListener` got. */
  readonly listener: number;
  /** The channel counts no positions: one that cannot be sent leaves those that follow as they are. */
  readonly isLone?: boolean | undefined;
}

export interface SendOptions {
  /**
   * Clears `O_NONBLOCK` on the connections that are passed, for a receiver that expects them as accept(2) makes them, as
   * Python does. The flag is shared by all holders of the connection. Listening sockets and all else stay as they are.
   */
  readonly blocking?: boolean | undefined;
  /**
   * The caller keeps what is passed open until the promise is settled. So a send that has to wait needs no duplicates,
   * which cannot be had where the process has no descriptor left.
   */
  readonly kept?: boolean | undefined;
  /**
   * What is passed are connections that are handed out: once they are sent, the last will of this process leaves them to
   * the receiver. Implies `kept`: a duplicate would be one more connection that nobody has. When one cannot be sent, none
   * is from then on, since its position would be wrong (but see `isLone`); everything else is.
   */
  readonly handoff?: Handoff | undefined;
  /** Takes the message back while none of it is sent; after that it is finished, or the stream would be broken. */
  readonly signal?: AbortSignal | undefined;
}

export interface ReceiveOptions {
  /**
   * How many descriptors may come. If more do, all are closed, and the receive fails with `ERR_UNEXPECTED_DESCRIPTORS`.
   * Up to `MAX_DESCRIPTORS` may come with a `receive` that does not say, and none with a `receiveExactly`: a peer can send
   * as many with each byte.
   */
  readonly descriptors?: number | undefined;
  /** Stops waiting. What had already come stays in the socket for the next receive. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A connected stream socket. A Unix socket carries descriptors beside its bytes; a TCP connection carries bytes only.
 *
 * Nothing is read ahead of what is asked for, since descriptors are lost when the bytes that they came with are read
 * by someone who does not expect them. Several sends, or receives, at a time are served in the order of the calls.
 */
export class StreamSocket implements Disposable, AsyncDisposable, AsyncIterable<Message> {
  readonly #descriptor: Descriptor;
  /** Only Unix sockets do. */
  readonly carriesDescriptors: boolean;
  readonly #readiness: Readiness;
  readonly #receiver: Receiver;
  readonly #sender: Sender;
  #isClosing = false;
  #isPolled = false;

  /**
   * Takes over the descriptor of a connected stream socket.
   * @throws {PassfdError} `ERR_WRONG_KIND` when it is something else; then it stays with the caller
   */
  constructor(descriptor: Descriptor) {
    const { kind, family } = descriptor.describe();
    if (kind !== 'stream') {
      throw new PassfdError(
        'ERR_WRONG_KIND',
        `Wanted a connected stream socket, but descriptor ${descriptor.fd} is: ${kind}`,
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

  /** The descriptor's number, lent: it is what lets `spawn` take a socket in `stdio`, and `send` pass it on. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /** A descriptor of the same socket, which the caller owns. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
  duplicate(): Descriptor {
    return this.#descriptor.duplicate();
  }

  /**
   * Protects this process from a peer without your trust, who could make a close wait by what it sends (see
   * `Descriptor.distrust`): descriptors that nobody expects stay in the queue and end the receive, those that are expected
   * are closed by a thread, and so is the socket itself with what is in its queue. Does nothing for TCP.
   * @param account the peer's user
   */
  distrust(account: number): void {
    if (!this.carriesDescriptors) return;
    const result = native.takeRightsOnly(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'setsockopt', this.#subject);
    this.#descriptor.distrust(account);
  }

  /** Ends that, for a peer who has proved who it is. */
  trust(): void {
    this.#descriptor.trust();
  }

  get closed(): boolean {
    return this.#descriptor.closed;
  }

  get localAddress(): Address {
    return this.#descriptor.localAddress;
  }

  get remoteAddress(): Address {
    return this.#descriptor.remoteAddress;
  }

  /** Who is at the other end of a Unix socket. @throws {PassfdError} `ERR_SYSTEM` for a TCP connection on macOS */
  get peer(): PeerCredentials {
    const numbers = new Int32Array(3);
    const result = native.peer(this.#descriptor.fd, numbers);
    if (result < 0) throw systemError(result, 'getsockopt', this.#subject);
    const [pid = 0, uid = 0, gid = 0] = numbers;
    return { pid, uid: uid >>> 0, gid: gid >>> 0 };
  }

  /**
   * What was sent here and not yet received by the other end, in bytes of the kernel's bookkeeping: 0 means all was
   * received, and a one-byte message with a descriptor counts some hundred bytes (SIOCOUTQ, unix(7)).
   */
  get unreadBytes(): number {
    const result = native.unread(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'ioctl', this.#subject);
    return result;
  }

  /**
   * Sends bytes, and descriptors that arrive with the first of them. The bytes must not change until the promise is
   * settled. Descriptors are lent (a `net.Socket` moves, see `Passable`) and may be closed as soon as this returns.
   * Resolves when the kernel has taken all of it; so a sender that awaits it never outruns its receiver by more than
   * the socket's buffer.
   *
   * @param bytes at least one byte where there are descriptors: without bytes the kernel drops them (unix(7))
   * @param passables at most `MAX_DESCRIPTORS`
   * @throws {PassfdError} `ERR_PEER_GONE`, `ERR_CLOSED`, `ERR_TOO_MANY_DESCRIPTORS`, `ERR_NO_DESCRIPTOR_PASSING`, what
   * `Passable` says, or, by the signal, its reason. Then everything that was lent is still the caller's.
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
   * Receives what is there, or waits for it. On a Unix socket the kernel ends a receive behind a message that carries
   * descriptors; bytes sent before it may come with it (unix(7)).
   *
   * @param maxBytes at least 1; 64 KiB at most come at once
   * @returns null at the end of the stream
   * @throws {PassfdError} `ERR_PEER_GONE`, `ERR_CLOSED`; `ERR_DESCRIPTORS_LOST` or `ERR_UNEXPECTED_DESCRIPTORS`: then the
   * next receive brings the bytes
   */
  receive(maxBytes = RECEIVE_BYTES, options: ReceiveOptions = {}): Promise<Message | null> {
    const { descriptors = MAX_DESCRIPTORS, signal } = options;
    return this.#started(() =>
      this.#receiver.receive(counted(maxBytes, 'maxBytes'), counted(descriptors, 'descriptors', 0), signal),
    );
  }

  /**
   * Receives exactly `length` bytes, and not one more. Descriptors may come with any of them; see `ReceiveOptions`.
   *
   * @param length at least 1; memory is taken as the bytes come, so a length that a peer announced costs nothing yet
   * @returns null when the stream ends before the first of them
   * @throws {PassfdError} `ERR_EOF` when it ends inside; else as `receive`
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
   * Looks at bytes that have come, and leaves them and their descriptors in place.
   * @returns null when nothing has come yet; empty at the end of the stream
   */
  peek(maxBytes = RECEIVE_BYTES): Buffer | null {
    this.#checkOpen();
    return this.#receiver.peek(counted(maxBytes, 'maxBytes'));
  }

  /** Resolves when a receive would not have to wait: bytes came, or the stream ended. Takes nothing. */
  untilReadable(options: Pick<ReceiveOptions, 'signal'> = {}): Promise<void> {
    return this.#started(() => this.#receiver.untilReadable(options.signal));
  }

  /** The messages until the stream ends. Descriptors that the loop's body does not take are closed behind it. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Message, void, undefined> {
    for (;;) {
      using message = await this.receive();
      if (!message) return;
      yield message;
    }
  }

  /** Tells the other end that no more bytes come, when what was sent before is on its way. Receiving goes on. */
  async end(): Promise<void> {
    await this.#sender.flushed();
    this.#checkOpen();
    const result = native.shutdownWrite(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'shutdown', this.#subject);
  }

  /**
   * Ends both directions at this moment, for all holders of the socket. What had come before can still be received. What
   * the other end sends from now on fails there with `EPIPE`; over TCP the first of it still goes out, and is reset.
   * Does nothing when the connection is already over.
   */
  shutdown(): void {
    this.#checkOpen();
    const result = native.shutdown(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'shutdown', this.#subject);
  }

  /**
   * Neither sends nor receives until `thaw`: for handing the socket to another process, while it can still stay here.
   * Operations go on waiting, and new ones wait behind them.
   */
  freeze(): void {
    this.#checkOpen();
    this.#receiver.freeze();
    this.#sender.freeze();
    this.#updateInterest();
  }

  /** What waits to be sent at this moment, in its order. The descriptors are lent. */
  unsent(): Unsent[] {
    this.#checkOpen();
    return this.#sender.unsent();
  }

  /** Position of the first hand-off that is not sent; undefined when all are. */
  get unsentPosition(): number | undefined {
    return this.#sender.unsentPosition;
  }

  /** Takes back the hand-offs that wait: they are rejected, and so is each that comes. */
  endHandoffs(reason: unknown): void {
    this.#checkOpen();
    this.#sender.endHandoffs(reason);
  }

  /** Goes on. */
  thaw(): void {
    if (this.closed) return;
    this.#receiver.thaw();
    this.#sender.thaw();
    this.#updateInterest();
  }

  /**
   * Has receives wait for `poll`, and not for the event loop: under load, when the next reason to look comes soon enough
   * by itself, what arrives then wakes nobody up. It may not be left so when nothing calls `poll` any more.
   */
  setPolled(on: boolean): void {
    if (this.closed || on === this.#isPolled) return;
    this.#isPolled = on;
    this.#receiver.setPolled(on);
    this.#updateInterest();
  }

  /** Receives what is there for a receive that waits. */
  poll(): void {
    if (this.closed) return;
    this.#receiver.continue();
    this.#updateInterest();
  }

  /** Whether a waiting operation keeps the process alive; it does from the start, like any other in Node. */
  ref(): this {
    this.#readiness.setReferenced(true);
    this.#sender.setReferenced(true);
    return this;
  }

  unref(): this {
    this.#readiness.setReferenced(false);
    this.#sender.setReferenced(false);
    return this;
  }

  /**
   * Gives the descriptor away, for example to build a `net.Socket` on it.
   * @throws {PassfdError} `ERR_BYTES_UNSENT` or `ERR_BYTES_ALREADY_READ` while something waits that would be lost
   */
  release(): Descriptor {
    this.#checkOpen();
    if (this.#sender.isBusy) {
      throw new PassfdError('ERR_BYTES_UNSENT', 'Sends are waiting; await them first');
    }
    if (this.#receiver.isBusy) {
      throw new PassfdError('ERR_BYTES_ALREADY_READ', 'A receive is waiting, or was given up half way');
    }
    const released = this.#descriptor.move();
    this.destroy();
    return released;
  }

  /**
   * Finishes what is being sent, then frees everything; meanwhile nothing more is sent or received. It waits as long as
   * the other end does not read: `destroy` does not.
   */
  async close(): Promise<void> {
    if (this.closed) return;
    this.#isClosing = true;
    this.#receiver.rejectWaiting(closedError());
    await this.#sender.flushed();
    this.destroy();
  }

  /**
   * Frees everything now; what waits is rejected.
   * @param reason what they are rejected with; `ERR_CLOSED` if not given
   */
  destroy(reason: unknown = closedError()): void {
    this.#readiness.close();
    this.#receiver.close(reason);
    this.#sender.close(reason);
    this.#descriptor.close();
  }

  /**
   * As `destroy`, where nobody else holds this end: a peer without trust hears the end at once, and where it has left no
   * descriptor in the queue, the number is free when this returns.
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

  /** Throws what `send` would for these, whatever the descriptors are. */
  checkSendable(bytes: Uint8Array, descriptors: number): void {
    if (!(bytes instanceof Uint8Array)) {
      throw new TypeError('Only a Uint8Array, such as a Buffer, can be sent');
    }
    if (bytes.length > MAX_SEND_BYTES) {
      throw new TypeError(
        `${bytes.length} bytes in one send, and ${MAX_SEND_BYTES} are possible; send several times`,
      );
    }
    if (descriptors === 0) return;
    if (bytes.length === 0) {
      throw new TypeError(
        'Descriptors need at least one byte to travel with: the kernel drops them otherwise',
      );
    }
    if (descriptors > MAX_DESCRIPTORS) {
      throw new PassfdError(
        'ERR_TOO_MANY_DESCRIPTORS',
        `${descriptors} descriptors in one message, and the kernel takes ${MAX_DESCRIPTORS}; send several messages`,
      );
    }
    if (!this.carriesDescriptors) {
      throw new PassfdError(
        'ERR_NO_DESCRIPTOR_PASSING',
        'This is a TCP connection, and only Unix sockets carry descriptors',
      );
    }
  }

  /** A failure at once is a rejection too. */
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
  throw new TypeError(`${name} is an integer from ${least}, not ${String(count)}`);
}
