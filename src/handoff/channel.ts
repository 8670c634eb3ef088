// Channel: one end of a hand-off channel behind the hello; frames and descriptors go out, and what comes is read in order.
import { setImmediate } from 'node:timers/promises';

import {
  MAX_DESCRIPTORS,
  PassfdError,
  type Descriptor,
  type Message,
  type SendOptions,
  type StreamSocket,
} from '../fd/index.js';
import { FrameReader, type DescriptorGroup } from './frame-reader.js';
import { MAX_PAYLOAD_BYTES } from './messages.js';

/** What one channel may have handled in a turn of the event loop, so that a peer that floods starves nobody. */
const FRAMES_PER_TURN = 64;
const BYTES_PER_TURN = MAX_PAYLOAD_BYTES;

/** What a frame's receiver can ask for: the descriptors that the frame announced, which it owns from then on. */
export type TakeGroup = (count: number) => DescriptorGroup;

export interface ChannelOptions {
  /** How many descriptors may come with one frame, now. A peer that passes more breaks the format. */
  readonly mostDescriptors?: () => number;
  /** What another process had read of the next frame. */
  readonly partial?: Buffer;
}

export class Channel {
  readonly socket: StreamSocket;
  readonly #reader = new FrameReader();
  readonly #mostDescriptors: () => number;
  /** Whether every frame that came is handled, and `read` waits for the next. */
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

  /** Sends one frame, with descriptors that the caller keeps open until it is sent. Resolves when the kernel has it; see `StreamSocket.send`. */
  post(
    frame: Buffer,
    descriptors: readonly Descriptor[] = [],
    { handoff, signal }: Pick<SendOptions, 'handoff' | 'signal'> = {},
  ): Promise<void> {
    return this.socket.send(frame, descriptors, { kept: true, handoff, signal });
  }

  /**
   * Reads frames until the stream ends, one after the other: the next is read when the handler of the last is done.
   * A peer that has died, even with a reset, ends the stream once everything that it had sent is read. When a frame
   * made it throw, another call reads on behind that frame.
   *
   * @param onFrame gets a payload, which is good until it returns or its promise settles
   * @throws {PassfdError} `ERR_PROTOCOL` when the peer breaks the format, what `onFrame` throws, or `ERR_CLOSED`
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
   * Neither sends nor reads until `socket.thaw`, and resolves when what had come as whole frames is handled.
   * @returns what has come of the next frame; what is not sent yet, the socket tells
   */
  async freeze(): Promise<Buffer> {
    if (!this.socket.closed) this.socket.freeze();
    // What a receive has brought already is on its way through a promise.
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
      // The bytes that they came with are still there.
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
