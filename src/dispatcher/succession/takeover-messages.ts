// The messages of a takeover: what two generations of the dispatcher say to each other, in JSON.
//
//   the new one   hello
//   the old one   what it has, one message for each thing, with the descriptors that belong to it; then "all"
//   the new one   ready, or failed
//   the old one   go
//   the new one   started: from here on it is the dispatcher; until here, it has touched nothing
//
// Unknown fields are ignored, so a later release may add some. A release that changes the meaning of a field takes the
// next format, and must still understand this one.
import * as v from 'valibot';

import { PassfdError } from '../../fd/index.js';
import { count, positive } from '../../handoff/index.js';
import { childState, counts, listenerState, offeredState, socketFile } from './snapshot.js';
import { bytes, workerState } from './worker-state.js';

/** The format of the old generation's messages. */
export const TAKEOVER_FORMAT = 1;

const message = v.variant('type', [
  /** The first message of the old generation. */
  v.object({
    type: v.literal('from'),
    format: positive,
    version: v.string(),
    generation: positive,
    counts,
  }),
  v.object({ type: v.literal('listener'), ...listenerState.entries }),
  v.object({ type: v.literal('offered'), ...offeredState.entries }),
  v.object({ type: v.literal('control'), ...socketFile.entries }),
  v.object({ type: v.literal('raw-control'), ...socketFile.entries }),
  v.object({ type: v.literal('worker'), worker: workerState }),
  /**
   * Bytes that wait to be sent to the worker of the last `worker` message. `handoff`: they hand off that many of its
   * connections in flight.
   */
  v.object({
    type: v.literal('unsent'),
    bytes,
    handoff: v.optional(v.object({ position: positive, listener: count, count: positive })),
  }),
  /** Connections in flight to the worker of the last `worker` message. One listener accepted all of them. */
  v.object({ type: v.literal('in-flight'), listener: count }),
  v.object({ type: v.literal('waiting'), listener: count }),
  v.object({ type: v.literal('silent-child'), ...childState.entries }),
  /** For the program that runs the dispatcher: see `Attachment`. */
  v.object({ type: v.literal('attachment'), data: v.unknown() }),
  v.object({ type: v.literal('all') }),
  v.object({ type: v.literal('ready') }),
  v.object({ type: v.literal('failed'), code: v.string(), reason: v.string() }),
  v.object({
    type: v.literal('go'),
    /** Time since the old generation was asked to stop, if it was. */
    stoppingForMs: v.optional(count),
  }),
  v.object({ type: v.literal('started') }),
  /** The first message of the new generation. */
  v.object({ type: v.literal('hello'), version: v.string(), format: positive, pid: positive }),
  /** A generation asks the process that started it for a next one. */
  v.object({ type: v.literal('wanted') }),
  /** The answer, with one end of a channel to that process. Its program has just been started. */
  v.object({ type: v.literal('successor'), pid: positive }),
  /** Process `pid` is the dispatcher now. The sender ends. */
  v.object({ type: v.literal('handed-over'), pid: positive }),
]);

/** A message as it was received, and the same before it is encoded. They differ in their bytes: see `encodeBytes`. */
export type TakeoverMessage = v.InferOutput<typeof message>;
export type OutgoingMessage = v.InferInput<typeof message>;

export function encodeTakeover(outgoing: OutgoingMessage): Buffer {
  return Buffer.from(JSON.stringify(outgoing));
}

/** @throws {PassfdError} `ERR_PROTOCOL` */
export function decodeTakeover(payload: Buffer): TakeoverMessage {
  let json: unknown;
  try {
    json = JSON.parse(payload.toString());
  } catch (cause) {
    throw new PassfdError('ERR_PROTOCOL', 'A takeover message is not JSON', { cause });
  }
  const result = v.safeParse(message, json);
  if (result.success) return result.output;
  throw new PassfdError('ERR_PROTOCOL', `Invalid takeover message: ${v.summarize(result.issues)}`);
}
