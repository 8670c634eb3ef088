// RollingRestart: replaces the process of each slot, with a limit on extra processes.
import { formatAddress, PassfdError, type Address } from '../fd/index.js';
import { describeExit } from './exit.js';
import { describeLaunched } from './launched.js';
import type { ReplacementOutcome, Slot } from './slot.js';

export interface RollingRestartOptions {
  /** Extra processes that may run at a time: new ones that are not ready, and old ones that have not ended. */
  readonly maxExtra: number;
  readonly readyTimeoutMs: number;
  /** Addresses of old processes that new ones need not serve: see `required`. */
  readonly without: readonly string[];
}

/** How many slots are done. */
export interface Progress {
  readonly done: number;
  readonly of: number;
}

export class RollingRestart {
  /** Resolves with the number of processes that were replaced. A new process that finished at once does not count. */
  readonly ended: Promise<number>;
  readonly count: number;
  readonly #options: RollingRestartOptions;
  readonly #extra: () => number;
  readonly #onReplaced: (slot: Slot, outcome: ReplacementOutcome, progress: Progress) => void;
  readonly #untouched: Set<Slot>;
  readonly #underWay = new Set<Slot>();
  #isOver = false;
  #replaced = 0;
  #resolve: (replaced: number) => void = () => undefined;
  #reject: (error: PassfdError) => void = () => undefined;

  /**
   * @param extra the number of extra processes in all slots
   * @param onReplaced called for each replacement that succeeded. When one fails, `ended` is rejected
   */
  constructor(
    slots: readonly Slot[],
    options: RollingRestartOptions,
    extra: () => number,
    onReplaced: (slot: Slot, outcome: ReplacementOutcome, progress: Progress) => void,
  ) {
    this.#untouched = new Set(slots);
    this.count = this.#untouched.size;
    this.#options = options;
    this.#extra = extra;
    this.#onReplaced = onReplaced;
    this.ended = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** Begins as many replacements as may run now. Called at first, and after each change of a slot. */
  advance(): void {
    for (const slot of this.#untouched) {
      if (this.#isOver) return;
      if (slot.canBeReplaced && (slot.isEmpty || this.#extra() < this.#options.maxExtra)) {
        this.#begin(slot);
      }
    }
    if (this.#isOver || this.#untouched.size > 0 || this.#underWay.size > 0) return;
    this.#isOver = true;
    this.#resolve(this.#replaced);
  }

  /** Stops replacing. New processes that have no place yet are ended. */
  fail(error: PassfdError): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const slot of this.#underWay) slot.abandonReplacement();
    this.#reject(error);
  }

  get #progress(): Progress {
    return { done: this.count - this.#untouched.size - this.#underWay.size, of: this.count };
  }

  #begin(slot: Slot): void {
    this.#untouched.delete(slot);
    this.#underWay.add(slot);
    slot.replace(this.#options.without, (outcome) => {
      this.#onOutcome(slot, outcome);
    });
  }

  #onOutcome(slot: Slot, outcome: ReplacementOutcome): void {
    if (this.#isOver) return;
    if (outcome.is === 'failed') {
      this.fail(this.#failure(slot, outcome));
      return;
    }
    this.#underWay.delete(slot);
    if (outcome.is === 'replaced') this.#replaced++;
    this.#onReplaced(slot, outcome, this.#progress);
  }

  #failure(
    { id }: Slot,
    { fresh, exit, lastWords, lacking, launched }: Extract<ReplacementOutcome, { is: 'failed' }>,
  ): PassfdError {
    const { done, of } = this.#progress;
    const who =
      fresh.pid === undefined ? `the new worker ${id}` : `the new worker ${id} (process ${fresh.pid})`;
    const what = exit ? describeExit(exit) : this.#whyNotReady(lacking);
    return new PassfdError(
      'ERR_WORKER_FAILED',
      `Restart failed after ${done} of ${of} workers; the others were left as they are: ${who} ${what}` +
        (lastWords === undefined ? '' : `; its last words: ${lastWords}`) +
        describeLaunched(launched),
      exit?.is === 'not-started' ? { cause: exit.error } : {},
    );
  }

  #whyNotReady(lacking: readonly Address[]): string {
    const { readyTimeoutMs } = this.#options;
    if (lacking.length === 0) return `was not ready within ${readyTimeoutMs} ms, and was killed`;
    const addresses = lacking.map(formatAddress);
    const options = addresses.map((address) => `--without ${address}`);
    return (
      `did not listen at ${addresses.join(', ')} within ${readyTimeoutMs} ms, as the old one does, and was ended; ` +
      `to give that address up, restart with ${options.join(' ')}`
    );
  }
}
