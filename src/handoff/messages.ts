// The messages between dispatcher and worker after the hello: their meaning and their bytes.
//
//   frame    := length32 payload            big-endian, as the frames of Python's multiprocessing
//   payload  := binary | JSON               a JSON object begins with "{"; every other first byte is a type
//
//   HANDOFF  := 01 listener16 count8        to the worker; `count` descriptors travel with the frame's first byte
//   AGAIN    := 05 position64 listener16 count8
//                                           to the worker, from the last will: a HANDOFF that the dispatcher was sending when
//                                           it died. `position` is that of its first connection. A worker that has received
//                                           that position before closes these duplicates.
//   ADOPTED  := 02 position64               to the dispatcher: the worker owns every connection up to this position that it
//                                           has not refused
//   REFUSED  := 03 position64 reason8       to the dispatcher: the worker does not take the connections after the last settled
//                                           position, up to this one
//   CLOSED   := 04 total64                  to the dispatcher: the number of adopted connections that were ever closed
//
// A position is the number of connections that were ever sent on the channel: the first one has position 1. Numbers are
// big-endian. There are two kinds of messages because the binary ones come thousands of times a second, and the others rarely.
import { isIP } from 'node:net';

import * as v from 'valibot';

import { PassfdError } from '../fd/index.js';
import { MAX_WINDOW, refuseChallenge } from './hello.js';
import { checkJson, parseJson } from './json.js';
import { count, integer, positive } from './numbers.js';
import { ticketSecretMessage } from './ticket-secret.js';

const HANDOFF = 1;
const ADOPTED = 2;
const REFUSED = 3;
const CLOSED = 4;
const AGAIN = 5;
const BRACE = 0x7b;

/** Longest payload. The longest messages carry a listening address. */
export const MAX_PAYLOAD_BYTES = 65_536;

/** Longest last words, in characters: room for the stack of an error. */
export const MAX_LAST_WORDS = 8192;

/** Most descriptors in one message. Linux takes 253 (unix(7)), and some systems take one less. */
export const MAX_BATCH = 252;

/** Places on a board, from 0: each holds the counts of one listener. */
const MAX_PLACE = 251;

/** Why a worker does not take a connection. On the wire a reason is its place in this list, from 1. */
export const refusalReasons = ['capacity', 'not-listening', 'descriptors', 'draining'] as const;
export type RefusalReason = (typeof refusalReasons)[number];

const sixteenBits = v.pipe(count, v.maxValue(65_535));

export const address = v.union([
  v.object({ host: v.string(), port: sixteenBits }),
  v.object({ path: v.string() }),
]);

/** Identifies a listening socket for a dispatcher and its successors. It means nothing to workers. */
const key = v.pipe(v.string(), v.minLength(1), v.maxLength(4096));

/** An address whose connections the worker gets, with the number that the dispatcher gives it. */
const listening = v.object({ id: sixteenBits, address });
export type Listening = v.InferOutput<typeof listening>;

/** The address that a worker asks for, as the app gave it to `server.listen`. */
const wantedAddress = v.union([
  v.object({
    /** Null for every address of the machine, IPv6 included. The dispatcher resolves no names. */
    host: v.nullable(
      v.pipe(
        v.string(),
        v.check((host) => isIP(host) !== 0, 'is not numeric'),
      ),
    ),
    port: sixteenBits,
    ipv6Only: v.boolean(),
    /** The worker's listens at port 0 are numbered. Those with the same number get the same port in every worker. */
    index: count,
  }),
  v.object({ path: v.string(), mode: v.pipe(count, v.maxValue(0o777)) }),
  /** An open listening socket of the dispatcher's process. */
  v.object({ fd: count }),
]);
export type WantedAddress = v.InferOutput<typeof wantedAddress>;

/**
 * Set when the worker's server speaks TLS and has no ticket keys of its own: the secret that it has for this address, or
 * null. With several addresses, it is the secret of the first.
 */
const ticketRequest = v.optional(v.nullable(ticketSecretMessage));

/** Comes with a listening socket in custody, and goes with it to the next dispatcher. */
const custody = {
  key,
  /** Device and inode of the file, when the dispatcher has made it. Earlier releases send neither this nor the backlog. */
  file: v.optional(v.pipe(v.string(), v.regex(/^\d{1,20}:\d{1,20}$/))),
  backlog: v.optional(count),
};

/** What a dispatcher needs to recognise a listening socket that an earlier one had opened. */
export interface CustodyLabel {
  readonly key: string;
  readonly file?: string | undefined;
  readonly backlog?: number | undefined;
}

