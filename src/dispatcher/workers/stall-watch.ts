// StallWatch: notices a worker that answers nothing although something is in flight to it: it is stopped, or busy.

/** Time between two looks at a worker. A timer for each connection would cost more than the connection. */
const LOOK_EVERY_MS = 250;

/**
 * After so many looks in a row without a change, a worker is stalled. A span of time would be wrong: when this process was
 * stopped itself, it has missed one look, and reads the answers that have come before the next look.
 */
const LOOKS = 4;

export interface Answering {
  readonly inFlight: number;
  /** Number of connections that were ever answered. */
  readonly settled: number;
}

export class StallWatch {
  readonly #worker: Answering;
  readonly #onStalled: () => void;
  #timer: NodeJS.Timeout | undefined;
  #looks = 0;
  #settled = 0;
  #isStalled: boolean;

  /** @param isStalled whether that was reported before. It is not reported again */
  constructor(worker: Answering, onStalled: () => void, isStalled = false) {
    this.#worker = worker;
    this.#onStalled = onStalled;
    this.#isStalled = isStalled;
  }

  get isStalled(): boolean {
    return this.#isStalled;
  }

  /** Something is in flight. Looks at the worker until nothing is. A second call does nothing. */
  start(): void {
    if (this.#timer) return;
    this.#looks = 0;
    this.#settled = this.#worker.settled;
    this.#timer = setInterval(() => {
      this.#look();
    }, LOOK_EVERY_MS).unref();
  }

  /** The worker has answered. @returns whether it was stalled */
  resume(): boolean {
    const wasStalled = this.#isStalled;
    this.#isStalled = false;
    return wasStalled;
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #look(): void {
    const { inFlight, settled } = this.#worker;
    if (inFlight === 0) {
      this.stop();
    } else if (settled !== this.#settled) {
      this.#settled = settled;
      this.#looks = 0;
    } else if (++this.#looks === LOOKS && !this.#isStalled) {
      this.#isStalled = true;
      this.#onStalled();
    }
  }
}
