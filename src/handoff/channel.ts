// Channel: one end of a hand-off channel after the hello. It sends frames with descriptors, and reads frames in order.
import { setImmediate } from 'node:timers/promises';

import {
  MAX_DESCRIPTORS,
  PassfdError,
  type Descriptor,
  type Message,
  type StreamSocket,
} from '../fd/index.js';
import type { Handoff } from '../fd/internal.js';
import { FrameReader, type DescriptorGroup } from './frame-reader.js';
import { MAX_PAYLOAD_BYTES } from './messages.js';

/** What is handled of one channel in a turn of the event loop. So a peer that floods its channel starves no other. */
const FRAMES_PER_TURN = 64;
const BYTES_PER_TURN = MAX_PAYLOAD_BYTES;

/** Gives the descriptors that the present frame announced. The caller owns them. */
export type TakeGroup = (count: number) => DescriptorGroup;

export interface ChannelOptions {
  /** How many descriptors may come with one frame at this moment. A peer that passes more breaks the format. Default: 253. */
  readonly mostDescriptors?: () => number;
  /** The part of the next frame that the previous owner of the socket has read. */
  readonly partial?: Buffer;
}

export class Channel {
  readonly socket: StreamSocket;
  readonly #reader = new FrameReader();
  readonly #mostDescriptors: () => number;
  /** Whether every frame that came is handled, so that `read` waits for the next one. */
  #isIdle = true;
  #whenIdle: (() => void)[] = [];

  /** Takes over the socket. */
  constructor(
    socket: StreamSocket,
    { mostDescriptors = () => MAX_DESCRIPTORS, partial }: ChannelOptions = {},
  ) {
    this.socket = socket;
    this.#mostDescriptors = mostDescriptors;
    if (partial) this.#reader.pushBytes(partial);
  }

  /**
   * Sends one frame. Resolves when the kernel has it; see `StreamSocket.send`.
   * @param descriptors lent: the caller keeps them open until the frame is sent
   */
  post(
    frame: Buffer,
    descriptors: readonly Descriptor[] = [],
    {
      handoff,
      signal,
    }: { readonly handoff?: Handoff | undefined; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    return this.socket.send(frame, descriptors, { kept: true, handoff, signal });
  }

  /**
   * Reads frames, one after the other, until the stream ends. The next frame is read when the handler of the last is done.
   * When the peer dies, even with a reset, the stream ends after everything that the peer had sent. When a frame made this
   * throw, another call goes on with the frame after it.
   *
   * @param onFrame gets a payload, which is valid until it returns or its promise settles
   * @throws {PassfdError} `ERR_PROTOCOL` when the peer breaks the format; `ERR_CLOSED`; and what `onFrame` throws
   */
  async read(onFrame: (payload: Buffer, take: TakeGroup) => Promise<void> | undefined): Promise<void> {
    const take: TakeGroup = (count) => this.#reader.takeGroup(count);
    let framesLeft = FRAMES_PER_TURN;
    let bytesLeft = BYTES_PER_TURN;
    this.#isIdle = false;
    try {
      do {
        for (let payload = this.#reader.next(); payload; payload = this.#reader.next()) {
          const done = onFrame(payload, take);
          if (done) await done;
          bytesLeft -= payload.length;
          if (--framesLeft > 0 && bytesLeft > 0) continue;
          await setImmediate();
          framesLeft = FRAMES_PER_TURN;
          bytesLeft = BYTES_PER_TURN;
        }
        this.#noteIdle();
      } while (await this.#receiveInto(this.#reader));
    } finally {
      this.#noteIdle();
      this.#reader.close();
    }
  }

  /**
   * Stops sending and reading until `socket.thaw`. Resolves when every whole frame that had come is handled.
   * @returns the part of the next frame that has come. The socket knows what is not sent yet
   */
  async freeze(): Promise<Buffer> {
    if (!this.socket.closed) this.socket.freeze();
    // What a receive has already brought still waits in a promise.
    await setImmediate();
    if (!this.#isIdle) await new Promise<void>((resolve) => this.#whenIdle.push(resolve));
    return this.#reader.partial;
  }

  #noteIdle(): void {
    this.#isIdle = true;
    for (const idle of this.#whenIdle.splice(0)) idle();
  }

  /** @returns false at the end of the stream */
  async #receiveInto(reader: FrameReader): Promise<boolean> {
    let message: Message | null;
    try {
      message = await this.socket.receive(undefined, { descriptors: this.#mostDescriptors() });
      this.#isIdle = false;
    } catch (error) {
      if (!(error instanceof PassfdError)) throw error;
      if (error.code === 'ERR_PEER_GONE') return false;
      if (error.code === 'ERR_UNEXPECTED_DESCRIPTORS') throw protocolError(error);
      if (error.code !== 'ERR_DESCRIPTORS_LOST') throw error;
      // The bytes of the message come with the next receive.
      reader.pushGroup('lost');
      return true;
    }
    if (!message) return false;
    reader.pushBytes(message.bytes);
    if (message.descriptors.length > 0) reader.pushGroup(message.takeDescriptors());
    return true;
  }
}

function protocolError(cause: PassfdError): PassfdError {
  return new PassfdError('ERR_PROTOCOL', `The peer passed descriptors: ${cause.message}`, { cause });
}
