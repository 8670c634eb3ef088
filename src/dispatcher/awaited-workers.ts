// AwaitedWorkers: those of a dispatcher that died, and whether one of them has come back with what it kept.
import { ProcessWatch } from '../fd/internal.js';

/** A worker process that lives, as the dispatcher before had known it. */
export interface AwaitedWorker {
  readonly id: number;
  readonly pid: number;
}

export class AwaitedWorkers {
  /** Those that live. One that has come back may lose its channel and come once more. */
  readonly #living = new Map<number, { readonly id: number; readonly watch: ProcessWatch }>();
  /** Of those, who has not come back yet. */
  readonly #awaited = new Set<number>();
  #decide: (() => void) | undefined;
  readonly #closing = new AbortController();

  /** Aborted when nobody is awaited any more. */
  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  /** Whether a process lives that has not come back yet. */
  isAwaited(pid: number): boolean {
    return this.#awaited.has(pid);
  }

  /** The id that a process had. */
  idOf(pid: number): number | undefined {
    return this.#living.get(pid)?.id;
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

  /** It is back. @param hasAll whether it brought what it had kept */
  note(pid: number, hasAll: boolean): void {
    if (hasAll) this.#decide?.();
    this.#settle(pid);
  }

  /** Nobody is awaited any more. */
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
