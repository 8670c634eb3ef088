// Bequest: what a dispatcher leaves to its workers when it dies. Keeps its last will up to date, and replaces a lost will.
import { PassfdError, type Acceptor } from '../fd/index.js';
import { LastWill } from '../fd/internal.js';
import type { AcceptedConnection, Listener } from './listener.js';
import { PassfdWorker } from './workers/passfd-worker.js';
import type { WorkerHandle } from './workers/worker-handle.js';

/** What the dispatcher leaves, and to which workers. */
export interface Estate {
  /** Their paths are needed first by the next dispatcher. */
  readonly closedFirst: readonly Acceptor[];
  readonly listeners: Iterable<Listener>;
  readonly workers: Iterable<WorkerHandle>;
}

/** Pause before the will is made again after its process was killed. */
const PAUSE_MS = 1000;

export class Bequest {
  readonly #isEnabled: boolean;
  readonly #estate: () => Estate;
  readonly #warned: (error: unknown) => void;
  #will: LastWill | undefined;
  #isWanted = false;
  /** Whether there is nothing to leave yet. */
  #isDeferred: boolean;

  /**
   * @param isEnabled false: `open` does nothing
   * @param isDeferred whether the will is made only when a connection is accepted: workers accept by themselves
   * @param warned gets what could not be put into the will. It is lost if this process dies; nothing else is affected
   */
  constructor(
    { isEnabled, isDeferred }: { readonly isEnabled: boolean; readonly isDeferred: boolean },
    estate: () => Estate,
    warned: (error: unknown) => void,
  ) {
    this.#isEnabled = isEnabled;
    this.#isDeferred = isDeferred;
    this.#estate = estate;
    this.#warned = warned;
  }

  /** Makes the will, with everything that is there at this moment. A second call does nothing. */
  open(): void {
    if (!this.#isEnabled) return;
    this.#isWanted = true;
    if (this.#will || this.#isDeferred) return;
    try {
      this.#will = LastWill.open(() => {
        this.#onLost();
      });
    } catch (error) {
      this.#warned(error);
    }
    const { closedFirst, listeners, workers } = this.#estate();
    for (const acceptor of closedFirst) this.closeFirst(acceptor);
    for (const listener of listeners) this.addListener(listener);
    for (const worker of workers) {
      this.#will?.handOut(worker.handedOut);
      this.setWorker(worker);
    }
  }

  /** A connection has no owner but this process. */
  noteAccepted(): void {
    if (!this.#isDeferred) return;
    this.#isDeferred = false;
    if (this.#isWanted) this.open();
  }

  /** The will does nothing, until `open` makes another. */
  cancel(): void {
    this.#isWanted = false;
    this.#will?.cancel();
    this.#will = undefined;
  }

  closeFirst(acceptor: Acceptor): void {
    this.#update((will) => {
      will.closeFirst(acceptor);
    });
  }

  addListener({ id, acceptor }: Listener): void {
    this.#update((will) => {
      will.addListener(id, acceptor);
    });
  }

  /** None of its connections waits. Its number may be given to another listener. */
  removeListener({ id }: Listener): void {
    this.#update((will) => {
      will.removeListener(id);
    });
  }

  /** The worker gets what it would get now if this process died. */
  setWorker(worker: WorkerHandle): void {
    if (!(worker instanceof PassfdWorker)) return;
    const { socket, knowsAgain } = worker;
    const isReady = worker.state === 'ready';
    this.#update((will) => {
      will.setChannel(socket, { isReady, knowsAgain, listeners: isReady ? worker.subscriptions.ids : [] });
    });
  }

  /** These had been sent to a worker, and have come back. */
  takeBack(connections: readonly AcceptedConnection[]): void {
    this.#will?.takeBack(connections.map(({ descriptor }) => descriptor));
  }

  /** Makes the will again, after a pause: what killed its process, such as a lack of memory, may kill the next one too. */
  #onLost(): void {
    this.#will?.cancel();
    this.#will = undefined;
    this.#warned(
      new PassfdError(
        'ERR_LAST_WILL',
        'The helper process passfd-will was killed. It is started again. If this process dies before that, connections ' +
          'that no worker has adopted are lost',
      ),
    );
    setTimeout(() => {
      if (this.#isWanted) this.open();
    }, PAUSE_MS).unref();
  }

  #update(update: (will: LastWill) => void): void {
    try {
      if (this.#will) update(this.#will);
    } catch (error) {
      this.#warned(error);
    }
  }
}
