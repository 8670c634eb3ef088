// TicketSecret: what the session ticket keys of one listening address are derived from, and its age. Nothing prints it.
import { hkdfSync, randomBytes } from 'node:crypto';

import * as v from 'valibot';

import { count } from './numbers.js';

const SECRET_BYTES = 32;

/** Names what is derived, as RFC 5869 asks for. */
const KEYS_LABEL = 'passfd session ticket keys 1';

/** What `setTicketKeys` of Node takes. */
const KEYS_BYTES = 48;

const NO_SECRET = 'A ticket secret is malformed';

/** A secret in a message, in base64. An issue must not show the value: it may end up in a log. */
export const ticketSecretMessage = v.object(
  {
    secret: v.pipe(v.string(NO_SECRET), v.check(isSecret, NO_SECRET)),
    /** An age and not a time: the clocks of two processes need not agree. */
    ageMs: count,
  },
  NO_SECRET,
);
export type TicketSecretMessage = v.InferOutput<typeof ticketSecretMessage>;

/** The bytes are private, so that neither `inspect` nor `JSON.stringify` shows them. */
export class TicketSecret {
  readonly #bytes: Buffer;
  readonly #createdAt: number;

  private constructor(bytes: Buffer, createdAt: number) {
    this.#bytes = bytes;
    this.#createdAt = createdAt;
  }

  /** @param now by the clock of this process, as in all other methods */
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

  /** Whether it is another one, and was made later. */
  supersedes(other: TicketSecret): boolean {
    return !this.#bytes.equals(other.#bytes) && this.#createdAt > other.#createdAt;
  }

  /** The keys of all servers with this secret and this purpose, and of no others. */
  keysFor(purpose: string): Buffer {
    return Buffer.from(hkdfSync('sha256', this.#bytes, '', `${KEYS_LABEL} ${purpose}`, KEYS_BYTES));
  }
}

function isSecret(text: string): boolean {
  const bytes = Buffer.from(text, 'base64');
  return bytes.length === SECRET_BYTES && bytes.toString('base64') === text;
}
