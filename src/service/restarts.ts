// Restarts: runs one restart of the workers at a time, and merges requests that wait into one restart.

export type ReportProgress = (text: string) => void;

/** The requests for a restart that has not begun. */
class Batch<Result> {
  readonly done: Promise<Result>;
  readonly reports: ReportProgress[] = [];
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
   * Runs one restart. Every request gets its progress.
   * @param without addresses that any request gives up
   */
  readonly restart: (progress: ReportProgress, without: readonly string[]) => Promise<Result>;
  /** Resolves when a restart can begin; with false when the next generation does it. */
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

  /** Whether a restart runs. */
  get isUnderWay(): boolean {
    return this.#isUnderWay;
  }

  /** Whether a signal requested a restart that has not begun. A command repeats its request to the next generation itself. */
  get isSignalled(): boolean {
    return this.#next?.isSignalled ?? false;
  }

  /**
   * Requests a restart that begins after this call. Resolves or rejects as the restart does. A restart that waits is tried
   * even if the one before it failed: the cause may be fixed by then.
   */
  ask(
    by: 'signal' | 'command',
    progress: ReportProgress = () => undefined,
    without: readonly string[] = [],
  ): Promise<Result> {
    const batch = (this.#next ??= new Batch());
    for (const address of without) batch.without.add(address);
    batch.reports.push(progress);
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
              for (const report of batch.reports) report(text);
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
