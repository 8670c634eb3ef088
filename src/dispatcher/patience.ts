// Patience: how long the clients of one address wait for room, where they are refused in the end.

/**
 * A client waits so long at most, from the first one on that found no room: a queue that has not been empty for as long
 * stands, and whoever joins it would only wait behind the others.
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

  /** Clients wait. */
  begin(): void {
    this.#isNeeded = true;
    this.goOn();
  }

  /** Nobody serves them at all, or another process takes over: that is no overload, and does not count. */
  suspend(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#isOver = false;
  }

  /** Somebody serves them again, and may have been there all the time. */
  goOn(): void {
    if (!this.#isNeeded || this.#isOver) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#isOver = true;
      this.#onOver();
    }, PATIENCE_MS);
  }

  /** Nobody waits any more. */
  end(): void {
    this.#isNeeded = false;
    this.suspend();
  }
}