const fromWorkerJson = v.variant('type', [
  /**
   * The worker can take connections. `listeners`: those whose servers have stayed open after their 'listening'. Default:
   * everything that it has asked for. It is sent again for each further listener.
   */
  v.object({ type: v.literal('ready'), listeners: v.optional(v.array(sixteenBits)) }),
  /** Asks for the connections of the dispatcher's own addresses (`--listen`). The answers are those of `listen`. */
  v.object({ type: v.literal('serve'), request: count, tickets: ticketRequest }),
  v.object({
    type: v.literal('listen'),
    request: count,
    address: wantedAddress,
    backlog: count,
    tickets: ticketRequest,
  }),
  /** With a request, it is answered when the address is free, or when other workers still serve it. */
  v.object({ type: v.literal('unlisten'), request: v.optional(count), listeners: v.array(sixteenBits) }),
  v.object({ type: v.literal('window'), window: v.pipe(positive, v.maxValue(MAX_WINDOW)) }),
  v.object({
    type: v.literal('capacity'),
    capacity: v.nullable(count),
  }),
  /** The worker takes nothing new from now on, and refuses what is still sent. */
  v.object({ type: v.literal('draining') }),
  /** Whether the worker has connections open that came from no dispatcher. A drain waits for them too. */
  v.object({ type: v.literal('holding'), on: v.boolean() }),
  /** A listening socket of a dispatcher that died, with the key that came with it. Its descriptor comes with the message. */
  v.object({ type: v.literal('custody'), ...custody }),
  /** The worker cannot accept connections of this listener by itself: no descriptor was free. It takes handed-off ones. */
  v.object({ type: v.literal('unwatched'), listener: sixteenBits }),
  /** Why the worker is about to end, for the process that started it. */
  v.object({ type: v.literal('last-words'), text: v.pipe(v.string(), v.maxLength(MAX_LAST_WORDS)) }),
]);

const toWorkerJson = v.variant('type', [
  v.object({
    type: v.literal('welcome'),
    passfd: integer,
    /** The worker's number: the `ID` of `passfd drain ID`. */
    id: positive,
    pid: positive,
    /** Whether the dispatcher has addresses of its own, for `serve`. */
    serves: v.boolean(),
    /** Whether the dispatcher understands `holding`. */
    holding: v.optional(v.boolean()),
    /**
     * Whether `watch` messages say where the worker accepts connections by itself. Without it, the worker accepts nothing by
     * itself. Earlier releases omit it.
     */
    direct: v.optional(v.boolean()),
  }),
  v.object({
    type: v.literal('listening'),
    request: count,
    listeners: v.array(listening),
    /** The secret of the first listener, when a trusted worker has asked for it. */
    tickets: v.optional(ticketSecretMessage),
  }),
  /** The secret of a listener has changed. Sent only to workers that have asked for the secret. */
  v.object({ type: v.literal('tickets'), listener: sixteenBits, tickets: ticketSecretMessage }),
  /** `open`: the service still listens at one of the addresses, for other workers or for workers that it expects. */
  v.object({ type: v.literal('unlistened'), request: count, open: v.optional(v.boolean()) }),
  /** `code` is that of a system error, for example `EADDRINUSE`. */
  v.object({ type: v.literal('listen-failed'), request: count, code: v.string(), reason: v.string() }),
  /**
   * A listening socket, whose descriptor comes with the message. The worker keeps it and never uses it. When the dispatcher
   * dies, the worker brings it to the next one.
   */
  v.object({ type: v.literal('custody'), listener: sixteenBits, ...custody }),
  /**
   * The worker closes the sockets of these listeners. `stale`: also those that came from an earlier dispatcher, and not
   * from this one.
   */
  v.object({ type: v.literal('release'), listeners: v.array(sixteenBits), stale: v.optional(v.boolean()) }),
  /** A page of memory for the worker's counts, in place of an earlier one. Its descriptor comes with the message. */
  v.object({ type: v.literal('board') }),
  /**
   * Whether the worker accepts connections of a listener by itself, with the socket that it has in custody, from now until
   * the next of these messages. `place` is that of the listener's counts on the board.
   */
  v.object({
    type: v.literal('watch'),
    listener: sixteenBits,
    on: v.boolean(),
    place: v.pipe(count, v.maxValue(MAX_PLACE)),
  }),
  /** The dispatcher has died. Connections after this message have no other owner, and no process reads an answer. */
  v.object({ type: v.literal('orphaned') }),
  /** No connection comes after this message. The worker finishes what is open. */
  v.object({ type: v.literal('drain') }),
  /** The last message: the dispatcher lives and disconnects the worker. Connections that are not adopted stay the dispatcher's. */
  v.object({ type: v.literal('farewell'), code: v.string(), reason: v.string() }),
]);

export type FromWorker =
  | { readonly type: 'adopted'; readonly position: number }
  | { readonly type: 'refused'; readonly position: number; readonly reason: RefusalReason }
  | { readonly type: 'closed'; readonly total: number }
  | FromWorkerJson;
