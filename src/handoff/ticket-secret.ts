// TicketSecret: the secret, with its age, that the session ticket keys of one address are derived from. It is never printed.
import { hkdfSync, randomBytes } from 'node:crypto';

import * as v from 'valibot';

import { count } from './numbers.js';

const SECRET_BYTES = 32;

/** Names what is derived, as RFC 5869 recommends. */
const KEYS_LABEL = 'passfd session ticket keys 1';

/** The length that `setTicketKeys` of Node takes. */
const KEYS_BYTES = 48;

const NO_SECRET = 'A ticket secret is malformed';

/** A secret in a message, in base64. The text of an issue must not contain the value, since it may get into a log. */
export const ticketSecretMessage = v.object(
  {
    secret: v.pipe(v.string(NO_SECRET), v.check(isSecret, NO_SECRET)),
    /** An age and not a time, since the clocks of two processes may differ. */
    ageMs: count,
  },
  NO_SECRET,
);
export type TicketSecretMessage = v.InferOutput<typeof ticketSecretMessage>;

/** The bytes are private. So neither `inspect` nor `JSON.stringify` shows them. */
export class TicketSecret {
  readonly #bytes: Buffer;
  readonly #createdAt: number;

  private constructor(bytes: Buffer, createdAt: number) {
    this.#bytes = bytes;
    this.#createdAt = createdAt;
  }

  /** @param now by `performance.now()` of this process, as in all other methods */
  static create(now: number): TicketSecret {
    return new TicketSecret(randomBytes(SECRET_BYTES), now);
  }

  static decode({ secret, ageMs }: TicketSecretMessage, now: number): TicketSecret {
    return new TicketSecret(Buffer.from(secret, 'base64'), now - ageMs);
  }

  encode(now: number): TicketSecretMessage {
    return { secret: this.#bytes.toString('base64'), ageMs: this.ageMs(now) };
  }

  ageMs(now: number): number {
    return Math.max(0, Math.round(now - this.#createdAt));
  }

  /** Whether this is another secret than `other`, and was made later. */
  supersedes(other: TicketSecret): boolean {
    return !this.#bytes.equals(other.#bytes) && this.#createdAt > other.#createdAt;
  }

  /** The keys that all servers with this secret and this purpose share, and no other servers. */
  keysFor(purpose: string): Buffer {
    return Buffer.from(hkdfSync('sha256', this.#bytes, '', `${KEYS_LABEL} ${purpose}`, KEYS_BYTES));
  }
}

function isSecret(text: string): boolean {
  const bytes = Buffer.from(text, 'base64');
  return bytes.length === SECRET_BYTES && bytes.toString('base64') === text;
}
