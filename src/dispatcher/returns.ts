// Returns: the workers of a dispatcher that died, until each has come back with what it kept, or cannot any more.
import { ProcessWatch } from '../fd/index.js';

/** A worker process that lives, as the dispatcher before had known it. */
export interface AwaitedWorker {
  readonly id: number;
  readonly pid: number;
}

export class Returns {
  readonly #awaited = new Map<number, Awaited>();

  /** The id that a process had, while it is awaited. */
  idOf(pid: number): number | undefined {
    return this.#awaited.get(pid)?.id;
  }

  /** Resolves when all of them are back, or have ended, or when the time is over. */
  async all(workers: readonly AwaitedWorker[], timeoutMs: number): Promise<void> {
    const timer = setTimeout(() => {
      for (const { pid } of workers) this.settle(pid);
    }, timeoutMs);
    await Promise.all(workers.map((worker) => this.#one(worker)));
    clearTimeout(timer);
  }

  /** It is back, or does not come any more. */
  settle(pid: number): void {
    const awaited = this.#awaited.get(pid);
    this.#awaited.delete(pid);
    awaited?.watch.close();
    awaited?.settle();
  }

  #one({ id, pid }: AwaitedWorker): Promise<void> {
    return new Promise((settle) => {
      const watch = ProcessWatch.start(pid, () => {
        this.settle(pid);
      });
      this.#awaited.set(pid, { id, watch, settle });
    });
  }
}

interface Awaited {
  readonly id: number;
  readonly watch: ProcessWatch;
  settle(): void;
}
