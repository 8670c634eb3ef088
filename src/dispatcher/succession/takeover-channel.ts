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
import * as v from 'valibot';

import {
  closeAll,
  MAX_DESCRIPTORS,
  PassfdError,
  type Descriptor,
  type StreamSocket,
} from '../../fd/index.js';
import {
  address,
  count,
  encodeFrame,
  formerChild,
  positive,
  ticketSecretMessage,
} from '../../handoff/index.js';

/** Of what the old generation says. */
export const TAKEOVER_FORMAT = 1;

const identity = { id: positive, pid: positive };

/** Of a Unix socket: whether its file is removed with it, and the device and inode of that. */
const file = { removesFile: v.boolean(), fileIdentity: v.optional(v.string()) };

const passfdWorker = v.object({
  dialect: v.literal('passfd'),
  ...identity,
  isTrusted: v.boolean(),
  isCustodian: v.boolean(),
  /** Earlier generations do not say these two. */
  knowsAgain: v.optional(v.boolean()),
  formerChild: v.optional(formerChild),
  state: v.picklist(['starting', 'ready', 'draining']),
  parting: v.optional(v.string()),
  isStalled: v.optional(v.boolean()),
  isTakenOut: v.optional(v.boolean()),
  isHolding: v.optional(v.boolean()),
  window: positive,
  capacity: v.nullable(count),
  carried: count,
  awaitedCustody: count,
  adopted: count,
  closed: count,
  settled: count,
  subscriptions: v.array(
    v.object({
      listener: count,
      servers: positive,
      /** Earlier generations do not say these two. */
      isNew: v.optional(v.boolean()),
      sharesTickets: v.optional(v.boolean()),
    }),
  ),
  /** Addresses that it has closed, and that are opened again when it ends. Earlier generations do not say them. */
  givenBack: v.optional(v.array(v.object({ key: v.string(), address, backlog: v.optional(count) }))),
  /** Of a frame that has come in part, in base64. */
  partial: v.string(),
});

const recipeWorker = v.object({
  dialect: v.picklist(['multiprocessing', 'raw']),
  ...identity,
  state: v.picklist(['ready', 'draining']),
  adopted: count,
  concurrency: positive,
  limit: v.optional(positive),
  /** Identities of connections, in base64. */
  held: v.array(v.string()),
  hasOthers: v.optional(v.boolean()),
  answer: v.string(),
  isSent: v.boolean(),
});

const message = v.variant('type', [
  /** The first message of the old generation. */
  v.object({
    type: v.literal('from'),
    format: positive,
    version: v.string(),
    generation: positive,
    counts: v.object({
      accepted: count,
      adopted: count,
      redelivered: count,
      refused: count,
      refusedPeers: count,
    }),
  }),
  v.object({
    type: v.literal('listener'),
    id: count,
    key: v.string(),
    isOwn: v.boolean(),
    backlog: v.optional(count),
    accepted: count,
    ...file,
    /** Where a worker has asked for it. */
    tickets: v.optional(ticketSecretMessage),
  }),
  /** A listening socket that a worker may still ask for. */
  v.object({ type: v.literal('offered'), isInherited: v.boolean() }),
  v.object({ type: v.literal('control'), ...file }),
  v.object({ type: v.literal('raw-control'), ...file }),
  v.object({ type: v.literal('worker'), worker: v.union([passfdWorker, recipeWorker]) }),
  /** Of the last worker: what is to be sent to it, in base64; a hand-off with so many of the connections in flight. */
  v.object({
    type: v.literal('unsent'),
    bytes: v.string(),
    handoff: v.optional(v.object({ position: positive, listener: count, count: positive })),
  }),
  /** Of the last worker: connections that came to a listener. */
  v.object({ type: v.literal('in-flight'), listener: count }),
  v.object({ type: v.literal('waiting'), listener: count }),
  v.object({ type: v.literal('silent-child'), ...identity }),
  /** What is no business of the dispatcher's, for who runs it. */
  v.object({ type: v.literal('attachment'), data: v.unknown() }),
  v.object({ type: v.literal('all') }),
  v.object({ type: v.literal('ready') }),
  v.object({ type: v.literal('failed'), code: v.string(), reason: v.string() }),
  v.object({
    type: v.literal('go'),
    /** How long ago the old one was asked to stop, if it was. */
    stoppingForMs: v.optional(count),
  }),
  v.object({ type: v.literal('started') }),
  /** The first message of the new generation. */
  v.object({ type: v.literal('hello'), version: v.string(), format: positive, pid: positive }),
  /** A generation asks who has started it for the next one. */
  v.object({ type: v.literal('wanted') }),
  /** The answer, with the end of a channel to that process; its program has just been started. */
  v.object({ type: v.literal('successor'), pid: positive }),
  /** It is the dispatcher now, and the one that says so ends. */
  v.object({ type: v.literal('handed-over'), pid: positive }),
]);

export type TakeoverMessage = v.InferOutput<typeof message>;

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
   * @throws {PassfdError} `ERR_PROTOCOL`, `ERR_DESCRIPTORS_LOST`, `ERR_UNEXPECTED_DESCRIPTORS`, `ERR_EOF`, or the reason of the signal
   */
  async receive(
    signal?: AbortSignal,
  ): Promise<{ readonly message: TakeoverMessage; readonly descriptors: Descriptor[] } | undefined> {
    const header = await this.#receive(LENGTH_BYTES, MAX_DESCRIPTORS, signal);
    if (!header) return undefined;
    const length = header.bytes.readUInt32BE(0);
    const descriptors = header.takeDescriptors();
    try {
      if (length === 0 || length > MAX_MESSAGE_BYTES) {
        throw new PassfdError('ERR_PROTOCOL', `A message of the takeover announces ${length} bytes`);
      }
      // All descriptors come with the first byte of a message.
      const payload = await this.#receive(length, 0, signal);
      if (!payload) throw new PassfdError('ERR_EOF', 'The other generation ended inside a message');
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

function decode(payload: Buffer): TakeoverMessage {
  let json: unknown;
  try {
    json = JSON.parse(payload.toString());
  } catch (cause) {
    throw new PassfdError('ERR_PROTOCOL', 'A message of the takeover is not JSON', { cause });
  }
  const result = v.safeParse(message, json);
  if (result.success) return result.output;
  throw new PassfdError(
    'ERR_PROTOCOL',
    `A message of the takeover is not understood: ${v.summarize(result.issues)}`,
  );
}
