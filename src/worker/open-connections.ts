// OpenConnections: how many connections of this process are open, also those that the app passed on to other processes.
import type { SocketIdentity } from '../fd/internal.js';
import { PassedOn } from './passed-on.js';

export interface OpenConnectionsEvents {
  /** A connection from a dispatcher was closed. */
  closed(): void;
  /** A connection that this worker has accepted by itself was closed. */
  directClosed(): void;
  /** The first connection of standalone servers was opened, or the last one was closed. */
  holdingChanged(): void;
  /** The last connection was closed. */
  idle(): void;
}

export class OpenConnections {
  readonly #events: OpenConnectionsEvents;
  /** Connections that are closed here, and open in other processes. */
  readonly #passedOn = new PassedOn();
  #open = 0;
  #closed = 0;
  #direct = 0;
  #standalone = 0;
  readonly #closeHandedOff = (): void => {
    this.#open--;
    this.#closed++;
    this.#events.closed();
    if (this.isIdle) this.#events.idle();
  };
  readonly #closeStandalone = (): void => {
    if (--this.#standalone > 0) return;
    this.#events.holdingChanged();
    if (this.isIdle) this.#events.idle();
  };

  constructor(events: OpenConnectionsEvents) {
    this.#events = events;
  }

  /** Open connections of the service: those from any dispatcher, and those that this worker has accepted by itself. */
  get active(): number {
    return this.#open + this.#direct;
  }

  /** Open connections that came from any dispatcher. */
  get fromDispatchers(): number {
    return this.#open;
  }

  /** Open connections that this worker has accepted by itself. */
  get direct(): number {
    return this.#direct;
  }

  /** How many connections from dispatchers were ever closed. */
  get closed(): number {
    return this.#closed;
  }

  /** Whether connections are open that standalone servers have accepted. */
  get isHolding(): boolean {
    return this.#standalone > 0;
  }

  get isIdle(): boolean {
    return this.#open === 0 && this.#direct === 0 && this.#standalone === 0;
  }

  add(count: number): void {
    this.#open += count;
  }

  /** This worker has accepted a connection by itself. */
  addDirect(): void {
    this.#direct++;
  }

  addStandalone(): void {
    if (this.#standalone++ === 0) this.#events.holdingChanged();
  }

  /**
   * A connection is closed here.
   * @param passedOn its identity, where another process may have it open: it counts as open until none has
   */
  close(passedOn: SocketIdentity | undefined): void {
    if (passedOn) this.#passedOn.watch(passedOn, this.#closeHandedOff);
    else this.#closeHandedOff();
  }

  /** The same for a connection that this worker has accepted by itself. @param counted called when it counts as closed */
  closeDirect(passedOn: SocketIdentity | undefined, counted: () => void): void {
    if (passedOn) {
      this.#passedOn.watch(passedOn, () => {
        this.#noteDirectClosed(counted);
      });
    } else {
      this.#noteDirectClosed(counted);
    }
  }

  /** The same for a connection of a standalone server. */
  closeStandalone(passedOn: SocketIdentity | undefined): void {
    if (passedOn) this.#passedOn.watch(passedOn, this.#closeStandalone);
    else this.#closeStandalone();
  }

  /** A drain waits for connections in other processes: look for their end more often. */
  hurry(): void {
    this.#passedOn.hurry();
  }

  #noteDirectClosed(counted: () => void): void {
    this.#direct--;
    counted();
    this.#events.directClosed();
    if (this.isIdle) this.#events.idle();
  }
}
