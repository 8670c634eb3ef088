// Patience: how long the clients of one address wait for room before they are refused.

/**
 * Counts from the first client that found no room. A queue that was not empty for this long does not move, and a new client
 * would only wait after the others.
 */
export const PATIENCE_MS = 1_000;

export class Patience {
  readonly #onOver: () => void;
  #timer: NodeJS.Timeout | undefined;
  #isNeeded = false;
  #isOver = false;

  constructor(onOver: () => void) {
    this.#onOver = onOver;
  }

  /** Whether clients have waited long enough to be refused. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Clients have begun to wait. */
  begin(): void {
    this.#isNeeded = true;
    this.restart();
  }

  /** No worker serves them, or another process takes over. That time is no overload and does not count. */
  reset(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#isOver = false;
  }

  /** A worker serves them. Does nothing while the time runs already. */
  restart(): void {
    if (!this.#isNeeded || this.#isOver) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#isOver = true;
      this.#onOver();
    }, PATIENCE_MS);
  }

  /** The last client has stopped waiting. */
  end(): void {
    this.#isNeeded = false;
    this.reset();
  }
}
