// TakeoverChannel: the bytes of takeover messages, and the descriptors that come with them, on a socket pair.
// Frames are those of `docs/protocol.md`.
import {
  closeAll,
  MAX_DESCRIPTORS,
  PassfdError,
  type Descriptor,
  type StreamSocket,
} from '../../fd/index.js';
import { encodeFrame } from '../../handoff/index.js';
import {
  decodeTakeover,
  encodeTakeover,
  type OutgoingMessage,
  type TakeoverMessage,
} from './takeover-messages.js';

const LENGTH_BYTES = 4;

/**
 * More than the limit of the protocol: one message may hold all addresses of a worker, or a long unfinished line of
 * output. The peer is a process of this service.
 */
const MAX_MESSAGE_BYTES = 16_777_216;

interface Received {
  readonly message: TakeoverMessage;
  readonly descriptors: Descriptor[];
}

/** One end of a socket pair between two generations. */
export class TakeoverChannel implements Disposable {
  readonly #socket: StreamSocket;

  /** Takes ownership of the socket. */
  constructor(socket: StreamSocket) {
    this.#socket = socket;
  }

  /** @param descriptors lent until the promise is settled @throws {PassfdError} as `StreamSocket.send` */
  async send(message: OutgoingMessage, descriptors: readonly Descriptor[] = []): Promise<void> {
    await this.#socket.send(encodeFrame(encodeTakeover(message)), descriptors, { kept: true });
  }

  /**
   * Reads the next message.
   * @returns undefined at the end of the stream; the caller owns the descriptors
   * @throws {PassfdError} `ERR_PROTOCOL`, `ERR_DESCRIPTORS_LOST`, `ERR_UNEXPECTED_DESCRIPTORS`, `ERR_EOF`, or the
   * signal's reason
   */
  async receive(signal?: AbortSignal): Promise<Received | undefined> {
    const header = await this.#receive(LENGTH_BYTES, MAX_DESCRIPTORS, signal);
    if (!header) return undefined;
    const length = header.bytes.readUInt32BE(0);
    const descriptors = header.takeDescriptors();
    try {
      if (length === 0 || length > MAX_MESSAGE_BYTES) {
        throw new PassfdError('ERR_PROTOCOL', `A takeover message announces ${length} bytes`);
      }
      // All descriptors come with the first byte of a message.
      const payload = await this.#receive(length, 0, signal);
      if (!payload) throw new PassfdError('ERR_EOF', 'The other generation ended inside a message');
      return { message: decodeTakeover(payload.bytes), descriptors };
    } catch (error) {
      closeAll(descriptors);
      throw error;
    }
  }

  /** As `receive`, where the stream may not end. @throws {PassfdError} also `ERR_TAKEOVER`, at the end of the stream */
  async next(): Promise<Received> {
    const received = await this.receive();
    if (!received) throw endedError();
    return received;
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  /** The death of the other generation ends the stream. The kernel may report it as a reset. */
  async #receive(
    length: number,
    descriptors: number,
    signal: AbortSignal | undefined,
  ): ReturnType<StreamSocket['receiveExactly']> {
    try {
      return await this.#socket.receiveExactly(length, { descriptors, signal });
    } catch (error) {
      if (error instanceof PassfdError && error.code === 'ERR_PEER_GONE') return null;
      throw error;
    }
  }
}

export function endedError(cause?: unknown): PassfdError {
  return new PassfdError('ERR_TAKEOVER', 'The other generation ended; its output says why', { cause });
}
