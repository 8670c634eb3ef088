// Lifetime: whether a dispatcher runs, is frozen, or has ended; and what is under way, so that its end leaves nothing open.
import { PassfdError } from '../fd/index.js';

export class Lifetime {
  readonly #failed: (error: unknown) => void;
  readonly #runs = new Set<Promise<void>>();
  #changing: Promise<unknown> = Promise.resolve();
  #isFrozen = false;
  #hasEnded = false;
  #ended: Promise<void> | undefined;

  /** @param failed gets the errors of tracked work */
  constructor(failed: (error: unknown) => void) {
    this.#failed = failed;
  }

  /** Whether another process may be about to take over: nothing new is begun then. */
  get isFrozen(): boolean {
    return this.#isFrozen;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  get isRunning(): boolean {
    return !this.#isFrozen && !this.#hasEnded;
  }

  freeze(): void {
    this.#isFrozen = true;
  }

  thaw(): void {
    this.#isFrozen = false;
  }

  /** Runs `end` in the first call only. @returns the promise of the first call */
  async end(end: () => Promise<void>): Promise<void> {
    if (!this.#hasEnded) {
      this.#hasEnded = true;
      this.#ended = end();
    }
    await this.#ended;
  }

  track(run: Promise<void>): void {
    this.#runs.add(run);
    run
      .catch(this.#failed)
      .finally(() => this.#runs.delete(run))
      .catch(ignore);
  }

  /** Resolves when all that was tracked until now has settled. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#runs);
  }

  /** Work after which other sockets are open than before: a snapshot waits for it. */
  addChange(work: Promise<unknown>): void {
    this.#changing = Promise.allSettled([this.#changing, work]);
  }

  /** Resolves when no such work is under way. */
  async changed(): Promise<void> {
    await this.#changing;
  }

  /**
   * Opens something. If the dispatcher ends meanwhile, it is closed again, and `settled` waits for that.
   * @param keep runs in the same turn in which the dispatcher is known to be open
   * @throws {PassfdError} `ERR_CLOSED`
   */
  open<T>(
    open: () => Promise<T>,
    close: (opened: T) => Promise<void>,
    keep?: (opened: T) => void,
  ): Promise<T> {
    const run = async (): Promise<T> => {
      this.#checkOpen();
      const opened = await open();
      try {
        this.#checkOpen();
      } catch (error) {
        await close(opened);
        throw error;
      }
      keep?.(opened);
      return opened;
    };
    const opening = run();
    // The caller gets the error.
    this.track(opening.then(ignore, ignore));
    return opening;
  }

  #checkOpen(): void {
    if (this.#hasEnded) throw new PassfdError('ERR_CLOSED', 'The dispatcher is closed');
  }
}

function ignore(): void {
  // Reported elsewhere.
}
