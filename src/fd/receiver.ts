// The receiving half of a stream socket: reads wait in the order of the calls, and an aborted read puts its bytes back.
import { whenAborted } from './abort.js';
import { closeAll, Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import { Message } from './message.js';
import { native, RESULTS_LENGTH } from './native.js';
import { EAGAIN, systemError } from './system-error.js';
import { OPERATIONS_PER_TURN } from './turns.js';

/** Most bytes of one receive. */
export const RECEIVE_BYTES = 65_536;

/** Most memory taken for an announced length before bytes have come. More is taken as bytes come. */
const FIRST_ALLOCATION_BYTES = 1_048_576;

/** An attempt returns it when it has to wait for the socket. */
const WAIT = Symbol('wait');

/** One call of a receiving method. */
interface Read<T> {
  /** Finishes, throws, or returns `WAIT`. */
  attempt(source: Source): T | typeof WAIT;
  /** What an aborted read has consumed so far. */
  undo(): Message | undefined;
}

interface Waiting {
  attempt(): boolean;
  giveUp(reason: unknown): void;
}

/** Receives from a descriptor that is lent to it. */
export class Receiver {
  readonly #source: Source;
  readonly #onWaiting: () => void;
  readonly #waiting: Waiting[] = [];
  #turnsLeft = OPERATIONS_PER_TURN;
  #isFrozen = false;
  #isPolled = false;

  /**
   * @param accountOf the account of a distrusted peer: see `StreamSocket.distrust`
   * @param onWaiting called when `isWaiting` may have changed, except by `continue`
   */
  constructor(fd: number, accountOf: () => number | undefined, onWaiting: () => void) {
    this.#source = new Source(fd, accountOf);
    this.#onWaiting = onWaiting;
  }

  /** Whether a read waits for the socket to become readable. */
  get isWaiting(): boolean {
    return this.#waiting.length > 0 && !this.#isFrozen;
  }

  /** Whether bytes would be lost if another object continued to read from the descriptor. */
  get isBusy(): boolean {
    return this.#waiting.length > 0 || this.#source.hasPutBack;
  }

  /** @param most most descriptors that may come */
  receive(maxBytes: number, most: number, signal: AbortSignal | undefined): Promise<Message | null> {
    return this.#start(new Receive(Math.min(maxBytes, RECEIVE_BYTES), most), signal);
  }

  /** @param most most descriptors that may come with all of these bytes */
  receiveExactly(length: number, most: number, signal: AbortSignal | undefined): Promise<Message | null> {
    return this.#start(new ReceiveExactly(length, most), signal);
  }

  untilReadable(signal: AbortSignal | undefined): Promise<void> {
    return this.#start(untilReadable, signal);
  }

  peek(maxBytes: number): Buffer | null {
    return this.#source.peek(maxBytes);
  }

  /** Receives nothing until `thaw`. */
  freeze(): void {
    this.#isFrozen = true;
  }

  thaw(): void {
    this.#isFrozen = false;
    this.continue();
  }

  /** Whether receives wait for `continue` even when bytes may have come. */
  setPolled(on: boolean): void {
    this.#isPolled = on;
  }

  /** The socket may be readable. */
  continue(): void {
    if (this.#isFrozen) return;
    this.#turnsLeft = OPERATIONS_PER_TURN;
    while (this.#waiting[0]?.attempt() === true) this.#waiting.shift();
  }

  /** Rejects the reads that wait, and puts back what they have consumed. */
  rejectWaiting(reason: unknown): void {
    for (const waiting of this.#waiting.splice(0)) waiting.giveUp(reason);
  }

  close(reason: unknown): void {
    this.rejectWaiting(reason);
    this.#source.close();
  }

  #start<T>(read: Read<T>, signal: AbortSignal | undefined): Promise<T> {
    signal?.throwIfAborted();
    // The kernel sends no event for bytes that were put back, so a read must not wait for them.
    const isOpen = this.#waiting.length === 0 && !this.#isFrozen;
    if (isOpen && ((this.#turnsLeft > 0 && !this.#isPolled) || this.#source.hasPutBack)) {
      this.#turnsLeft--;
      const outcome = read.attempt(this.#source);
      if (outcome !== WAIT) return Promise.resolve(outcome);
    }
    return this.#wait(read, signal);
  }

  #wait<T>(read: Read<T>, signal: AbortSignal | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const waiting: Waiting = {
        attempt: () => {
          try {
            const outcome = read.attempt(this.#source);
            if (outcome === WAIT) return false;
            resolve(outcome);
          } catch (error) {
            reject(error);
          }
          detach();
          return true;
        },
        giveUp: (reason) => {
          detach();
          this.#source.putBack(read.undo());
          reject(reason);
        },
      };
      const detach = whenAborted(signal, (reason) => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        waiting.giveUp(reason);
        // The next read may be complete with what this one put back.
        if (this.#source.hasPutBack) this.continue();
        this.#onWaiting();
      });
      this.#waiting.push(waiting);
      this.#onWaiting();
    });
  }
}

// One call at a time uses these: the call into the addon is done with them when it returns.
const scratch = Buffer.allocUnsafeSlow(RECEIVE_BYTES);
const results = new Int32Array(RESULTS_LENGTH);

/** What was put back, and then the socket. */
class Source {
  readonly #fd: number;
  readonly #accountOf: () => number | undefined;
  #putBack: Message | undefined;
  /** Unexpected descriptors of a distrusted peer are next in the queue. They may not be received, so the stream ends here. */
  #isBlocked = false;
  /** An error that a peek met, as `-errno`. The kernel reports an error once, and the next receive must report it. */
  #failure: number | undefined;

  constructor(fd: number, accountOf: () => number | undefined) {
    this.#fd = fd;
    this.#accountOf = accountOf;
  }

  get hasPutBack(): boolean {
    return this.#putBack !== undefined;
  }

  putBack(message: Message | undefined): void {
    this.#putBack = message ?? this.#putBack;
  }

  /**
   * @param descriptors descriptors that this read has already
   * @param most as for `read`
   * @throws {PassfdError} as `read`
   */
  takePutBack(maxBytes: number, descriptors: Descriptor[], most: number): Message | undefined {
    const whole = this.#putBack;
    if (!whole) return undefined;
    if (descriptors.length + whole.descriptors.length > most) {
      whole.close();
      closeAll(descriptors);
      throw unexpectedError(most);
    }
    this.#putBack = undefined;
    if (whole.bytes.length <= maxBytes) return whole;
    this.#putBack = new Message(whole.bytes.subarray(maxBytes), []);
    return new Message(whole.bytes.subarray(0, maxBytes), whole.takeDescriptors());
  }

  /**
   * Reads into `bytes`, and adds the descriptors that come to `descriptors`.
   * @param most most descriptors in all
   * @returns the number of bytes, 0 at the end of the stream, or `WAIT`
   * @throws {PassfdError} then `descriptors` are closed. If descriptors were lost or too many, the bytes of the message and
   * those before them in `bytes` are put back.
   */
  read(
    bytes: Buffer,
    offset: number,
    length: number,
    descriptors: Descriptor[],
    most: number,
  ): number | typeof WAIT {
    if (this.#isBlocked) return 0;
    const account = this.#accountOf();
    // Receiving and closing unexpected descriptors may take long: see native/closer.h.
    const isGuarded = account !== undefined && descriptors.length >= most;
    const result =
      this.#failure ??
      (isGuarded
        ? native.receiveBytes(this.#fd, bytes, offset, length, results)
        : native.receive(this.#fd, bytes, offset, length, results));
    this.#failure = undefined;
    if (result === EAGAIN) return WAIT;
    if (result < 0) {
      closeAll(descriptors);
      throw receiveError(result, this.#fd);
    }
    const count = results[0] ?? 0;
    for (let index = 2; index < count + 2; index++) {
      const descriptor = new Descriptor(results[index] ?? -1);
      if (account !== undefined) descriptor.distrust(account);
      descriptors.push(descriptor);
    }
    this.#isBlocked = isGuarded && results[1] !== 0;
    const hasLost = results[1] !== 0;
    const isTooMany = descriptors.length + (hasLost ? 1 : 0) > most;
    if (hasLost || isTooMany) {
      closeAll(descriptors);
      this.putBack(new Message(copied(bytes, offset + result), []));
      throw isTooMany ? unexpectedError(most) : lostError();
    }
    return result;
  }

  peek(maxBytes: number): Buffer | null {
    if (this.#putBack) return copied(this.#putBack.bytes, Math.min(maxBytes, this.#putBack.bytes.length));
    const result = this.#peek(Math.min(maxBytes, RECEIVE_BYTES));
    if (result === EAGAIN) return null;
    if (result < 0) throw receiveError(result, this.#fd);
    return copied(scratch, result);
  }

  get isReadable(): boolean {
    return this.hasPutBack || this.#isBlocked || this.#peek(1) !== EAGAIN;
  }

  close(): void {
    this.#putBack?.close();
    this.#putBack = undefined;
  }

  #peek(maxBytes: number): number {
    if (this.#failure !== undefined) return this.#failure;
    const result = native.peek(this.#fd, scratch.subarray(0, maxBytes));
    if (result < 0 && result !== EAGAIN) this.#failure = result;
    return result;
  }
}

class Receive implements Read<Message | null> {
  readonly #maxBytes: number;
  readonly #most: number;

  constructor(maxBytes: number, most: number) {
    this.#maxBytes = maxBytes;
    this.#most = most;
  }

  attempt(source: Source): Message | null | typeof WAIT {
    const descriptors: Descriptor[] = [];
    const putBack = source.takePutBack(this.#maxBytes, descriptors, this.#most);
    if (putBack) return putBack;
    const length = source.read(scratch, 0, this.#maxBytes, descriptors, this.#most);
    if (length === WAIT) return WAIT;
    return length === 0 ? null : new Message(copied(scratch, length), descriptors);
  }

  undo(): undefined {
    return undefined;
  }
}

class ReceiveExactly implements Read<Message | null> {
  readonly #length: number;
  readonly #most: number;
  #buffer: Buffer;
  #filled = 0;
  readonly #descriptors: Descriptor[] = [];

  constructor(length: number, most: number) {
    this.#length = length;
    this.#most = most;
    this.#buffer = Buffer.allocUnsafe(Math.min(length, FIRST_ALLOCATION_BYTES));
  }

  attempt(source: Source): Message | null | typeof WAIT {
    for (let reads = 0; this.#filled < this.#length; reads++) {
      if (reads === OPERATIONS_PER_TURN) return WAIT;
      if (this.#filled === this.#buffer.length) this.#grow();
      const room = this.#buffer.length - this.#filled;
      const putBack = source.takePutBack(room, this.#descriptors, this.#most);
      if (putBack) {
        this.#filled += putBack.bytes.copy(this.#buffer, this.#filled);
        this.#descriptors.push(...putBack.takeDescriptors());
        continue;
      }
      const length = source.read(this.#buffer, this.#filled, room, this.#descriptors, this.#most);
      if (length === WAIT) return WAIT;
      if (length === 0) return this.#end();
      this.#filled += length;
    }
    return this.#take();
  }

  undo(): Message | undefined {
    return this.#filled > 0 ? this.#take() : undefined;
  }

  #take(): Message {
    return new Message(this.#buffer.subarray(0, this.#filled), this.#descriptors);
  }

  #end(): null {
    if (this.#filled === 0) return null;
    closeAll(this.#descriptors);
    throw new PassfdError('ERR_EOF', `The stream ended after ${this.#filled} of ${this.#length} bytes`);
  }

  #grow(): void {
    const larger = Buffer.allocUnsafe(Math.min(this.#length, this.#filled * 2));
    this.#buffer.copy(larger);
    this.#buffer = larger;
  }
}

const untilReadable: Read<undefined> = {
  attempt: (source) => (source.isReadable ? undefined : WAIT),
  undo: () => undefined,
};

function copied(bytes: Buffer, length: number): Buffer {
  const copy = Buffer.allocUnsafe(length);
  bytes.copy(copy, 0, 0, length);
  return copy;
}

function receiveError(result: number, fd: number): PassfdError {
  return systemError(result, 'recvmsg', { descriptor: `the socket with descriptor ${fd}` });
}

function unexpectedError(most: number): PassfdError {
  return new PassfdError(
    'ERR_UNEXPECTED_DESCRIPTORS',
    most === 0
      ? 'Descriptors came where none are expected, and were closed'
      : `More than ${most} descriptors came, and all were closed`,
  );
}

function lostError(): PassfdError {
  return new PassfdError(
    'ERR_DESCRIPTORS_LOST',
    'The kernel could not install every descriptor of a message, so all were closed. Most likely this process has ' +
      'reached its limit: raise it (ulimit -n), or close what is not needed',
  );
}
