// Capacity: how many connections a worker wants to have open, as the dispatcher should know it now, and when to say so.
import type { Link } from './link.js';
import type { OpenConnections } from './open-connections.js';
import type { Subscriptions } from './subscriptions.js';

/** An app may change its capacity in each turn. It is sent no more often than this: the dispatcher limits messages. */
const DELAY_MS = 1;

export class Capacity {
  readonly #open: OpenConnections;
  readonly #subscriptions: Subscriptions;
  readonly #link: () => Link | undefined;
  readonly #unseen: () => number;
  #limit: number | null;
  /** What the present dispatcher knows. */
  #sent: number | null = null;
  /** Will send what the app has set by then. */
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param link the channel to the present dispatcher; undefined while there is none
   * @param unseen how many open connections the dispatcher does not know of
   */
  constructor(
    limit: number | null,
    open: OpenConnections,
    subscriptions: Subscriptions,
    link: () => Link | undefined,
    unseen: () => number,
  ) {
    this.#limit = limit;
    this.#open = open;
    this.#subscriptions = subscriptions;
    this.#link = link;
    this.#unseen = unseen;
  }

  /** The limit that the app has set; null for none. */
  get limit(): number | null {
    return this.#limit;
  }

  /** @throws {TypeError} */
  set limit(limit: number | null) {
    checkCapacity(limit);
    this.#limit = limit;
    this.reportSoon();
  }

  /** Whether one more connection may be open. */
  get isLeft(): boolean {
    return this.#limit === null || this.#open.active < this.#limit;
  }

  /**
   * The limit, or what is open and what the loop over the connections waits for, whichever is less: as far as the dispatcher
   * knows of the open ones. What it does not know of leaves that much less.
   */
  get present(): number | null {
    const { loopRoom } = this.#subscriptions;
    const unknown = this.#unseen();
    const limit = this.#limit === null ? null : Math.max(0, this.#limit - unknown);
    if (loopRoom === undefined) return limit;
    return Math.min(this.#open.active - unknown + loopRoom, limit ?? Number.POSITIVE_INFINITY);
  }

  /** The hello of a new channel has said this. */
  noteSent(capacity: number | null): void {
    this.#sent = capacity;
  }

  /** Sends the capacity that is present then, after a short time in which it may change again. */
  reportSoon(): void {
    if (this.present === this.#sent) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.report();
    }, DELAY_MS);
  }

  /** Sends the present capacity, when the dispatcher knows another one. */
  report(): void {
    const capacity = this.present;
    if (capacity === this.#sent) return;
    const link = this.#link();
    if (!link) return;
    this.#sent = capacity;
    link.sayCapacity(capacity);
  }
}

/** @throws {TypeError} when it is neither null nor an integer from 0 */
export function checkCapacity(capacity: number | null): void {
  if (capacity === null || (Number.isSafeInteger(capacity) && capacity >= 0)) return;
  throw new TypeError(`capacity must be an integer from 0, or null, not ${String(capacity)}`);
}