export type FromWorkerJson = v.InferOutput<typeof fromWorkerJson>;

export type ToWorker =
  | { readonly type: 'handoff'; readonly listener: number; readonly count: number }
  | {
      readonly type: 'handoff-again';
      readonly position: number;
      readonly listener: number;
      readonly count: number;
    }
  | ToWorkerJson;
export type ToWorkerJson = v.InferOutput<typeof toWorkerJson>;

const LENGTH_BYTES = 4;

export function encodeHandoff(listener: number, count: number): Buffer {
  const frame = framed(4);
  frame[LENGTH_BYTES] = HANDOFF;
  frame.writeUInt16BE(listener, LENGTH_BYTES + 1);
  frame[LENGTH_BYTES + 3] = count;
  return frame;
}

export function encodeHandoffAgain(position: number, listener: number, count: number): Buffer {
  const frame = withNumber(AGAIN, position, 12);
  frame.writeUInt16BE(listener, LENGTH_BYTES + 9);
  frame[LENGTH_BYTES + 11] = count;
  return frame;
}

export function encodeAdopted(position: number): Buffer {
  return withNumber(ADOPTED, position, 9);
}

export function encodeRefused(position: number, reason: RefusalReason): Buffer {
  const frame = withNumber(REFUSED, position, 10);
  frame[LENGTH_BYTES + 9] = refusalReasons.indexOf(reason) + 1;
  return frame;
}

export function encodeClosed(total: number): Buffer {
  return withNumber(CLOSED, total, 9);
}

/** Any message that is not binary. */
export function encodeJson(message: FromWorkerJson | ToWorkerJson): Buffer {
  return encodeFrame(Buffer.from(JSON.stringify(message)));
}

/** A payload with its length before it. */
export function encodeFrame(payload: Buffer): Buffer {
  const frame = framed(payload.length);
  payload.copy(frame, LENGTH_BYTES);
  return frame;
}

/** @throws {PassfdError} `ERR_PROTOCOL` */
export function decodeFromWorker(payload: Buffer): FromWorker {
  switch (payload[0]) {
    case ADOPTED:
      return { type: 'adopted', position: numberIn(payload, 9) };
    case CLOSED:
      return { type: 'closed', total: numberIn(payload, 9) };
    case REFUSED: {
      const reason = refusalReasons[(payload[9] ?? 0) - 1];
      if (!reason) throw new PassfdError('ERR_PROTOCOL', 'A refusal has no reason that is known');
      return { type: 'refused', position: numberIn(payload, 10), reason };
    }
    default:
      return decodeJson(payload, fromWorkerJson);
  }
}

/** @throws {PassfdError} `ERR_PROTOCOL` */
export function decodeToWorker(payload: Buffer): ToWorker {
  switch (payload[0]) {
    case HANDOFF:
      if (payload.length !== 4) throw wrongLength(payload, 4);
      return { type: 'handoff', listener: payload.readUInt16BE(1), count: payload[3] ?? 0 };
    case AGAIN: {
      const position = numberIn(payload, 12);
      return {
        type: 'handoff-again',
        position,
        listener: payload.readUInt16BE(9),
        count: payload[11] ?? 0,
      };
    }
    default:
      return decodeJson(payload, toWorkerJson);
  }
}

function decodeJson<T>(payload: Buffer, schema: v.GenericSchema<unknown, T>): T {
  if (payload[0] !== BRACE) {
    refuseChallenge(payload);
    throw new PassfdError('ERR_PROTOCOL', `A message begins with ${payload[0] ?? 'nothing'}`);
  }
  return checkJson(parseJson(payload, 'ERR_PROTOCOL', 'A message'), schema, 'ERR_PROTOCOL', 'A message');
}

function framed(length: number): Buffer {
  const frame = Buffer.allocUnsafe(LENGTH_BYTES + length);
  frame.writeUInt32BE(length);
  return frame;
}

const WORD = 2 ** 32;

function withNumber(type: number, value: number, length: number): Buffer {
  const frame = framed(length);
  frame[LENGTH_BYTES] = type;
  frame.writeUInt32BE(Math.floor(value / WORD), LENGTH_BYTES + 1);
  frame.writeUInt32BE(value % WORD, LENGTH_BYTES + 5);
  return frame;
}

function numberIn(payload: Buffer, length: number): number {
  if (payload.length !== length) throw wrongLength(payload, length);
  const value = payload.readUInt32BE(1) * WORD + payload.readUInt32BE(5);
  if (!Number.isSafeInteger(value)) throw new PassfdError('ERR_PROTOCOL', 'A count is absurdly large');
  return value;
}

function wrongLength(payload: Buffer, length: number): PassfdError {
  return new PassfdError(
    'ERR_PROTOCOL',
    `A message of type ${payload[0] ?? 0} has ${payload.length} bytes, not ${length}`,
  );
}
