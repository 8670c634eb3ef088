// Returns: the workers of a dispatcher that died, until each has come back with what it kept, or cannot any more.
import { ProcessWatch } from '../fd/index.js';

/** A worker process that lives, as the dispatcher before had known it. */
export interface AwaitedWorker {
  readonly id: number;
  readonly pid: number;
}

export class Returns {
  readonly #awaited = new Map<number, { readonly id: number; readonly watch: ProcessWatch }>();
  #decide: (() => void) | undefined;

  /** The id that a process had, while it is awaited. */
  idOf(pid: number): number | undefined {
    return this.#awaited.get(pid)?.id;
  }

  /**
   * Resolves when one of them is back that had everything, since each of them has; or when none can come any more, or the
   * time is over. Who comes later is still known.
   */
  async any(workers: readonly AwaitedWorker[], timeoutMs: number): Promise<void> {
    if (workers.length === 0) return;
    const decided = new Promise<void>((resolve) => {
      this.#decide = resolve;
    });
    for (const { id, pid } of workers) {
      const watch = ProcessWatch.start(pid, () => {
        this.#end(pid);
      });
      this.#awaited.set(pid, { id, watch });
    }
    const timer = setTimeout(() => this.#decide?.(), timeoutMs);
    await decided;
    clearTimeout(timer);
  }

  /** It is back. @param hasAll whether it brought what it had kept */
  note(pid: number, hasAll: boolean): void {
    if (hasAll) this.#decide?.();
    this.#end(pid);
  }

  /** Nobody is awaited any more. */
  close(): void {
    for (const pid of [...this.#awaited.keys()]) this.#end(pid);
    this.#decide?.();
  }

  #end(pid: number): void {
    const awaited = this.#awaited.get(pid);
    if (!awaited) return;
    awaited.watch.close();
    this.#awaited.delete(pid);
    if (this.#awaited.size === 0) this.#decide?.();
  }
}
