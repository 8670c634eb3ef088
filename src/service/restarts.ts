// Restarts: one restart of the workers at a time. Those that are asked for before it can begin become one.

export type TellProgress = (text: string) => void;

/** Who has asked for a restart that has not begun. */
class Batch<Result> {
  readonly done: Promise<Result>;
  readonly askers: TellProgress[] = [];
  readonly without = new Set<string>();
  isSignalled = false;
  resolve: (result: Result) => void = () => undefined;
  reject: (error: unknown) => void = () => undefined;

  constructor() {
    this.done = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }
}

export interface RestartsOptions<Result> {
  /**
   * Does one. Its progress is for everybody who has asked for it.
   * @param without addresses that any of them has given up
   */
  readonly restart: (progress: TellProgress, without: readonly string[]) => Promise<Result>;
  /** Resolves when one can begin; with false when another process does it. */
  readonly untilFree: () => Promise<boolean>;
}

export class Restarts<Result> {
  readonly #options: RestartsOptions<Result>;
  #next: Batch<Result> | undefined;
  #isRunning = false;
  #isUnderWay = false;

  constructor(options: RestartsOptions<Result>) {
    this.#options = options;
  }

  /** Whether one has begun and has not ended. */
  get isUnderWay(): boolean {
    return this.#isUnderWay;
  }

  /** Whether a signal has asked for one that has not begun. A command asks the next process again by itself. */
  get isSignalled(): boolean {
    return this.#next?.isSignalled ?? false;
  }

  /**
   * Asks for one that begins from now on, and resolves or rejects as that does. One that fails does not keep the next one
   * from being tried: what was wrong may be mended by then.
   */
  ask(
    by: 'signal' | 'command',
    progress: TellProgress = () => undefined,
    without: readonly string[] = [],
  ): Promise<Result> {
    const batch = (this.#next ??= new Batch());
    for (const address of without) batch.without.add(address);
    batch.askers.push(progress);
    batch.isSignalled ||= by === 'signal';
    if (!this.#isRunning) this.#run().catch(batch.reject);
    return batch.done;
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    try {
      while (this.#next && (await this.#options.untilFree())) {
        const batch = this.#next;
        this.#next = undefined;
        this.#isUnderWay = true;
        await this.#options
          .restart(
            (text) => {
              for (const tell of batch.askers) tell(text);
            },
            [...batch.without],
          )
          .then(batch.resolve, batch.reject);
        this.#isUnderWay = false;
      }
    } finally {
      this.#isRunning = false;
    }
  }
}
