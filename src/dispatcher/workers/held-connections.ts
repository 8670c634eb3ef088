// HeldConnections: which connections a worker has open, asked of the kernel, since the worker does not say it.
import { setImmediate as startImmediate } from 'node:timers';

import type { Descriptor } from '../../fd/index.js';
import type { SocketDiagnostics, SocketIdentity } from '../../fd/internal.js';

/** Connections of one worker that are asked about in one turn of the event loop. */
const ASKED_AT_ONCE = 64;

/**
 * Time for questions in one turn of the event loop, for all workers together. When it is over, each worker asks one more
 * question at most: where a machine has many Unix sockets, the kernel finds one slowly.
 */
const ASKING_MS = 1;

/** Spent in this turn of the event loop. */
let askedMs = 0;

export class HeldConnections {
  readonly #diagnostics: SocketDiagnostics | undefined;
  /** The connection that was not asked about for the longest time comes first. */
  readonly #held: Set<SocketIdentity>;
  #hasUnknown: boolean;
  #hasAsked = false;

  /**
   * @param diagnostics undefined where the kernel cannot be asked
   * @param held connections that the worker held under another dispatcher
   * @param hasUnknown see `hasUnknown`
   */
  constructor(
    diagnostics: SocketDiagnostics | undefined,
    held: Iterable<SocketIdentity> = [],
    hasUnknown = false,
  ) {
    this.#diagnostics = diagnostics;
    this.#held = new Set(held);
    this.#hasUnknown = hasUnknown;
  }

  /** Connections that the worker is known to hold, as far as was asked. */
  get size(): number {
    return this.#held.size;
  }

  /** Whether the worker has received connections that the kernel cannot be asked about. */
  get hasUnknown(): boolean {
    return this.#hasUnknown;
  }

  get identities(): readonly SocketIdentity[] {
    return [...this.#held];
  }

  /** The worker has received a connection. The descriptor is lent. */
  add(descriptor: Descriptor): void {
    const identity = this.#diagnostics?.identify(descriptor);
    if (identity) this.#held.add(identity);
    else this.#hasUnknown = true;
  }

  /**
   * Asks about all of them.
   * @returns how many connections the worker holds; null where the kernel cannot be asked about each
   */
  count(): number | null {
    this.#review(this.#held.size);
    return this.#diagnostics && !this.#hasUnknown ? this.#held.size : null;
  }

  /** Asks about some of them, once in a turn of the event loop: each question is a system call. */
  review(): void {
    if (this.#held.size === 0 || this.#hasAsked) return;
    this.#hasAsked = true;
    startImmediate(() => {
      this.#hasAsked = false;
    });
    if (askedMs === 0) startImmediate(() => (askedMs = 0));
    const start = performance.now();
    this.#review(ASKED_AT_ONCE, start + ASKING_MS - askedMs);
    askedMs += performance.now() - start;
  }

  /** Forgets those that no process holds any more. Asks about one at least. */
  #review(count: number, until = Number.POSITIVE_INFINITY): void {
    let left = Math.min(count, this.#held.size);
    for (const identity of this.#held) {
      if (left-- === 0) break;
      this.#held.delete(identity);
      // When the kernel gives no answer, it is asked again later.
      if (this.#diagnostics?.isHeld(identity) !== false) this.#held.add(identity);
      if (performance.now() >= until) break;
    }
  }
}
