// ServedAddresses: which addresses the workers serve, which of them the next process is to serve, and when one is closed.
import type { Address } from '../fd/index.js';
import type { Lifetime } from './lifetime.js';
import type { FormerListener, Listener } from './listener.js';
import type { Listeners } from './listeners.js';
import { Vacancies } from './vacancies.js';
import { PassfdWorker } from './workers/passfd-worker.js';
import type { WorkerHandle, WorkerView } from './workers/worker-handle.js';

export interface ServedAddressesHost {
  readonly workers: readonly WorkerHandle[];
  /** Whether a child has been started and has not said hello yet. */
  hasSilentChildren(): boolean;
  /** An address is about to be closed, since no worker serves it. @param isLate whether a worker was expected in vain */
  released(address: Address, isLate: boolean): void;
  /** Connections of this listener that have no worker are to be closed. */
  refuseAll(listener: Listener): void;
}

export class ServedAddresses {
  readonly #listeners: Listeners;
  readonly #lifetime: Lifetime;
  readonly #host: ServedAddressesHost;
  readonly #vacancies: Vacancies;
  #expectedChildren = 0;

  /** @param timeoutMs how long an address without a worker stays open for a worker that may come */
  constructor(listeners: Listeners, lifetime: Lifetime, timeoutMs: number, host: ServedAddressesHost) {
    this.#listeners = listeners;
    this.#lifetime = lifetime;
    this.#host = host;
    this.#vacancies = new Vacancies(timeoutMs, {
      staff: () => ({
        isAnyReady: this.#isAny(({ state }) => state === 'ready'),
        isAnyStarting:
          this.#expectedChildren > 0 ||
          host.hasSilentChildren() ||
          this.#isAny(({ state }) => state === 'starting'),
      }),
      isOpen: (listener) => listeners.has(listener),
      isServed: (listener) => this.#isAny((worker) => worker.isServing(listener)),
      isWanted: (listener) =>
        this.#isAny((worker) => worker.state !== 'draining' && worker.subscriptions.includes(listener)),
      close: (listener, isLate) => {
        host.released(listener.address, isLate);
        lifetime.track(this.#end(listener));
      },
    });
  }

  /** Addresses without a worker stay open while children are expected. */
  expectChildren(count: number): void {
    if (count === this.#expectedChildren) return;
    this.#expectedChildren = count;
    this.#vacancies.review();
  }

  /** Workers may have stopped serving these. @param isLoss whether they had not been told to stop */
  note(listeners: Iterable<Listener>, isLoss: boolean): void {
    this.#vacancies.note(listeners, isLoss);
  }

  /** A worker may serve an address that had none, or an expected worker will not come. */
  review(): void {
    this.#vacancies.review();
  }

  /** The listener is being closed. */
  delete(listener: Listener): void {
    this.#vacancies.delete(listener);
  }

  /** Nothing is closed until `thaw`: another process may go on with the addresses. */
  freeze(): void {
    this.#vacancies.freeze();
  }

  thaw(): void {
    this.#vacancies.thaw();
    // The other generation may have lost a worker at an unknown time.
    this.#vacancies.note(this.#listeners, true);
  }

  /**
   * A worker has closed its last server at an address. The address is closed when no other worker has asked for it and none
   * is expected to. A worker that dies has not closed anything.
   * @returns whether the address is still open
   */
  async unlisten(worker: PassfdWorker, listener: Listener): Promise<boolean> {
    if (!this.#listeners.has(listener)) return false;
    const isWanted =
      listener.isOwn ||
      // The next worker asks for the same socket.
      (listener.isInherited && worker.state === 'draining') ||
      this.#listeners.wasOffered(listener) ||
      // A worker that only checks whether the port is free does not take it from the worker that is expected there.
      this.#vacancies.has(listener) ||
      this.#isAny((other) => other.subscriptions.includes(listener));
    if (isWanted) return true;
    // A child that is starting will most likely serve it, as this worker did, but perhaps not as its first address.
    const hasServed = worker.subscriptions.givenBack.some(({ key }) => key === listener.key);
    if (this.#expectedChildren > 0 && hasServed) this.#vacancies.note([listener], true);
    else await this.#end(listener);
    return this.#listeners.has(listener);
  }

  /**
   * Opens again what an ended worker had served and closed, so that clients wait for the worker that replaces it. Skips an
   * address that is in use by now.
   */
  reopen(view: WorkerView): void {
    if (!(view instanceof PassfdWorker) || !this.#lifetime.isRunning) return;
    for (const former of view.subscriptions.givenBack) {
      if (!isNamedAfter(former.address, view.pid)) this.#lifetime.track(this.#reopen(view, former));
    }
  }

  async #reopen(worker: PassfdWorker, former: FormerListener): Promise<void> {
    const reopening = this.#listeners.reopen(former);
    this.#lifetime.addChange(reopening);
    const listener = await reopening;
    if (!listener) return;
    worker.subscriptions.noteReopened(former, listener);
    // As if the worker had died there: its next process may listen at other addresses first.
    this.#vacancies.note([listener], true);
  }

  /** See `Dispatcher.missing`. */
  missing(other: WorkerView, worker: WorkerView, last?: WorkerView): Address[] {
    if (!(worker instanceof PassfdWorker)) return [];
    const open = worker.subscriptions.serving.filter((listener) => this.#listeners.has(listener));
    const givenBack = worker.subscriptions.givenBack.filter(
      (former) => worker.subscriptions.hasClosedAll || this.#isVacant(former),
    );
    const kept = last instanceof PassfdWorker ? this.#keptOf(last) : [];
    const needed = new Map([...open, ...givenBack, ...kept].map((former) => [former.key, former]));
    return [...needed.values()]
      .filter((former) => !this.#isPrivate(former, worker))
      .filter((former) => {
        const listener = this.#listeners.at(former);
        return !(listener && other instanceof PassfdWorker && other.isServing(listener));
      })
      .map(({ address }) => address);
  }

  /** What a worker has left that is kept open for the next process. */
  #keptOf(worker: PassfdWorker): FormerListener[] {
    return [...worker.subscriptions.serving, ...worker.subscriptions.givenBack].filter(
      (former) => this.#isVacant(former) && !this.#isPrivate(former, worker),
    );
  }

  /** Whether it is open, and waits for a worker that serves it. */
  #isVacant(former: FormerListener): boolean {
    const listener = this.#listeners.at(former);
    return listener !== undefined && this.#vacancies.has(listener);
  }

  /** Whether no other process can be meant to serve it: the path has the worker's process id in it. */
  #isPrivate(former: FormerListener, worker: PassfdWorker): boolean {
    if (!isNamedAfter(former.address, worker.pid)) return false;
    const listener = this.#listeners.at(former);
    if (!listener) return true;
    return !(
      listener.isOwn || this.#isAny((other) => other !== worker && other.subscriptions.includes(listener))
    );
  }

  #isAny(isSo: (worker: PassfdWorker) => boolean): boolean {
    return this.#host.workers.some((worker) => worker instanceof PassfdWorker && isSo(worker));
  }

  async #end(listener: Listener): Promise<void> {
    this.#host.refuseAll(listener);
    await this.#listeners.end(listener);
  }
}

/** Whether the number of a process is part of the path: `/tmp/app.123.sock`. */
function isNamedAfter(address: Address, pid: number): boolean {
  return 'path' in address && address.path.split(/\D+/).includes(String(pid));
}
