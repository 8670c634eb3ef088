// Connection: Python's `multiprocessing.connection.Connection`, objects and bytes in frames over a stream socket.
import { Descriptor, PassfdError, StreamSocket, type ErrorCode } from '../fd/index.js';
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

/** A frame that is received may be this long, unless the connection is made with another limit. */
const DEFAULT_MAX_FRAME_BYTES = 64 * 1024 * 1024;

export interface ConnectionOptions {
  /** Whether this end may receive. */
  readonly readable?: boolean;
  /** Whether this end may send. */
  readonly writable?: boolean;
  /** Longest frame that is received; at most 2 GiB - 1. Memory is taken as its bytes come, not when it is announced. */
  readonly maxFrameBytes?: number;
  /** What a pickle that is received may ask for at most, beside its length. */
  readonly pickleLimits?: Omit<Partial<PickleLimits>, 'bytes'>;
}

export interface RecvOptions {
  /** Stops waiting. What had come of a frame stays, and the next receive goes on with it. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * One end of a connection to another process, with the methods of Python's `Connection` in camelCase; those that wait
 * return promises. A peer that breaks the wire format gets the connection closed, and the call an error that says how.
 */
export class Connection implements Disposable, AsyncDisposable, AsyncIterable<PickleValue> {
  readonly #socket: StreamSocket;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly #maxFrameBytes: number;
  readonly #pickleLimits: Partial<PickleLimits>;
  /** Of a frame whose length was received and whose payload was not, because a receive was given up between them. */
  #announced: number | 'long' | undefined;
  /** The receive that was called last; the next one waits for it. */
  #lastReceive: Promise<unknown> = Promise.resolve();

  /**
   * Takes over a connected stream socket, for example descriptor 3 of a child: `new Connection(3)`.
   * @throws {PassfdError} `ERR_WRONG_KIND` when it is something else
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

  get closed(): boolean {
    return this.#socket.closed;
  }

  /** The socket under it, for `peer`, addresses and descriptors. Bytes sent or received there break the frames here. */
  get socket(): StreamSocket {
    return this.#socket;
  }

  /** The descriptor's number, lent: as `fileno()`, and what lets `spawn` take a connection in `stdio`. */
  get fd(): number {
    return this.#socket.fd;
  }

  /** The descriptor's number, as in Python. @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` */
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
   * Receives an object. A pickle that is more than data is refused, and never run.
   * @throws {PassfdError} `ERR_EOF` when the other end closed; `ERR_PICKLE`, `ERR_PICKLE_REFUSED`, or as `recvBytes`;
   * then this end is closed too
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
   * @param size as many of them, from `offset` on
   * @throws {PassfdError} `ERR_PEER_GONE`, `ERR_CLOSED`, `ERR_FRAME_TOO_LARGE`
   */
  async sendBytes(bytes: Uint8Array, offset = 0, size = bytes.length - offset): Promise<void> {
    this.#checkDirection(this.writable, 'read-only');
    if (!(offset >= 0 && size >= 0 && offset + size <= bytes.length)) {
      throw new RangeError(`${size} bytes from offset ${offset} are not inside ${bytes.length}`);
    }
    const pieces = encodeFrame(bytes.subarray(offset, offset + size));
    // All are queued before anything is awaited, so that no other frame gets between them.
    await Promise.all(pieces.map((piece) => this.#socket.send(piece)));
  }

  /**
   * Receives one frame.
   * @param maxLength longest frame that is taken here
   * @throws {PassfdError} `ERR_EOF` when the other end closed between two frames; `ERR_FRAME`, `ERR_FRAME_TOO_LARGE`,
   * `ERR_UNEXPECTED_DESCRIPTORS` when it broke the format, and then this end is closed too; `ERR_PEER_GONE`, `ERR_CLOSED`
   */
  async recvBytes(maxLength = this.#maxFrameBytes, options: RecvOptions = {}): Promise<Buffer> {
    this.#checkDirection(this.readable, 'write-only');
    if (!(maxLength >= 0)) throw new RangeError(`maxLength is a number from 0, not ${maxLength}`);
    const limit = Math.min(maxLength, this.#maxFrameBytes);
    return this.inTurn(() => this.#recvFrame(limit, options), options);
  }

  /**
   * Whether there is something to receive: the beginning of a frame, a handle, or the end.
   * @param timeoutMs waits so long for it; null waits until there is
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
   * Runs `receive` when the receives that were called before are done, and closes this end when it finds the format
   * broken. For those that read the socket themselves, as `recvHandle` does.
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
    // One that was given up before its turn must not let the next one overtake those before it.
    this.#lastReceive = Promise.allSettled([before, turn]);
    return turn;
  }

  /** The objects that come, until the other end closes. */
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

  /** Closes this end at once, as Python does; what was sent before still arrives. A second call does nothing. */
  close(): void {
    this.#socket.discard();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Finishes what is being sent, then closes. */
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

  /** A stream that broke the format cannot be read on: nobody knows where the next message begins. */
  #closeIfBroken(error: unknown): void {
    if (error instanceof PassfdError && breaksTheFormat.has(error.code)) this.close();
  }
}

/** @throws the reason of the signal, when that comes first */
function untilDone(before: Promise<unknown>, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const abort = (): void => {
      reject(signal?.reason);
    };
    signal?.addEventListener('abort', abort, { once: true });
    before.then(() => {
      signal?.removeEventListener('abort', abort);
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
    'Descriptors came inside a frame and were closed: the other end sent a handle where recvHandle was not called',
    { cause: error },
  );
}

function endedInside(cause?: unknown): PassfdError {
  return new PassfdError('ERR_FRAME', 'The other end closed the connection inside a message', { cause });
}
