// The messages between dispatcher and worker behind the hello: what they say, and their bytes.
//
//   frame    := length32 payload            big-endian, as the frames of Python's multiprocessing
//   payload  := binary | JSON               a JSON object begins with "{"; every other first byte is a type
//
//   HANDOFF  := 01 listener16 count8        to the worker; `count` descriptors travel with the frame's first byte
//   AGAIN    := 05 position64 listener16 count8
//                                           the same, from a dispatcher that died and does not know whether it was sent:
//                                           `position` is that of the first; what the worker has already is a duplicate
//   ADOPTED  := 02 position64               to the dispatcher: every connection up to there that was not refused is mine
//   REFUSED  := 03 position64 reason8       to the dispatcher: what follows the last settled position, up to there, is not
//   CLOSED   := 04 total64                  to the dispatcher: so many of the adopted connections are closed by now
//
// A position counts the connections that were ever sent on the channel: the first one has position 1. Numbers are
// big-endian. The reason for two kinds: the binary ones come thousands of times a second, the others a few times in all.
import { isIP } from 'node:net';

import * as v from 'valibot';

import { PassfdError } from '../fd/index.js';
import { MAX_WINDOW, refuseChallenge } from './hello.js';
import { count, integer, positive } from './numbers.js';
import { shortened } from './reason.js';
import { ticketSecretMessage } from './ticket-secret.js';

const HANDOFF = 1;
const ADOPTED = 2;
const REFUSED = 3;
const CLOSED = 4;
const AGAIN = 5;
const BRACE = 0x7b;

/** Longest payload; a listening address is the longest thing that is said. */
export const MAX_PAYLOAD_BYTES = 65_536;

/** Longest last words: the stack of an error, with a reserve. */
export const MAX_LAST_WORDS = 8192;

/** Descriptors in one message: systems that count one less than Linux' 253 exist (Python's tests use it, unix(7)). */
export const MAX_BATCH = 252;

/** Why a worker does not take a connection. The order is that of the bytes on the wire, from 1. */
export const refusalReasons = ['capacity', 'not-listening', 'descriptors', 'draining'] as const;
export type RefusalReason = (typeof refusalReasons)[number];

const sixteenBits = v.pipe(count, v.maxValue(65_535));

export const address = v.union([
  v.object({ host: v.string(), port: sixteenBits }),
  v.object({ path: v.string() }),
]);

/** What a dispatcher knows a listening socket by, and its successor too; it means nothing to workers. */
const key = v.pipe(v.string(), v.minLength(1), v.maxLength(4096));

/** A place where connections come to, as the dispatcher numbers it. */
const listening = v.object({ id: sixteenBits, address });
export type Listening = v.InferOutput<typeof listening>;

/** What a worker wants to listen at, as `server.listen` was asked. */
const wantedAddress = v.union([
  v.object({
    /** Null for every address of the machine, IPv6 where there is any. A name is nothing that the dispatcher waits for. */
    host: v.nullable(
      v.pipe(
        v.string(),
        v.check((host) => isIP(host) !== 0, 'is not numeric'),
      ),
    ),
    port: sixteenBits,
    ipv6Only: v.boolean(),
    /** Which one of the worker's own listens at port 0 it is: the n-th of every worker get the same port. */
    index: count,
  }),
  v.object({ path: v.string(), mode: v.pipe(count, v.maxValue(0o777)) }),
  /** An open listening socket of the dispatcher's process. */
  v.object({ fd: count }),
]);
export type WantedAddress = v.InferOutput<typeof wantedAddress>;

/**
 * Of a worker whose server speaks TLS and has no ticket keys of its own: the secret that it has for this address, or null.
 * Where there are several addresses, it is that of the first.
 */
const ticketRequest = v.optional(v.nullable(ticketSecretMessage));

/** What comes with a listening socket in custody, and goes back with it to the next dispatcher. */
const custody = {
  key,
  /** Device and inode of its file, where the dispatcher has made one. Earlier releases say neither this nor the backlog. */
  file: v.optional(v.pipe(v.string(), v.regex(/^\d{1,20}:\d{1,20}$/))),
  backlog: v.optional(count),
};

