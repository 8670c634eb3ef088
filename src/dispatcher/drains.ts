// Drains: the callers that wait until a draining worker has nothing open.
import type { WorkerHandle } from './workers/worker-handle.js';

export class Drains {
  readonly #waiting = new Map<WorkerHandle, Set<() => void>>();

  /** Drains a worker. Resolves when it has nothing open or has left. @throws the signal's reason; the drain goes on */
  drain(worker: WorkerHandle, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      worker.drain();
      const waiting = this.#waiting.get(worker) ?? new Set();
      this.#waiting.set(worker, waiting);
      const abort = (): void => {
        waiting.delete(end);
        reject(signal?.reason);
      };
      const end = (): void => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      waiting.add(end);
      signal?.addEventListener('abort', abort, { once: true });
      this.review(worker);
    });
  }

  /** The worker may have closed its last connection. */
  review(worker: WorkerHandle): void {
    if (worker.state !== 'draining' || worker.inFlight > 0 || worker.active !== 0) return;
    if (!worker.isHolding && worker.own?.hasStopped !== false) this.end(worker);
  }

  /** The worker is drained, or has left. */
  end(worker: WorkerHandle): void {
    for (const end of this.#waiting.get(worker) ?? []) end();
    this.#waiting.delete(worker);
  }
}
