// The first frame on a control socket: it says who has connected, and in which dialect the channel goes on.
import * as v from 'valibot';

import { PassfdError } from '../fd/index.js';
import { checkJson, parseJson } from './json.js';
import { count, positive } from './numbers.js';
import { shortened } from './peer-text.js';

/** The version of the protocol in `docs/protocol.md`. A peer of another version is refused, and gets the reason. */
export const PROTOCOL_VERSION = 1;

/** Longest first frame. The dispatcher reads no more before it knows the peer. */
export const MAX_HELLO_BYTES = 4096;

/** Longest name of a service in a hello. */
const MAX_SERVICE = 128;

/** Most descriptors in flight to one worker, whatever window it has: each is open in the dispatcher too. */
export const MAX_WINDOW = 4096;

/** What a worker was to the supervisor that started it, whose dispatcher has died. */
export const formerChild = v.object({
  slot: positive,
  /** The service, as the supervisor had named it to the worker. */
  service: v.pipe(v.string(), v.maxLength(MAX_SERVICE)),
});

export type FormerChild = v.InferOutput<typeof formerChild>;

const workerHello = v.object({
  passfd: v.literal(PROTOCOL_VERSION),
  role: v.literal('worker'),
  pid: positive,
  /** Connections that may be in flight: sent, not yet adopted or refused. */
  window: v.pipe(positive, v.maxValue(MAX_WINDOW)),
  /** Most connections that it wants to have open; null for no limit. */
  capacity: v.nullable(count),
  /** Whether it keeps the dispatcher's listening sockets open, and brings them to the next dispatcher if this one dies. */
  custody: v.optional(v.boolean()),
  /** Whether it knows `orphaned` and AGAIN. The first workers of this version do not. */
  again: v.optional(v.boolean()),
  /** Whether it can accept connections by itself, when the dispatcher says so. Earlier releases omit it. */
  direct: v.optional(v.boolean()),
  /** Set when the worker's dispatcher has died. */
  returns: v.optional(
    v.object({
      /** The id that it had there. */
      id: positive,
      /** Connections from there that it has open. */
      open: count,
      /** Listening sockets in its custody. This many `custody` messages follow the welcome. */
      custody: count,
      /** Set when a supervisor started it. Earlier releases do not send it. */
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

/** The first frame of a peer: a hello, or the pickle that a Python worker of the recipe begins with. */
export type Introduction =
  | { readonly dialect: 'passfd'; readonly hello: Hello }
  | { readonly dialect: 'multiprocessing'; readonly pickle: Buffer };

/** First byte of every pickle of protocol 2 and later: the opcode PROTO (Lib/pickletools.py). */
const PICKLE_PROTO = 0x80;
const BRACE = 0x7b;

/** The first bytes of a listener with a key (Lib/multiprocessing/connection.py, `deliver_challenge`). */
const CHALLENGE = '#CHALLENGE#';

/** @throws {PassfdError} `ERR_AUTHENTICATION` when a frame is the challenge of a dispatcher with a key: this side has no key */
export function refuseChallenge(frame: Buffer): void {
  if (!frame.subarray(0, CHALLENGE.length).equals(Buffer.from(CHALLENGE))) return;
  throw new PassfdError(
    'ERR_AUTHENTICATION',
    'The dispatcher asks for a key: pass the key that it was started with, by --authkey-file FILE or PASSFD_AUTHKEY',
  );
}

export function encodeHello(message: Hello): Buffer {
  return Buffer.from(JSON.stringify(message));
}

/** @throws {PassfdError} `ERR_HELLO`, with a reason that can be sent to the peer */
export function decodeIntroduction(frame: Buffer): Introduction {
  if (frame[0] === PICKLE_PROTO) return { dialect: 'multiprocessing', pickle: frame };
  if (frame[0] !== BRACE) {
    throw new PassfdError('ERR_HELLO', 'The first frame is neither a hello of passfd nor a pickle');
  }
  const json = parseJson(frame, 'ERR_HELLO', 'The hello');
  const found = v.safeParse(versions, json);
  const spoken = found.success ? found.output.passfd : undefined;
  if (found.success && spoken !== PROTOCOL_VERSION) {
    throw new PassfdError(
      'ERR_HELLO',
      `This is protocol version ${PROTOCOL_VERSION}, and the peer speaks ${spoken === undefined ? 'none' : shortened(JSON.stringify(spoken))}; run the same release of passfd on both sides`,
    );
  }
  return { dialect: 'passfd', hello: checkJson(json, hello, 'ERR_HELLO', 'The hello') };
}
