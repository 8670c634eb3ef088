// SharedTickets: one secret for each listening address whose workers ask for it, so that they resume each other's TLS
// sessions. A secret is replaced when it is 12 hours old.
import { TicketSecret, type TicketSecretMessage } from '../handoff/index.js';
import type { AcceptLoop } from './accept-loop.js';
import type { Clock } from './clock.js';

/**
 * Whoever learns a secret can decrypt what was recorded while it was in force. Node holds one set of keys, so clients do a
 * full handshake after each change.
 */
const ROTATION_MS = 12 * 60 * 60 * 1000;

interface Held {
  readonly secret: TicketSecret;
  cancelRotation: () => void;
}

export class SharedTickets {
  readonly #clock: Clock;
  readonly #changed: (loop: AcceptLoop, tickets: TicketSecretMessage) => void;
  readonly #held = new Map<AcceptLoop, Held>();
  /** Another generation may be about to go on with them: it alone rotates them then. */
  #isFrozen = false;

  /** @param changed workers that have asked for it before are to be told */
  constructor(clock: Clock, changed: (loop: AcceptLoop, tickets: TicketSecretMessage) => void) {
    this.#clock = clock;
    this.#changed = changed;
  }

  /**
   * The secret for a worker that asks.
   * @param brought the one that the worker has, from a dispatcher that died: the newest is kept
   */
  answer(loop: AcceptLoop, brought: TicketSecretMessage | null): TicketSecretMessage {
    const now = this.#clock.now();
    const before = this.#held.get(loop)?.secret;
    const offered = brought ? TicketSecret.decode(brought, now) : undefined;
    if (before && !offered?.supersedes(before)) return before.encode(now);
    const secret = offered ?? TicketSecret.create(now);
    this.#hold(loop, secret);
    if (before) this.#changed(loop, secret.encode(now));
    return secret.encode(now);
  }

  /** For the next generation. @returns nothing where nobody has asked */
  encoded(loop: AcceptLoop): TicketSecretMessage | undefined {
    return this.#held.get(loop)?.secret.encode(this.#clock.now());
  }

  /** Goes on with the secret of another generation, which keeps its age. */
  restore(loop: AcceptLoop, tickets: TicketSecretMessage): void {
    this.#hold(loop, TicketSecret.decode(tickets, this.#clock.now()));
  }

  /** The address is closed. */
  forget(loop: AcceptLoop): void {
    this.#held.get(loop)?.cancelRotation();
    this.#held.delete(loop);
  }

  freeze(): void {
    this.#isFrozen = true;
    for (const held of this.#held.values()) held.cancelRotation();
  }

  thaw(): void {
    this.#isFrozen = false;
    for (const [loop, { secret }] of [...this.#held]) this.#hold(loop, secret);
  }

  #hold(loop: AcceptLoop, secret: TicketSecret): void {
    this.#held.get(loop)?.cancelRotation();
    this.#held.set(loop, { secret, cancelRotation: this.#scheduleRotation(loop, secret) });
  }

  #scheduleRotation(loop: AcceptLoop, secret: TicketSecret): () => void {
    if (this.#isFrozen) return () => undefined;
    const dueMs = Math.max(0, ROTATION_MS - secret.ageMs(this.#clock.now()));
    return this.#clock.after(dueMs, () => {
      const now = this.#clock.now();
      const next = TicketSecret.create(now);
      this.#hold(loop, next);
      this.#changed(loop, next.encode(now));
    });
  }
}
