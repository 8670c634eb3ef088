// Connection: Python's `multiprocessing.connection.Connection`. Objects and bytes travel in frames over a stream socket.
import { Descriptor, PassfdError, StreamSocket, type ErrorCode } from '../fd/index.js';
import { whenAborted } from '../fd/internal.js';
import {
  decodeHeader,
  decodeLongLength,
  encodeFrame,
  HEADER_BYTES,
  LONG_LENGTH_BYTES,
  MAX_PAYLOAD_BYTES,
  tooLarge,
} from './framing.js';
import { dumps, loads, type PickleLimits, type PickleValue } from './pickle/index.js';
import { checkMilliseconds } from './milliseconds.js';

/** Default of `maxFrameBytes`. */
const DEFAULT_MAX_FRAME_BYTES = 64 * 1024 * 1024;

export interface ConnectionOptions {
  /** Whether this end may receive. Default: true. */
  readonly readable?: boolean;
  /** Whether this end may send. Default: true. */
  readonly writable?: boolean;
  /** Longest frame that is received. Memory is taken as bytes come. Default: 64 MiB; maximum: 2 GiB - 1. */
  readonly maxFrameBytes?: number;
  /** Limits for received pickles, in addition to their length. Defaults: see `PickleLimits`. */
  readonly pickleLimits?: Omit<Partial<PickleLimits>, 'bytes'>;
}

export interface RecvOptions {
  /** Stops waiting. The received part of a frame is kept, and the next receive goes on with it. Default: none. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * One end of a connection to another process, with the methods of Python's `Connection` in camelCase. Methods that wait
 * return promises. When the peer breaks the wire format, the call fails and the connection is closed.
 */
export class Connection implements Disposable, AsyncDisposable, AsyncIterable<PickleValue> {
  readonly #socket: StreamSocket;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly #maxFrameBytes: number;
  readonly #pickleLimits: Partial<PickleLimits>;
  /** The length of a frame whose payload was not received yet, because a receive was aborted in between. */
  #announced: number | 'long' | undefined;
  /** The receive that was called last. The next receive waits for it. */
  #lastReceive: Promise<unknown> = Promise.resolve();

  /**
   * Takes over a connected stream socket, for example descriptor 3 of a child: `new Connection(3)`.
   * @throws {PassfdError} `ERR_WRONG_KIND` when it is not a connected stream socket
   */
  constructor(handle: number | Descriptor | StreamSocket, options: ConnectionOptions = {}) {
    const {
      readable = true,
      writable = true,
      maxFrameBytes = DEFAULT_MAX_FRAME_BYTES,
      pickleLimits,
    } = options;
    if (!Number.isInteger(maxFrameBytes) || maxFrameBytes < 0 || maxFrameBytes > MAX_PAYLOAD_BYTES) {
      throw new TypeError(
        `maxFrameBytes is an integer from 0 to ${MAX_PAYLOAD_BYTES}, not ${String(maxFrameBytes)}`,
      );
    }
    const descriptor = typeof handle === 'number' ? new Descriptor(handle) : handle;
    this.#socket = descriptor instanceof StreamSocket ? descriptor : new StreamSocket(descriptor);
    this.readable = readable;
    this.writable = writable;
    this.#maxFrameBytes = maxFrameBytes;
    this.#pickleLimits = { ...pickleLimits, bytes: maxFrameBytes };
  }

  /** Whether this end is closed. */
  get closed(): boolean {
    return this.#socket.closed;
  }

  /** The socket, to read `peer` and addresses. Bytes that are sent or received there break the frames of the connection. */
  get socket(): StreamSocket {
    return this.#socket;
  }

  /** The number of the descriptor, lent: `spawn` uses it for a connection in `stdio`. */
  get fd(): number {
    return this.#socket.fd;
  }

  /** The number of the descriptor, as in Python. @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` */
  fileno(): number {
    return this.fd;
  }

  /**
   * Sends an object as a pickle: null, booleans, numbers, bigints, strings, bytes, arrays, maps, sets and plain objects.
   * @throws {PassfdError} `ERR_PICKLE_UNSUPPORTED`, `ERR_PEER_GONE`, `ERR_CLOSED`
   */
  async send(object: unknown): Promise<void> {
    await this.sendBytes(dumps(object));
  }

