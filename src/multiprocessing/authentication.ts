// The mutual challenge of Python's `multiprocessing.connection`: each end proves that it knows the key without sending it.
//
//   prover  <- "#CHALLENGE#" + message      message: 20 random bytes (CPython <= 3.11), or "{sha256}" + 40 (>= 3.12)
//   prover  -> answer                       HMAC over the message: 16 bytes of MD5, or "{name}" + HMAC of that name
//   prover  <- "#WELCOME#" or "#FAILURE#"
//
// The client proves itself first, then the listener. Source: CPython's Lib/multiprocessing/connection.py,
// deliver_challenge and answer_challenge, of 3.8 to 3.13.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';

import { PassfdError } from '../fd/index.js';

/** The key that both ends know: bytes, or a string for its UTF-8 bytes. An empty key is a `TypeError`. */
export type AuthKey = string | Uint8Array;

/** Sends and receives the frames of a handshake. */
export interface HandshakeChannel {
  sendBytes(bytes: Uint8Array): Promise<void>;
  recvBytes(maxLength: number): Promise<Buffer>;
}

/** CPython reads no longer frame in a handshake. The limit bounds what an unauthenticated peer can make this process read. */
export const MAX_HANDSHAKE_FRAME_BYTES = 256;

const CHALLENGE = Buffer.from('#CHALLENGE#');
const WELCOME = Buffer.from('#WELCOME#');
const FAILURE = Buffer.from('#FAILURE#');

/** Random bytes after the name of the digest, as CPython >= 3.12 sends them. */
const NONCE_BYTES = 40;

/** A message of this length comes from an old CPython, which expects an answer without the name of a digest. */
const LEGACY_MESSAGE_BYTES = 20;
const LEGACY_ANSWER_BYTES = 16;

/** The digests that CPython accepts: Python's name and Node's. */
const digests: ReadonlyMap<string, string> = new Map([
  ['md5', 'md5'],
  ['sha256', 'sha256'],
  ['sha384', 'sha384'],
  ['sha3_256', 'sha3-256'],
  ['sha3_384', 'sha3-384'],
]);

/** The client's part: proves that it knows the key, then checks the listener. */
export async function authenticateToListener(channel: HandshakeChannel, key: Buffer): Promise<void> {
  await answerChallenge(channel, key);
  await deliverChallenge(channel, key);
}

/** The listener's part: checks the client, then proves that it knows the key. */
export async function authenticateClient(channel: HandshakeChannel, key: Buffer): Promise<void> {
  await deliverChallenge(channel, key);
  await answerChallenge(channel, key);
}

/** @throws {TypeError} when the key is empty: CPython takes an empty key for none at one end, and for a key at the other */
export function toKey(authkey: AuthKey): Buffer {
  const key = typeof authkey === 'string' ? Buffer.from(authkey) : Buffer.from(authkey);
  if (key.length === 0) throw new TypeError('authkey is empty; leave it out to use no key');
  return key;
}

/** The message of a challenge, which asks for SHA-256. */
export function createMessage(nonce = randomBytes(NONCE_BYTES)): Buffer {
  return Buffer.concat([Buffer.from('{sha256}'), nonce]);
}

/**
 * The answer to a message, in the digest that the message names. An old CPython names none, and gets MD5 without a name.
 * @throws {PassfdError} `ERR_HANDSHAKE` when the digest is not allowed; `ERR_UNSUPPORTED` when Node lacks it (FIPS and MD5)
 */
export function createAnswer(key: Buffer, message: Buffer): Buffer {
  if (message.length < LEGACY_MESSAGE_BYTES) {
    throw new PassfdError('ERR_HANDSHAKE', `A challenge of ${message.length} bytes is too short to be safe`);
  }
  if (message.length === LEGACY_MESSAGE_BYTES) return hmac('md5', key, message);
  const { name } = splitName(message);
  if (name === undefined) {
    throw new PassfdError('ERR_HANDSHAKE', 'The challenge names no allowed digest');
  }
  return Buffer.concat([Buffer.from(`{${name}}`), hmac(name, key, message)]);
}

/** Whether an answer proves that its sender knows the key. An old CPython answers in MD5 without a name. */
export function isRightAnswer(key: Buffer, message: Buffer, answer: Buffer): boolean {
  const { name, digest } =
    answer.length === LEGACY_ANSWER_BYTES ? { name: 'md5', digest: answer } : splitName(answer);
  if (name === undefined) return false;
  const expected = hmac(name, key, message);
  return digest.length === expected.length && timingSafeEqual(digest, expected);
}

async function deliverChallenge(channel: HandshakeChannel, key: Buffer): Promise<void> {
  const message = createMessage();
  await channel.sendBytes(Buffer.concat([CHALLENGE, message]));
  const answer = await channel.recvBytes(MAX_HANDSHAKE_FRAME_BYTES);
  if (!isRightAnswer(key, message, answer)) {
    // A peer that has hung up by now did not authenticate either.
    await channel.sendBytes(FAILURE).catch(() => undefined);
    throw new PassfdError('ERR_AUTHENTICATION', 'The other end does not know the key: its answer was wrong');
  }
  await channel.sendBytes(WELCOME);
}

async function answerChallenge(channel: HandshakeChannel, key: Buffer): Promise<void> {
  const challenge = await channel.recvBytes(MAX_HANDSHAKE_FRAME_BYTES);
  if (!challenge.subarray(0, CHALLENGE.length).equals(CHALLENGE)) {
    throw new PassfdError(
      'ERR_HANDSHAKE',
      'The other end did not begin with a challenge; does it have a key?',
    );
  }
  await channel.sendBytes(createAnswer(key, challenge.subarray(CHALLENGE.length)));
  const verdict = await channel.recvBytes(MAX_HANDSHAKE_FRAME_BYTES);
  if (!verdict.equals(WELCOME)) {
    throw new PassfdError('ERR_AUTHENTICATION', 'The other end rejected the answer: the keys differ');
  }
}

/** Splits `{name}rest` if the name is that of an allowed digest. */
function splitName(bytes: Buffer): { name?: string; digest: Buffer } {
  for (const name of digests.keys()) {
    const prefix = Buffer.from(`{${name}}`);
    if (bytes.subarray(0, prefix.length).equals(prefix)) {
      return { name, digest: bytes.subarray(prefix.length) };
    }
  }
  return { digest: bytes };
}

function hmac(name: string, key: Buffer, message: Buffer): Buffer {
  try {
    return createHmac(digests.get(name) ?? name, key)
      .update(message)
      .digest();
  } catch (cause) {
    throw new PassfdError(
      'ERR_UNSUPPORTED',
      `The other end uses ${name}, which this Node does not have (a FIPS build?); CPython >= 3.12 uses SHA-256`,
      { cause },
    );
  }
}
