// SharedTickets: one secret for each listening address, from which its workers derive the same TLS ticket keys. They resume
// each other's sessions. A secret is replaced when it is 12 hours old.
import { TicketSecret, type TicketSecretMessage } from '../handoff/index.js';
import type { Listener } from './listener.js';
import type { Clock } from './clock.js';

/**
 * A leaked secret decrypts everything that was recorded while it was in force. Node holds one set of keys, so clients do a full
 * handshake after each change.
 */
const ROTATION_MS = 12 * 60 * 60 * 1000;

interface Held {
  readonly secret: TicketSecret;
  cancelRotation: () => void;
}

export class SharedTickets {
  readonly #clock: Clock;
  readonly #changed: (listener: Listener, tickets: TicketSecretMessage) => void;
  readonly #held = new Map<Listener, Held>();
  /** Another generation may take over. Only one of the two may rotate the secrets. */
  #isFrozen = false;

  /** @param changed called with each new secret, for the workers that have asked for the old one */
  constructor(clock: Clock, changed: (listener: Listener, tickets: TicketSecretMessage) => void) {
    this.#clock = clock;
    this.#changed = changed;
  }

  /**
   * The secret for a worker that asks.
   * @param brought the secret that the worker has from a dispatcher that died. The newest secret is kept
   */
  answer(listener: Listener, brought: TicketSecretMessage | null): TicketSecretMessage {
    const now = this.#clock.now();
    const before = this.#held.get(listener)?.secret;
    const offered = brought ? TicketSecret.decode(brought, now) : undefined;
    if (before && !offered?.supersedes(before)) return before.encode(now);
    const secret = offered ?? TicketSecret.create(now);
    this.#hold(listener, secret);
    if (before) this.#changed(listener, secret.encode(now));
    return secret.encode(now);
  }

  /** For a snapshot. @returns undefined when no worker has asked */
  encoded(listener: Listener): TicketSecretMessage | undefined {
    return this.#held.get(listener)?.secret.encode(this.#clock.now());
  }

  /** Takes over the secret of another generation. It keeps its age. */
  restore(listener: Listener, tickets: TicketSecretMessage): void {
    this.#hold(listener, TicketSecret.decode(tickets, this.#clock.now()));
  }

  /** The address is closed. */
  forget(listener: Listener): void {
    this.#held.get(listener)?.cancelRotation();
    this.#held.delete(listener);
  }

  freeze(): void {
    this.#isFrozen = true;
    for (const held of this.#held.values()) held.cancelRotation();
  }

  thaw(): void {
    this.#isFrozen = false;
    for (const [listener, { secret }] of [...this.#held]) this.#hold(listener, secret);
  }

  #hold(listener: Listener, secret: TicketSecret): void {
    this.#held.get(listener)?.cancelRotation();
    this.#held.set(listener, { secret, cancelRotation: this.#scheduleRotation(listener, secret) });
  }

  #scheduleRotation(listener: Listener, secret: TicketSecret): () => void {
    if (this.#isFrozen) return () => undefined;
    const dueMs = Math.max(0, ROTATION_MS - secret.ageMs(this.#clock.now()));
    return this.#clock.after(dueMs, () => {
      const now = this.#clock.now();
      const next = TicketSecret.create(now);
      this.#hold(listener, next);
      this.#changed(listener, next.encode(now));
    });
  }
}
