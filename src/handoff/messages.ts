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

import * as z from 'zod/mini';

import { PassfdError } from '../fd/index.js';
import { MAX_WINDOW, refuseChallenge } from './hello.js';
import { shortened } from './reason.js';

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

const address = z.union([
  z.object({ host: z.string(), port: z.int().check(z.minimum(0), z.maximum(65_535)) }),
  z.object({ path: z.string() }),
]);

const id = z.int().check(z.minimum(0), z.maximum(65_535));
/** What a dispatcher knows a listening socket by, and its successor too; it means nothing to workers. */
const key = z.string().check(z.minLength(1), z.maxLength(4096));
const request = z.int().check(z.minimum(0));
const positive = z.int().check(z.minimum(1));

/** A place where connections come to, as the dispatcher numbers it. */
const listening = z.object({ id, address });
export type Listening = z.infer<typeof listening>;

/** What a worker wants to listen at, as `server.listen` was asked. */
const wantedAddress = z.union([
  z.object({
    /** Null for every address of the machine, IPv6 where there is any. A name is nothing that the dispatcher waits for. */
    host: z.nullable(z.string().check(z.refine((host) => isIP(host) !== 0, 'is not numeric'))),
    port: z.int().check(z.minimum(0), z.maximum(65_535)),
    ipv6Only: z.boolean(),
    /** Which one of the worker's own listens at port 0 it is: the n-th of every worker get the same port. */
    index: z.int().check(z.minimum(0)),
  }),
  z.object({ path: z.string(), mode: z.int().check(z.minimum(0), z.maximum(0o777)) }),
  /** An open listening socket of the dispatcher's process. */
  z.object({ fd: z.int().check(z.minimum(0)) }),
]);
export type WantedAddress = z.infer<typeof wantedAddress>;

const fromWorkerJson = z.discriminatedUnion('type', [
  z.object({ type: z.literal('ready') }),
  /** Connections of the dispatcher's own addresses (`--listen`). Answered like a listen. */
  z.object({ type: z.literal('serve'), request }),
  z.object({
    type: z.literal('listen'),
    request,
    address: wantedAddress,
    backlog: z.int().check(z.minimum(0)),
  }),
  /** With a request, it is answered when the address is free again, or still served by others. */
  z.object({ type: z.literal('unlisten'), request: z.optional(request), listeners: z.array(id) }),
  z.object({ type: z.literal('window'), window: positive.check(z.maximum(MAX_WINDOW)) }),
  z.object({ type: z.literal('capacity'), capacity: z.nullable(z.int().check(z.minimum(0))) }),
  /** It takes nothing new from here on; what comes all the same is refused. */
  z.object({ type: z.literal('draining') }),
  /** A listening socket of a dispatcher that died, as its descriptor, with the key that came with it. */
  z.object({ type: z.literal('custody'), key }),
  /** Why it is about to end, for who started it. */
  z.object({ type: z.literal('last-words'), text: z.string().check(z.maxLength(MAX_LAST_WORDS)) }),
]);

const toWorkerJson = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('welcome'),
    passfd: z.int(),
    /** Which worker it is: the `ID` of `passfd drain ID`. */
    id: positive,
    pid: positive,
    /** Whether the dispatcher has addresses of its own, which `serve` asks for. */
    serves: z.boolean(),
  }),
  z.object({ type: z.literal('listening'), request, listeners: z.array(listening) }),
  z.object({ type: z.literal('unlistened'), request }),
  /** `code` is that of a system error, as `EADDRINUSE`. */
  z.object({ type: z.literal('listen-failed'), request, code: z.string(), reason: z.string() }),
  /**
   * A listening socket, as its descriptor, to be kept and never used: should the dispatcher die, the worker brings it to
   * the next one.
   */
  z.object({ type: z.literal('custody'), listener: id, key }),
  /**
   * These are closed, and nobody is to keep them; `stale`: nor any that came from a dispatcher before, and not from this
   * one.
   */
  z.object({ type: z.literal('release'), listeners: z.array(id), stale: z.optional(z.boolean()) }),
  /** The dispatcher has died: what comes behind it has no other owner any more, and nobody reads an answer. */
  z.object({ type: z.literal('orphaned') }),
  /** No connection comes behind it: finish what is open. */
  z.object({ type: z.literal('drain') }),
  /** The last message: the dispatcher lives on without this worker, and what it has not adopted is not its own. */
  z.object({ type: z.literal('farewell'), code: z.string(), reason: z.string() }),
]);

export type FromWorker =
  | { readonly type: 'adopted'; readonly position: number }
  | { readonly type: 'refused'; readonly position: number; readonly reason: RefusalReason }
  | { readonly type: 'closed'; readonly total: number }
  | FromWorkerJson;
export type FromWorkerJson = z.infer<typeof fromWorkerJson>;

export type ToWorker =
  | { readonly type: 'handoff'; readonly listener: number; readonly count: number }
  | {
      readonly type: 'handoff-again';
      readonly position: number;
      readonly listener: number;
      readonly count: number;
    }
  | ToWorkerJson;
export type ToWorkerJson = z.infer<typeof toWorkerJson>;

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

function decodeJson<T>(payload: Buffer, schema: z.ZodMiniType<T>): T {
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
  const result = z.safeParse(schema, json);
  if (result.success) return result.data;
  throw new PassfdError(
    'ERR_PROTOCOL',
    shortened(`A message is not understood: ${z.prettifyError(result.error)}`),
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
