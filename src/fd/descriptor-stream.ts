// DescriptorStream: a Node Duplex that carries descriptors, for libraries that are built on streams.
import { Duplex, type DuplexOptions } from 'node:stream';

import { closeAll, type Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import type { Message } from './message.js';
import { borrow, duplicateAll, type Loan, type Passable } from './passable.js';
import type { StreamSocket } from './stream-socket.js';

/** The descriptors that travel with one chunk. */
interface Parcel {
  readonly duplicates: readonly Descriptor[];
  readonly loans: readonly Loan[];
}

type Callback = (error?: Error | null) => void;

/**
 * A Unix socket as a Node stream: the transport that D-Bus and Wayland libraries expect.
 *
 * The event `'fds'` brings the descriptors of a message as an array, which the listener then owns. It comes before the
 * `'data'` that the descriptors came with. With a paused reader it may come before earlier data too, so the protocol must say
 * how many descriptors belong to a message, as D-Bus and Wayland do. Without a listener for `'fds'`, descriptors are closed
 * and the stream is destroyed with `ERR_UNEXPECTED_DESCRIPTORS`.
 */
export class DescriptorStream extends Duplex {
  readonly #socket: StreamSocket;
  /** Keyed by the Buffer object that goes through the writable side, which keeps order and back-pressure. */
  readonly #parcels = new Map<Uint8Array, Parcel>();

  /**
   * Takes over the socket.
   * @param options as of `stream.Duplex`. Defaults: `allowHalfOpen` true, `highWaterMark` Node's.
   */
  constructor(socket: StreamSocket, options: Pick<DuplexOptions, 'allowHalfOpen' | 'highWaterMark'> = {}) {
    super(options);
    this.#socket = socket;
  }

  /** The socket, for example to read `peer`. */
  get socket(): StreamSocket {
    return this.#socket;
  }

  /**
   * Writes bytes with descriptors that arrive with the first byte, in order with other writes. Descriptors are lent, and the
   * caller may close them when this returns; a `net.Socket` moves (see `Passable`).
   * @param bytes at least one byte
   * @returns false when the caller should wait for `'drain'`, as `write` does
   * @throws {PassfdError} `ERR_CLOSED`, or what `send` throws for a descriptor that cannot be passed. A later failure destroys
   * the stream.
   */
  writeWithFds(bytes: Uint8Array, fds: readonly Passable[], callback?: Callback): boolean {
    if (fds.length === 0) return this.write(bytes, callback);
    if (this.destroyed || this.writableEnded) {
      throw new PassfdError('ERR_CLOSED', 'The stream was ended or destroyed');
    }
    this.#socket.checkSendable(bytes, fds.length);
    const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const numbers = new Int32Array(fds.length);
    const loans = borrow(fds, numbers);
    try {
      this.#parcels.set(chunk, { loans, duplicates: duplicateAll(numbers, fds.length) });
    } catch (error) {
      for (const loan of loans) loan.failed();
      throw error;
    }
    return this.write(chunk, callback);
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: Callback): void {
    const parcel = this.#parcels.get(chunk);
    this.#socket.send(chunk, parcel?.duplicates).then(() => {
      if (parcel) {
        this.#parcels.delete(chunk);
        closeAll(parcel.duplicates);
        for (const loan of parcel.loans) loan.sent();
      }
      process.nextTick(callback);
    }, callback);
  }

  override _final(callback: Callback): void {
    this.#socket.end().then(() => {
      callback();
    }, callback);
  }

  override _read(): void {
    this.#socket.receive().then(
      (message) => {
        // Outside the promise: an error that a listener throws is an uncaught exception, as with any other stream.
        process.nextTick(() => {
          this.#deliver(message);
        });
      },
      (error: unknown) => {
        this.destroy(error as Error);
      },
    );
  }

  override _destroy(error: Error | null, callback: Callback): void {
    this.#socket.destroy();
    for (const { duplicates, loans } of this.#parcels.values()) {
      closeAll(duplicates);
      for (const loan of loans) loan.failed();
    }
    this.#parcels.clear();
    callback(error);
  }

  #deliver(message: Message | null): void {
    if (!message) {
      this.push(null);
      return;
    }
    const descriptors = message.takeDescriptors();
    if (descriptors.length > 0 && (this.destroyed || !this.emit('fds', descriptors))) {
      closeAll(descriptors);
      this.destroy(
        new PassfdError(
          'ERR_UNEXPECTED_DESCRIPTORS',
          'Descriptors came, and the "fds" event has no listener',
        ),
      );
      return;
    }
    this.push(message.bytes);
  }
}
