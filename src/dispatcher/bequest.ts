// Bequest: what a dispatcher leaves to its workers should it die. Keeps its last will true, and makes another one when it is lost.
import { PassfdError, type Acceptor } from '../fd/index.js';
import { LastWill } from '../fd/internal.js';
import type { AcceptedConnection, Listener } from './listener.js';
import { PassfdWorker } from './workers/passfd-worker.js';
import type { WorkerHandle } from './workers/worker-handle.js';

/** What there is to leave, and to whom. */
export interface Estate {
  /** Whose paths a successor wants at once. */
  readonly closedFirst: readonly Acceptor[];
  readonly listeners: Iterable<Listener>;
  readonly workers: Iterable<WorkerHandle>;
}

/** Before another will is made in the place of one whose process was killed. */
const PAUSE_MS = 1000;

export class Bequest {
  readonly #estate: () => Estate;
  readonly #warned: (error: unknown) => void;
  #will: LastWill | undefined;
  #isWanted = false;

  /** @param warned gets what could not be put into the will: should this process die, that is lost; nothing else is wrong with it */
  constructor(estate: () => Estate, warned: (error: unknown) => void) {
    this.#estate = estate;
    this.#warned = warned;
  }

  /** Makes the will, with all that there is at this moment. A second call does nothing. */
  open(): void {
    this.#isWanted = true;
    if (this.#will) return;
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

  /** There is nothing to leave any more, until `open`. */
  revoke(): void {
    this.#isWanted = false;
    this.#will?.cancel();
    this.#will = undefined;
  }

  closeFirst(acceptor: Acceptor): void {
    this.#tell((will) => {
      will.closeFirst(acceptor);
    });
  }

  addListener({ id, acceptor }: Listener): void {
    this.#tell((will) => {
      will.addListener(id, acceptor);
    });
  }

  /** Nothing of it waits any more, and whoever listens there again has another number. */
  removeListener({ id }: Listener): void {
    this.#tell((will) => {
      will.removeListener(id);
    });
  }

  /** What it gets, should this process die, is what it would get now. */
  setWorker(worker: WorkerHandle): void {
    if (!(worker instanceof PassfdWorker)) return;
    const { socket, knowsAgain } = worker;
    const isReady = worker.state === 'ready';
    this.#tell((will) => {
      will.setChannel(socket, { isReady, knowsAgain, listeners: isReady ? worker.subscriptions.ids : [] });
    });
  }

  /** They were sent to a worker, and have come back. */
  takeBack(connections: readonly AcceptedConnection[]): void {
    this.#will?.takeBack(connections.map(({ descriptor }) => descriptor));
  }

  /** Whoever kills it, for one for want of memory, may do so again: not at once, and not without a word. */
  #onLost(): void {
    this.#will?.cancel();
    this.#will = undefined;
    this.#warned(
      new PassfdError(
        'ERR_LAST_WILL',
        'The process passfd-will was killed. Another one is started; should this process die before, connections that ' +
          'no worker has yet are lost',
      ),
    );
    setTimeout(() => {
      if (this.#isWanted) this.open();
    }, PAUSE_MS).unref();
  }

  #tell(tell: (will: LastWill) => void): void {
    try {
      if (this.#will) tell(this.#will);
    } catch (error) {
      this.#warned(error);
    }
  }
}
