// AwaitedWorkers: the workers of a dispatcher that died, and whether one of them has returned with the listening sockets.
import { ProcessWatch } from '../fd/internal.js';

/** A worker process that is alive, under the id that the dead dispatcher had given it. */
export interface AwaitedWorker {
  readonly id: number;
  readonly pid: number;
}

export class AwaitedWorkers {
  /** Alive. A worker that has returned may lose its channel and return once more. */
  readonly #living = new Map<number, { readonly id: number; readonly watch: ProcessWatch }>();
  /** Alive, and not returned yet. */
  readonly #awaited = new Set<number>();
  #decide: (() => void) | undefined;
  readonly #closing = new AbortController();

  /** Aborted by `close`. */
  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  /** Whether the process is alive and has not returned yet. */
  isAwaited(pid: number): boolean {
    return this.#awaited.has(pid);
  }

  /** The id that the dead dispatcher had given to a process. */
  idOf(pid: number): number | undefined {
    return this.#living.get(pid)?.id;
  }

  /**
   * Resolves when one of them has returned with all listening sockets (each worker has all), when none can return any more,
   * or when the time is over. Workers that return later are still known.
   */
  async any(workers: readonly AwaitedWorker[], timeoutMs: number): Promise<void> {
    if (workers.length === 0) return;
    const decided = new Promise<void>((resolve) => {
      this.#decide = resolve;
    });
    for (const { id, pid } of workers) {
      const watch = ProcessWatch.start(pid, () => {
        this.#living.delete(pid);
        this.#settle(pid);
      });
      this.#living.set(pid, { id, watch });
      this.#awaited.add(pid);
    }
    const timer = setTimeout(() => this.#decide?.(), timeoutMs);
    await decided;
    clearTimeout(timer);
  }

  /** A worker has returned. @param hasAll whether it brought its listening sockets */
  note(pid: number, hasAll: boolean): void {
    if (hasAll) this.#decide?.();
    this.#settle(pid);
  }

  /** Ends the waiting. */
  close(): void {
    this.#closing.abort();
    for (const { watch } of this.#living.values()) watch.close();
    this.#living.clear();
    this.#awaited.clear();
    this.#decide?.();
  }

  #settle(pid: number): void {
    if (this.#awaited.delete(pid) && this.#awaited.size === 0) this.#decide?.();
  }
}
