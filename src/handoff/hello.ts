// The first frame on a control socket: it tells who has connected, and which language it speaks from then on.
import * as v from 'valibot';

import { PassfdError } from '../fd/index.js';
import { count, positive } from './numbers.js';
import { shortened } from './reason.js';

/** The protocol of `docs/protocol.md`. A peer of another version is refused with a reason, never guessed at. */
export const PROTOCOL_VERSION = 1;

/** Longest first frame: what a peer can make the dispatcher read before it is known. */
export const MAX_HELLO_BYTES = 4096;

/** Longest name of a service in a hello. */
const MAX_SERVICE = 128;

/** Descriptors that may be in flight to one worker at most, whatever it grants: each is open in the dispatcher too. */
export const MAX_WINDOW = 4096;

/** What a worker was to a dispatcher that died, which had started it. */
export const formerChild = v.object({
  slot: positive,
  /** Which service that was of: the supervisor had told it. */
  service: v.pipe(v.string(), v.maxLength(MAX_SERVICE)),
});

export type FormerChild = v.InferOutput<typeof formerChild>;

const workerHello = v.object({
  passfd: v.literal(PROTOCOL_VERSION),
  role: v.literal('worker'),
  pid: positive,
  /** Connections that may be in flight: sent, not yet adopted or refused. */
  window: v.pipe(positive, v.maxValue(MAX_WINDOW)),
  /** Connections that it wants to have open at most; null for no limit. */
  capacity: v.nullable(count),
  /** Whether it keeps the dispatcher's listening sockets open, and brings them to the next one should this one die. */
  custody: v.optional(v.boolean()),
  /** Whether it knows `orphaned` and AGAIN, which a worker of the first days of this version does not. */
  again: v.optional(v.boolean()),
  /** Of a worker whose dispatcher has died. */
  returns: v.optional(
    v.object({
      /** Which worker it was there. */
      id: positive,
      /** Connections that it has open from there. */
      open: count,
      /** Listening sockets that it had in custody: so many `custody` messages follow the welcome. */
      custody: count,
      /** Of one that a supervisor has started. Earlier releases do not say it. */
      child: v.optional(formerChild),
    }),
  ),
});

const controlHello = v.object({
  passfd: v.literal(PROTOCOL_VERSION),
  role: v.literal('control'),
});

const hello = v.variant('role', [workerHello, controlHello]);

export type WorkerHello = v.InferOutput<typeof workerHello>;
export type Hello = v.InferOutput<typeof hello>;

const versions = v.object({ passfd: v.optional(v.unknown()) });

/** What the first frame of a peer says: a hello, or the pickle that a recipe's Python worker begins with. */
export type Introduction =
  | { readonly dialect: 'passfd'; readonly hello: Hello }
  | { readonly dialect: 'multiprocessing'; readonly pickle: Buffer };

/** First byte of every pickle of protocol 2 and later: the opcode PROTO (Lib/pickletools.py). */
const PICKLE_PROTO = 0x80;
const BRACE = 0x7b;

/** What a listener with a key says first (Lib/multiprocessing/connection.py, `deliver_challenge`). */
const CHALLENGE = '#CHALLENGE#';

/** @throws {PassfdError} `ERR_AUTHENTICATION` for the first frame of a dispatcher with a key, when it is not taken for that */
export function refuseChallenge(frame: Buffer): void {
  if (!frame.subarray(0, CHALLENGE.length).equals(Buffer.from(CHALLENGE))) return;
  throw new PassfdError(
    'ERR_AUTHENTICATION',
    'The dispatcher asks for a key; give the one that it was started with, by --authkey-file FILE or PASSFD_AUTHKEY',
  );
}

export function encodeHello(message: Hello): Buffer {
  return Buffer.from(JSON.stringify(message));
}

/** @throws {PassfdError} `ERR_HELLO`, with a reason that the peer can be told */
export function decodeIntroduction(frame: Buffer): Introduction {
  if (frame[0] === PICKLE_PROTO) return { dialect: 'multiprocessing', pickle: frame };
  if (frame[0] !== BRACE) {
    throw new PassfdError('ERR_HELLO', 'The first frame is neither a hello of passfd nor a pickle');
  }
  const json = parse(frame);
  const found = v.safeParse(versions, json);
  const spoken = found.success ? found.output.passfd : undefined;
  if (found.success && spoken !== PROTOCOL_VERSION) {
    throw new PassfdError(
      'ERR_HELLO',
      `This is protocol version ${PROTOCOL_VERSION}, and the peer speaks ${spoken === undefined ? 'none' : shortened(JSON.stringify(spoken))}; run the same release of passfd on both sides`,
    );
  }
  const result = v.safeParse(hello, json);
  if (!result.success) {
    throw new PassfdError(
      'ERR_HELLO',
      shortened(`The hello is not understood: ${v.summarize(result.issues)}`),
    );
  }
  return { dialect: 'passfd', hello: result.output };
}

function parse(frame: Buffer): unknown {
  try {
    return JSON.parse(frame.toString());
  } catch (cause) {
    throw new PassfdError('ERR_HELLO', 'The hello is not JSON', { cause });
  }
}
