// StreamSocket: a connected stream socket that is read exactly as far as asked, and carries descriptors if it is Unix.
import { setImmediate } from 'node:timers/promises';

import type { Address } from './address.js';
import { closeAll, Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import { Message } from './message.js';
import { MAX_DESCRIPTORS, native, RESULTS_LENGTH } from './native.js';
import { duplicateAll, lendAll, type Loan, type Passable } from './passable.js';
import { READABLE, Readiness, WRITABLE } from './readiness.js';
import { EAGAIN, ENOBUFS, systemError } from './system-error.js';

/** Bytes that one receive brings at most, unless the caller asks for less. */
const RECEIVE_BYTES = 65_536;

/** Memory taken for an announced length before any of it has come; more is taken as bytes arrive. */
const FIRST_ALLOCATION_BYTES = 1_048_576;

/** Operations in a row that may end at once; then the event loop gets its turn, so that a busy peer starves nobody. */
const OPERATIONS_PER_TURN = 64;

/** Wait before a send is tried again that the kernel refused without a way to tell when (see `passfd_send`). */
const FIRST_RETRY_MS = 1;
const LAST_RETRY_MS = 100;

/** Who is at the other end: as of the moment it connected, or the socket pair was made (unix(7), SO_PEERCRED). */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export interface SendOptions {
  /** Takes the message back while none of it is sent; after that it is finished, or the stream would be broken. */
  readonly signal?: AbortSignal | undefined;
}

export interface ReceiveOptions {
  /** Stops waiting. What had already come stays in the socket for the next receive. */
  readonly signal?: AbortSignal | undefined;
}

interface Pending {
  reject(reason: unknown): void;
  /** Takes the listener off the signal. */
  detach(): void;
}

interface Read extends Pending {
  /** Tries to finish; false: it has to wait for the socket. */
  attempt(): boolean;
  /** Puts back what a read that is given up had already consumed. */
  undo(): void;
}

interface Write extends Pending {
  readonly bytes: Uint8Array;
  offset: number;
  /** Duplicates, so that the sender's own may be closed meanwhile. Empty once they are sent. */
  descriptors: Descriptor[];
  loans: readonly Loan[];
  resolve(): void;
}

// One call at a time uses these: no call into the addon returns before it is done with them.
const scratch = Buffer.allocUnsafeSlow(RECEIVE_BYTES);
const results = new Int32Array(RESULTS_LENGTH);
const outgoing = new Int32Array(MAX_DESCRIPTORS);

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
  #turnsLeft = OPERATIONS_PER_TURN;
  readonly #reads: Read[] = [];
  readonly #writes: Write[] = [];
  #retry: NodeJS.Timeout | undefined;
  #retryMs = FIRST_RETRY_MS;
  /** Consumed from the socket by a receive that was given up; comes before everything else. */
  #putBack: Message | undefined;
  #whenFlushed: (() => void)[] = [];

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
    this.#descriptor = new Descriptor(descriptor.release());
    this.carriesDescriptors = family === 'unix';
    this.#readiness = new Readiness(this.#descriptor.fd, () => {
      this.#onReady();
    });
  }

  /** Lent, for example to `spawn`'s `stdio`; the socket stays its owner. */
  get descriptor(): Descriptor {
    return this.#descriptor;
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
      return this.#send(bytes, passables, options.signal);
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
   * @throws {PassfdError} `ERR_PEER_GONE`, `ERR_CLOSED`; `ERR_DESCRIPTORS_LOST`: then the next receive brings the bytes
   */
  receive(maxBytes = RECEIVE_BYTES, options: ReceiveOptions = {}): Promise<Message | null> {
    if (!Number.isInteger(maxBytes) || maxBytes < 1) {
      return Promise.reject(new TypeError(`maxBytes is an integer from 1, not ${String(maxBytes)}`));
    }
    const length = Math.min(maxBytes, RECEIVE_BYTES);
    return this.#read(options.signal, (done) => ({
      attempt: () => {
        const putBack = this.#takePutBack(length);
        if (putBack) return done.resolve(putBack);
        const result = native.receive(this.#descriptor.fd, scratch, 0, length, results);
        if (result === EAGAIN) return false;
        if (result < 0) return done.reject(this.#receiveError(result));
        if (results[1] !== 0) return done.reject(this.#lost(Buffer.from(scratch.subarray(0, result))));
        if (result === 0) return done.resolve(null);
        return done.resolve(new Message(Buffer.from(scratch.subarray(0, result)), receivedDescriptors()));
      },
      undo: () => undefined,
    }));
  }

  /**
   * Receives exactly `length` bytes, and not one more, with the descriptors that came among them.
   *
   * @param length at least 1; memory is taken as the bytes come, so a length that a peer announced costs nothing yet
   * @returns null when the stream ends before the first of them
   * @throws {PassfdError} `ERR_EOF` when it ends inside; else as `receive`
   */
  receiveExactly(length: number, options: ReceiveOptions = {}): Promise<Message | null> {
    if (!Number.isSafeInteger(length) || length < 1) {
      return Promise.reject(new TypeError(`length is an integer from 1, not ${String(length)}`));
    }
    let buffer: Buffer = Buffer.allocUnsafe(Math.min(length, FIRST_ALLOCATION_BYTES));
    let filled = 0;
    const descriptors: Descriptor[] = [];
    const take = (): Message => new Message(buffer.subarray(0, filled), descriptors);
    return this.#read<Message | null>(options.signal, (done) => ({
      attempt: () => {
        for (;;) {
          if (filled === length) return done.resolve(take());
          if (filled === buffer.length) buffer = grown(buffer, Math.min(length, filled * 2));
          const putBack = this.#takePutBack(buffer.length - filled);
          if (putBack) {
            filled += putBack.bytes.copy(buffer, filled);
            descriptors.push(...putBack.takeDescriptors());
            continue;
          }
          const result = native.receive(this.#descriptor.fd, buffer, filled, buffer.length - filled, results);
          if (result === EAGAIN) return false;
          if (result < 0) {
            closeAll(descriptors);
            return done.reject(this.#receiveError(result));
          }
          filled += result;
          if (results[1] !== 0) {
            closeAll(descriptors);
            return done.reject(this.#lost(buffer.subarray(0, filled)));
          }
          if (result === 0) {
            if (filled === 0) return done.resolve(null);
            closeAll(descriptors);
            return done.reject(
              new PassfdError('ERR_EOF', `The stream ended after ${filled} of ${length} bytes`),
            );
          }
          descriptors.push(...receivedDescriptors());
        }
      },
      undo: () => {
        if (filled > 0) this.#putBack = take();
      },
    }));
  }

  /**
   * Looks at bytes that have come, and leaves them and their descriptors in place.
   * @returns null when nothing has come yet; empty at the end of the stream
   */
  peek(maxBytes = RECEIVE_BYTES): Buffer | null {
    this.#checkOpen();
    if (!Number.isInteger(maxBytes) || maxBytes < 1) {
      throw new TypeError(`maxBytes is an integer from 1, not ${String(maxBytes)}`);
    }
    if (this.#putBack) return Buffer.from(this.#putBack.bytes.subarray(0, maxBytes));
    const result = native.peek(this.#descriptor.fd, scratch.subarray(0, maxBytes));
    if (result === EAGAIN) return null;
    if (result < 0) throw this.#receiveError(result);
    return Buffer.from(scratch.subarray(0, result));
  }

  /** Resolves when a receive would not have to wait: bytes came, or the stream ended. Takes nothing. */
  untilReadable(options: ReceiveOptions = {}): Promise<void> {
    return this.#read(options.signal, (done) => ({
      attempt: () => {
        if (this.#putBack) return done.resolve();
        // Not `scratch`: a call of one byte is enough, and an error is for the receive to tell.
        return native.peek(this.#descriptor.fd, oneByte) === EAGAIN ? false : done.resolve();
      },
      undo: () => undefined,
    }));
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
    await this.#flushed();
    this.#checkOpen();
    const result = native.shutdownWrite(this.#descriptor.fd);
    if (result < 0) throw systemError(result, 'shutdown', this.#subject);
  }

  /** Whether a waiting operation keeps the process alive; it does from the start, like any other in Node. */
  ref(): this {
    this.#readiness.setReferenced(true);
    return this;
  }

  unref(): this {
    this.#readiness.setReferenced(false);
    return this;
  }

  /**
   * Gives the descriptor away, for example to build a `net.Socket` on it.
   * @throws {PassfdError} `ERR_BYTES_UNSENT` or `ERR_BYTES_ALREADY_READ` while something waits that would be lost
   */
  release(): Descriptor {
    this.#checkOpen();
    if (this.#writes.length > 0) {
      throw new PassfdError('ERR_BYTES_UNSENT', 'Sends are waiting; await them first');
    }
    if (this.#reads.length > 0 || this.#putBack) {
      throw new PassfdError('ERR_BYTES_ALREADY_READ', 'A receive is waiting, or was given up half way');
    }
    const fd = this.#descriptor.release();
    this.destroy();
    return new Descriptor(fd);
  }

  /** Finishes what is being sent, then frees everything. Receives that wait are rejected at once. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.#rejectReads(closedError());
    await this.#flushed();
    this.destroy();
  }

  /**
   * Frees everything now; what waits is rejected.
   * @param reason what they are rejected with; `ERR_CLOSED` if not given
   */
  destroy(reason: unknown = closedError()): void {
    this.#readiness.close();
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#rejectReads(reason);
    this.#rejectWrites(reason);
    this.#putBack?.close();
    this.#putBack = undefined;
    this.#descriptor.close();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #send(bytes: Uint8Array, passables: readonly Passable[], signal: AbortSignal | undefined): Promise<void> {
    this.#checkOpen();
    signal?.throwIfAborted();
    if (!(bytes instanceof Uint8Array)) {
      throw new TypeError('Only a Uint8Array, such as a Buffer, can be sent');
    }
    if (bytes.length === 0) {
      if (passables.length === 0) return Promise.resolve();
      throw new TypeError(
        'Descriptors need at least one byte to travel with: the kernel drops them otherwise',
      );
    }
    if (passables.length > MAX_DESCRIPTORS) {
      throw new PassfdError(
        'ERR_TOO_MANY_DESCRIPTORS',
        `${passables.length} descriptors in one message, and the kernel takes ${MAX_DESCRIPTORS}; send several messages`,
      );
    }
    if (passables.length > 0 && !this.carriesDescriptors) {
      throw new PassfdError(
        'ERR_NO_DESCRIPTOR_PASSING',
        'This is a TCP connection, and only Unix sockets carry descriptors',
      );
    }
    const loans = lendAll(passables);
    try {
      let sent = 0;
      if (this.#writes.length === 0) {
        for (const [index, { fd }] of loans.entries()) outgoing[index] = fd;
        sent = native.send(this.#descriptor.fd, bytes, 0, bytes.length, outgoing, loans.length);
        if (sent < 0 && !isForLater(sent)) throw systemError(sent, 'sendmsg', this.#subject);
        if (sent > 0) for (const loan of loans) loan.sent();
        if (sent === bytes.length) return this.#takeTurn() ? Promise.resolve() : this.#nextTurn();
      }
      return this.#enqueue(bytes, sent, loans, signal);
    } catch (error) {
      for (const loan of loans) loan.failed();
      throw error;
    }
  }

  /** @param sent bytes that are gone already, and with them the descriptors; or the error for which it has to wait */
  #enqueue(
    bytes: Uint8Array,
    sent: number,
    loans: readonly Loan[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const offset = Math.max(sent, 0);
    const descriptors = offset > 0 ? [] : duplicateAll(loans);
    return new Promise((resolve, reject) => {
      const write: Write = {
        bytes,
        offset,
        descriptors,
        loans: offset > 0 ? [] : loans,
        resolve,
        reject,
        detach: onAbort(signal, () => {
          if (write.offset > 0) return;
          this.#writes.splice(this.#writes.indexOf(write), 1);
          this.#settleWrite(write, signal?.reason);
          this.#noteFlushed();
          this.#updateInterest();
        }),
      };
      this.#writes.push(write);
      if (sent === ENOBUFS) this.#retryLater();
      this.#updateInterest();
    });
  }

  #continueWrites(): void {
    for (let write = this.#writes[0]; write; write = this.#writes[0]) {
      for (const [index, { fd }] of write.descriptors.entries()) outgoing[index] = fd;
      const { bytes, offset, descriptors } = write;
      const sent = native.send(
        this.#descriptor.fd,
        bytes,
        offset,
        bytes.length - offset,
        outgoing,
        descriptors.length,
      );
      if (sent === EAGAIN) return;
      if (sent === ENOBUFS) {
        this.#retryLater();
        return;
      }
      if (sent < 0) {
        // A stream that failed once is over: what waits behind must not overtake what was lost.
        this.#rejectWrites(systemError(sent, 'sendmsg', this.#subject));
        return;
      }
      this.#retryMs = FIRST_RETRY_MS;
      write.offset += sent;
      for (const loan of write.loans) loan.sent();
      write.loans = [];
      closeAll(write.descriptors.splice(0));
      if (write.offset === bytes.length) {
        this.#writes.shift();
        this.#settleWrite(write);
      }
    }
    this.#noteFlushed();
  }

  /** The kernel does not tell when it takes more, so this asks again, less and less often. */
  #retryLater(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#retryMs = Math.min(this.#retryMs * 2, LAST_RETRY_MS);
      this.#continueWrites();
      this.#updateInterest();
    }, this.#retryMs);
  }

  #settleWrite(write: Write, ...error: [reason?: unknown]): void {
    write.detach();
    closeAll(write.descriptors);
    if (error.length === 0) {
      write.resolve();
    } else {
      for (const loan of write.loans) loan.failed();
      write.reject(error[0]);
    }
  }

  #read<T>(
    signal: AbortSignal | undefined,
    create: (done: {
      resolve(value: T): true;
      reject(reason: unknown): true;
    }) => Pick<Read, 'attempt' | 'undo'>,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#checkOpen();
      signal?.throwIfAborted();
      const read: Read = {
        ...create({
          resolve: (value) => {
            resolve(value);
            return true;
          },
          reject: (reason) => {
            reject(reason);
            return true;
          },
        }),
        reject,
        detach: () => undefined,
      };
      if (this.#reads.length === 0 && this.#takeTurn() && read.attempt()) return;
      read.detach = onAbort(signal, () => {
        this.#reads.splice(this.#reads.indexOf(read), 1);
        read.detach();
        read.undo();
        reject(signal?.reason as Error);
        this.#updateInterest();
      });
      this.#reads.push(read);
      this.#updateInterest();
    });
  }

  #continueReads(): void {
    for (let read = this.#reads[0]; read?.attempt() === true; read = this.#reads[0]) {
      this.#reads.shift();
      read.detach();
    }
  }

  #takeTurn(): boolean {
    if (this.#turnsLeft === 0) return false;
    this.#turnsLeft--;
    return true;
  }

  /** Ends an operation that was done at once, but only after the event loop had its turn. */
  async #nextTurn(): Promise<void> {
    await setImmediate();
    this.#turnsLeft = OPERATIONS_PER_TURN;
  }

  #updateInterest(): void {
    if (this.closed) return;
    const isSending = this.#writes.length > 0 && !this.#retry;
    this.#readiness.want((this.#reads.length > 0 ? READABLE : 0) | (isSending ? WRITABLE : 0));
  }

  #onReady(): void {
    this.#turnsLeft = OPERATIONS_PER_TURN;
    if (!this.#retry) this.#continueWrites();
    this.#continueReads();
    this.#updateInterest();
  }

  #flushed(): Promise<void> {
    if (this.#writes.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenFlushed.push(resolve));
  }

  #noteFlushed(): void {
    if (this.#writes.length > 0) return;
    for (const flushed of this.#whenFlushed.splice(0)) flushed();
  }

  #rejectReads(reason: unknown): void {
    for (const read of this.#reads.splice(0)) {
      read.detach();
      read.undo();
      read.reject(reason);
    }
  }

  #rejectWrites(reason: unknown): void {
    for (const write of this.#writes.splice(0)) this.#settleWrite(write, reason);
    this.#noteFlushed();
  }

  /** The bytes of a message whose descriptors were lost stay readable; the next receive brings them. */
  #lost(bytes: Buffer): PassfdError {
    this.#putBack = new Message(bytes, []);
    return new PassfdError(
      'ERR_DESCRIPTORS_LOST',
      'The kernel could not install every descriptor of a message, so all of it were closed; most likely this process ' +
        'has reached its limit: raise it (ulimit -n) or close what is not needed',
    );
  }

  #takePutBack(maxBytes: number): Message | undefined {
    const whole = this.#putBack;
    if (!whole) return undefined;
    this.#putBack = undefined;
    if (whole.bytes.length <= maxBytes) return whole;
    this.#putBack = new Message(whole.bytes.subarray(maxBytes), []);
    return new Message(whole.bytes.subarray(0, maxBytes), whole.takeDescriptors());
  }

  #receiveError(result: number): PassfdError {
    return systemError(result, 'recvmsg', this.#subject);
  }

  #checkOpen(): void {
    if (this.closed) throw closedError();
  }

  get #subject(): { descriptor: string } {
    return {
      descriptor: this.closed ? 'a closed socket' : `the socket with descriptor ${this.#descriptor.fd}`,
    };
  }
}

const oneByte = Buffer.alloc(1);

function closedError(): PassfdError {
  return new PassfdError('ERR_CLOSED', 'The socket is closed');
}

function isForLater(result: number): boolean {
  return result === EAGAIN || result === ENOBUFS;
}

function receivedDescriptors(): Descriptor[] {
  const [count = 0] = results;
  return Array.from({ length: count }, (_, index) => new Descriptor(results[2 + index] ?? -1));
}

function grown(buffer: Buffer, length: number): Buffer {
  const larger = Buffer.allocUnsafe(length);
  buffer.copy(larger);
  return larger;
}

/** @returns the function that takes the listener off again */
function onAbort(signal: AbortSignal | undefined, abort: () => void): () => void {
  if (!signal) return () => undefined;
  signal.addEventListener('abort', abort, { once: true });
  return () => {
    signal.removeEventListener('abort', abort);
  };
}