  /**
   * Receives an object. A pickle that names code is refused; code is never run.
   * @throws {PassfdError} `ERR_EOF` when the other end closed. `ERR_PICKLE`, `ERR_PICKLE_REFUSED`, or the errors of
   * `recvBytes`; then this end is closed too.
   */
  async recv(options: RecvOptions = {}): Promise<PickleValue> {
    this.#checkDirection(this.readable, 'write-only');
    return this.inTurn(
      async () => loads(await this.#recvFrame(this.#maxFrameBytes, options), this.#pickleLimits),
      options,
    );
  }

  /**
   * Sends bytes as one frame.
   * @param offset first byte to send. Default: 0.
   * @param size number of bytes to send. Default: all from `offset`.
   * @throws {PassfdError} `ERR_PEER_GONE`, `ERR_CLOSED`, `ERR_FRAME_TOO_LARGE`
   */
  async sendBytes(bytes: Uint8Array, offset = 0, size = bytes.length - offset): Promise<void> {
    this.#checkDirection(this.writable, 'read-only');
    if (!(offset >= 0 && size >= 0 && offset + size <= bytes.length)) {
      throw new RangeError(`${size} bytes from offset ${offset} are not inside ${bytes.length}`);
    }
    const pieces = encodeFrame(bytes.subarray(offset, offset + size));
    // All pieces are queued before the first wait, so that no other frame gets between them.
    await Promise.all(pieces.map((piece) => this.#socket.send(piece)));
  }

  /**
   * Receives one frame.
   * @param maxLength longest frame that this call accepts. Default and maximum: `maxFrameBytes`.
   * @throws {PassfdError} `ERR_EOF` when the other end closed between two frames. `ERR_FRAME`, `ERR_FRAME_TOO_LARGE` or
   * `ERR_UNEXPECTED_DESCRIPTORS` when it broke the format; then this end is closed too. `ERR_PEER_GONE`, `ERR_CLOSED`.
   */
  async recvBytes(maxLength = this.#maxFrameBytes, options: RecvOptions = {}): Promise<Buffer> {
    this.#checkDirection(this.readable, 'write-only');
    if (!(maxLength >= 0)) throw new RangeError(`maxLength is a number of at least 0, not ${maxLength}`);
    const limit = Math.min(maxLength, this.#maxFrameBytes);
    return this.inTurn(() => this.#recvFrame(limit, options), options);
  }

  /**
   * Whether there is something to receive: the beginning of a frame, a handle, or the end of the stream.
   * @param timeoutMs how long to wait for it; null waits without a limit. Default: 0.
   * @throws {PassfdError} `ERR_CLOSED`, `ERR_WRONG_KIND` when this end may not receive
   */
  async poll(timeoutMs: number | null = 0): Promise<boolean> {
    this.#checkDirection(this.readable, 'write-only');
    if (this.#announced !== undefined) return true;
    if (timeoutMs !== null) checkMilliseconds(timeoutMs, 'timeoutMs', 0);
    if (timeoutMs === 0) return this.#socket.peek(1) !== null;
    const signal = timeoutMs === null ? undefined : AbortSignal.timeout(timeoutMs);
    try {
      await this.#socket.untilReadable({ signal });
      return true;
    } catch (error) {
      if (signal?.aborted === true && error === signal.reason) return false;
      throw error;
    }
  }

  /**
   * Runs `receive` after all earlier receives, and closes this end when `receive` finds the format broken. For functions that
   * read the socket themselves, such as `recvHandle`.
   * @internal
   */
  async inTurn<T>(receive: () => Promise<T>, { signal }: RecvOptions = {}): Promise<T> {
    const before = this.#lastReceive;
    const turn = (async () => {
      await untilDone(before, signal);
      try {
        return await receive();
      } catch (error) {
        this.#closeIfBroken(error);
        throw error;
      }
    })();
    // A receive that is aborted before its turn must not let the next receive overtake the earlier ones.
    this.#lastReceive = Promise.allSettled([before, turn]);
    return turn;
  }

  /** The received objects, until the other end closes. */
  async *[Symbol.asyncIterator](): AsyncGenerator<PickleValue, void, undefined> {
    for (;;) {
      try {
        yield await this.recv();
      } catch (error) {
        if (error instanceof PassfdError && error.code === 'ERR_EOF') return;
        throw error;
      }
    }
  }

  /** Closes this end at once, as Python does. Bytes that were sent before still arrive. A second call does nothing. */
  close(): void {
    this.#socket.discard();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Finishes pending sends, then closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket.close();
  }

  async #recvFrame(limit: number, options: RecvOptions): Promise<Buffer> {
    this.#announced ??= decodeHeader(await this.#recvExactly(HEADER_BYTES, options));
    if (this.#announced === 'long') {
      this.#announced = decodeLongLength(await this.#recvExactly(LONG_LENGTH_BYTES, options));
    }
    const length = this.#announced;
    if (length > limit) throw tooLarge(length, limit);
    const payload = length === 0 ? Buffer.alloc(0) : await this.#recvExactly(length, options);
    this.#announced = undefined;
    return payload;
  }

  async #recvExactly(length: number, options: RecvOptions): Promise<Buffer> {
    const isInside = this.#announced !== undefined;
    const { signal } = options;
    using message = await this.#socket.receiveExactly(length, { signal }).catch((error: unknown) => {
      throw inWordsOfFrames(error);
    });
    if (!message) {
      throw isInside ? endedInside() : new PassfdError('ERR_EOF', 'The other end closed the connection');
    }
    return message.bytes;
  }

  #checkDirection(isAllowed: boolean, what: string): void {
    if (this.closed) throw new PassfdError('ERR_CLOSED', 'The connection is closed');
    if (!isAllowed) throw new PassfdError('ERR_WRONG_KIND', `The connection is ${what}`);
  }

  /** After a broken format the stream cannot be read any further: the start of the next message is unknown. */
  #closeIfBroken(error: unknown): void {
    if (error instanceof PassfdError && breaksTheFormat.has(error.code)) this.close();
  }
}

/** @throws the reason of the signal, if the signal aborts first */
function untilDone(before: Promise<unknown>, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const detach = whenAborted(signal, reject);
    before.then(() => {
      detach();
      resolve();
    }, reject);
  });
}

const breaksTheFormat: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ERR_FRAME',
  'ERR_FRAME_TOO_LARGE',
  'ERR_HANDLE',
  'ERR_UNEXPECTED_DESCRIPTORS',
  'ERR_DESCRIPTORS_LOST',
  'ERR_PICKLE',
  'ERR_PICKLE_REFUSED',
]);

function inWordsOfFrames(error: unknown): unknown {
  if (!(error instanceof PassfdError)) return error;
  if (error.code === 'ERR_EOF') return endedInside(error);
  if (error.code !== 'ERR_UNEXPECTED_DESCRIPTORS') return error;
  return new PassfdError(
    error.code,
    'Descriptors came inside a frame and were closed: the other end sent a handle, and recvHandle was not called',
    { cause: error },
  );
}

function endedInside(cause?: unknown): PassfdError {
  return new PassfdError('ERR_FRAME', 'The other end closed the connection inside a message', { cause });
}
