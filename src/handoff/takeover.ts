// The messages by which one generation of the dispatcher hands everything to the next, and their channel.
//
//   the new one   hello
//   the old one   what it has, one message for each thing, with the descriptors that belong to it; then "all"
//   the new one   ready, or failed
//   the old one   go
//   the new one   started: from here on it is the one; before that, it has touched nothing
//
// Frames are those of `docs/protocol.md`. Unknown fields are ignored, so a later release may add some; one that changes
// the meaning of what is there takes the next format, and must still understand this one.
import * as z from 'zod/mini';

import { closeAll, PassfdError, type Descriptor, type StreamSocket } from '../fd/index.js';
import { encodeFrame } from './messages.js';

/** Of what the old generation says. */
export const TAKEOVER_FORMAT = 1;

const count = z.int().check(z.minimum(0));
const positive = z.int().check(z.minimum(1));
const identity = { id: positive, pid: positive };

const passfdWorker = z.object({
  dialect: z.literal('passfd'),
  ...identity,
  isTrusted: z.boolean(),
  isCustodian: z.boolean(),
  /** Earlier generations do not say it. */
  knowsAgain: z.optional(z.boolean()),
  state: z.enum(['starting', 'ready', 'draining']),
  window: positive,
  capacity: z.nullable(count),
  carried: count,
  awaitedCustody: count,
  adopted: count,
  closed: count,
  settled: count,
  subscriptions: z.array(z.object({ listener: count, servers: positive })),
  /** Of a frame that has come in part, in base64. */
  partial: z.string(),
});

const recipeWorker = z.object({
  dialect: z.enum(['multiprocessing', 'raw']),
  ...identity,
  state: z.enum(['ready', 'draining']),
  adopted: count,
  concurrency: positive,
  /** Identities of connections, in base64. */
  held: z.array(z.string()),
  hasOthers: z.optional(z.boolean()),
  answer: z.string(),
  isSent: z.boolean(),
});

const message = z.discriminatedUnion('type', [
  /** The first message of the old generation. */
  z.object({
    type: z.literal('from'),
    format: positive,
    version: z.string(),
    generation: positive,
    counts: z.object({
      accepted: count,
      adopted: count,
      redelivered: count,
      refused: count,
      refusedPeers: count,
    }),
  }),
  z.object({
    type: z.literal('listener'),
    id: count,
    key: z.string(),
    isOwn: z.boolean(),
    accepted: count,
    removesFile: z.boolean(),
  }),
  /** A listening socket that a worker may still ask for. */
  z.object({ type: z.literal('offered'), isInherited: z.boolean() }),
  z.object({ type: z.literal('control'), removesFile: z.boolean() }),
  z.object({ type: z.literal('raw-control'), removesFile: z.boolean() }),
  z.object({ type: z.literal('worker'), worker: z.union([passfdWorker, recipeWorker]) }),
  /** Of the last worker: what is to be sent to it, in base64; a hand-off with so many of the connections in flight. */
  z.object({
    type: z.literal('unsent'),
    bytes: z.string(),
    handoff: z.optional(z.object({ position: positive, listener: count, count: positive })),
  }),
  /** Of the last worker: connections that came to a listener. */
  z.object({ type: z.literal('in-flight'), listener: count }),
  z.object({ type: z.literal('waiting'), listener: count }),
  z.object({ type: z.literal('silent-child'), ...identity }),
  /** What is no business of the dispatcher's, for who runs it. */
  z.object({ type: z.literal('attachment'), data: z.unknown() }),
  z.object({ type: z.literal('all') }),
  z.object({ type: z.literal('ready') }),
  z.object({ type: z.literal('failed'), code: z.string(), reason: z.string() }),
  z.object({ type: z.literal('go') }),
  z.object({ type: z.literal('started') }),
  /** The first message of the new generation. */
  z.object({ type: z.literal('hello'), version: z.string(), format: positive, pid: positive }),
  /** A generation asks who has started it for the next one. */
  z.object({ type: z.literal('wanted') }),
  /** The answer, with the end of a channel to that process; its program has just been started. */
  z.object({ type: z.literal('successor'), pid: positive }),
  /** It is the dispatcher now, and the one that says so ends. */
  z.object({ type: z.literal('handed-over'), pid: positive }),
]);

export type TakeoverMessage = z.infer<typeof message>;

const LENGTH_BYTES = 4;

/**
 * More than in the protocol: in one message may be all addresses of a worker, or a line of output that has not ended. It
 * comes from a process of this service.
 */
const MAX_MESSAGE_BYTES = 16_777_216;

/** One end of a socket pair between two generations. Messages are asked for one by one. */
export class TakeoverChannel implements Disposable {
  readonly #socket: StreamSocket;

  /** Takes over the socket. */
  constructor(socket: StreamSocket) {
    this.#socket = socket;
  }

  /** @param descriptors lent until the promise is settled @throws {PassfdError} as `StreamSocket.send` */
  async send(message: TakeoverMessage, descriptors: readonly Descriptor[] = []): Promise<void> {
    await this.#socket.send(encodeFrame(Buffer.from(JSON.stringify(message))), descriptors, { kept: true });
  }

  /**
   * The next message.
   * @returns undefined at the end of the stream; the caller owns the descriptors
   * @throws {PassfdError} `ERR_PROTOCOL`, `ERR_DESCRIPTORS_LOST`, `ERR_EOF`, or the reason of the signal
   */
  async receive(
    signal?: AbortSignal,
  ): Promise<{ readonly message: TakeoverMessage; readonly descriptors: Descriptor[] } | undefined> {
    const header = await this.#receive(LENGTH_BYTES, signal);
    if (!header) return undefined;
    const length = header.bytes.readUInt32BE(0);
    const descriptors = header.takeDescriptors();
    try {
      if (length === 0 || length > MAX_MESSAGE_BYTES) {
        throw new PassfdError('ERR_PROTOCOL', `A message of the takeover announces ${length} bytes`);
      }
      const payload = await this.#receive(length, signal);
      if (!payload) throw new PassfdError('ERR_EOF', 'The other generation ended inside a message');
      descriptors.push(...payload.takeDescriptors());
      return { message: decode(payload.bytes), descriptors };
    } catch (error) {
      closeAll(descriptors);
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  /** A generation that has died ends the stream, even by a reset. */
  async #receive(
    length: number,
    signal: AbortSignal | undefined,
  ): ReturnType<StreamSocket['receiveExactly']> {
    try {
      return await this.#socket.receiveExactly(length, { signal });
    } catch (error) {
      if (error instanceof PassfdError && error.code === 'ERR_PEER_GONE') return null;
      throw error;
    }
  }
}

function decode(payload: Buffer): TakeoverMessage {
  let json: unknown;
  try {
    json = JSON.parse(payload.toString());
  } catch (cause) {
    throw new PassfdError('ERR_PROTOCOL', 'A message of the takeover is not JSON', { cause });
  }
  const result = z.safeParse(message, json);
  if (result.success) return result.data;
  throw new PassfdError(
    'ERR_PROTOCOL',
    `A message of the takeover is not understood: ${z.prettifyError(result.error)}`,
  );
}