/** What a dispatcher, and the next one, knows a listening socket by. */
export interface CustodyLabel {
  readonly key: string;
  readonly file?: string | undefined;
  readonly backlog?: number | undefined;
}

const fromWorkerJson = v.variant('type', [
  /**
   * It can take connections. With listeners: the servers of these have stayed open after their 'listening'. Without: those
   * of everything that it has asked for. It says so again whenever there are more.
   */
  v.object({ type: v.literal('ready'), listeners: v.optional(v.array(sixteenBits)) }),
  /** Connections of the dispatcher's own addresses (`--listen`). Answered like a listen. */
  v.object({ type: v.literal('serve'), request: count, tickets: ticketRequest }),
  v.object({
    type: v.literal('listen'),
    request: count,
    address: wantedAddress,
    backlog: count,
    tickets: ticketRequest,
  }),
  /** With a request, it is answered when the address is free again, or still served by others. */
  v.object({ type: v.literal('unlisten'), request: v.optional(count), listeners: v.array(sixteenBits) }),
  v.object({ type: v.literal('window'), window: v.pipe(positive, v.maxValue(MAX_WINDOW)) }),
  v.object({
    type: v.literal('capacity'),
    capacity: v.nullable(count),
  }),
  /** It takes nothing new from here on; what comes all the same is refused. */
  v.object({ type: v.literal('draining') }),
  /** Whether connections are open there that came from no dispatcher. A drain waits for them as well. */
  v.object({ type: v.literal('holding'), on: v.boolean() }),
  /** A listening socket of a dispatcher that died, as its descriptor, with the key that came with it. */
  v.object({ type: v.literal('custody'), ...custody }),
  /** Why it is about to end, for who started it. */
  v.object({ type: v.literal('last-words'), text: v.pipe(v.string(), v.maxLength(MAX_LAST_WORDS)) }),
]);

const toWorkerJson = v.variant('type', [
  v.object({
    type: v.literal('welcome'),
    passfd: integer,
    /** Which worker it is: the `ID` of `passfd drain ID`. */
    id: positive,
    pid: positive,
    /** Whether the dispatcher has addresses of its own, which `serve` asks for. */
    serves: v.boolean(),
    /** Whether the dispatcher understands `holding`. */
    holding: v.optional(v.boolean()),
  }),
  v.object({
    type: v.literal('listening'),
    request: count,
    listeners: v.array(listening),
    /** Of the first listener, for a trusted worker that has asked. */
    tickets: v.optional(ticketSecretMessage),
  }),
  /** The secret of a listener has changed. Only workers that have asked for it hear this. */
  v.object({ type: v.literal('tickets'), listener: sixteenBits, tickets: ticketSecretMessage }),
  /** `open`: the service still listens at one of the addresses, for other workers or for those that are expected. */
  v.object({ type: v.literal('unlistened'), request: count, open: v.optional(v.boolean()) }),
  /** `code` is that of a system error, as `EADDRINUSE`. */
  v.object({ type: v.literal('listen-failed'), request: count, code: v.string(), reason: v.string() }),
  /**
   * A listening socket, as its descriptor, to be kept and never used: should the dispatcher die, the worker brings it to
   * the next one.
   */
  v.object({ type: v.literal('custody'), listener: sixteenBits, ...custody }),
  /**
   * These are closed, and nobody is to keep them; `stale`: nor any that came from a dispatcher before, and not from this
   * one.
   */
  v.object({ type: v.literal('release'), listeners: v.array(sixteenBits), stale: v.optional(v.boolean()) }),
  /** The dispatcher has died: what comes behind it has no other owner any more, and nobody reads an answer. */
  v.object({ type: v.literal('orphaned') }),
  /** No connection comes behind it: finish what is open. */
  v.object({ type: v.literal('drain') }),
  /** The last message: the dispatcher lives on without this worker, and what it has not adopted is not its own. */
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

/** A message that is no binary one. */
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
  let json: unknown;
  try {
    json = JSON.parse(payload.toString());
  } catch (cause) {
    throw new PassfdError('ERR_PROTOCOL', 'A message is not JSON', { cause });
  }
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  throw new PassfdError(
    'ERR_PROTOCOL',
    shortened(`A message is not understood: ${v.summarize(result.issues)}`),
  );
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
