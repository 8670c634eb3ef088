// StallWatch: notices that a worker answers nothing though something is in flight to it, as one that is stopped or busy.

/** Between two looks at a worker; a timer for each connection would cost more than all else that is done for it. */
const LOOK_EVERY_MS = 250;

/**
 * Looks in a row at which nothing has changed, until a worker counts as stalled. Not a time: when this process was stopped
 * itself, one look is all that it has missed, and behind it the answers are read that have come meanwhile.
 */
const LOOKS = 4;

/** What is looked at. */
export interface Answering {
  readonly inFlight: number;
  /** How many connections were ever answered. */
  readonly settled: number;
}

export class StallWatch {
  readonly #worker: Answering;
  readonly #onStalled: () => void;
  #timer: NodeJS.Timeout | undefined;
  #looks = 0;
  #settled = 0;
  #isStalled: boolean;

  /** @param isStalled whether it was noticed before, and told: then it is not told again */
  constructor(worker: Answering, onStalled: () => void, isStalled = false) {
    this.#worker = worker;
    this.#onStalled = onStalled;
    this.#isStalled = isStalled;
  }

  get isStalled(): boolean {
    return this.#isStalled;
  }

  /** Something is in flight: looks from now on until nothing is. A second call does nothing. */
  start(): void {
    if (this.#timer) return;
    this.#looks = 0;
    this.#settled = this.#worker.settled;
    this.#timer = setInterval(() => {
      this.#look();
    }, LOOK_EVERY_MS).unref();
  }

  /** It has answered. @returns whether it was stalled */
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
