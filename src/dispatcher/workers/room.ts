// Room: how many more connections a worker takes, by its window, its capacity and what it has open.
import { PassfdError } from '../../fd/index.js';
import type { FromWorker } from '../../handoff/index.js';
import type { PassfdWorkerState } from '../succession/worker-state.js';
import type { OwnAccepts } from './own-accepts.js';

type RoomState = Pick<PassfdWorkerState, 'window' | 'capacity' | 'carried' | 'adopted' | 'closed'>;

type Message<Type extends FromWorker['type']> = Extract<FromWorker, { type: Type }>;

export class Room {
  /** Connections that may be in flight. */
  #window: number;
  /** Connections that may be open and in flight together; null for no limit. */
  #capacity: number | null;
  /** Connections that the worker had open when it joined, from a dispatcher that had died. */
  readonly #carried: number;
  /** Connections that the worker has adopted since it joined. */
  #adopted: number;
  /** Connections that the worker has closed since it joined, the carried ones among them. */
  #closed: number;
  /** A window for a worker that is short of descriptors. It begins at half of what the worker could not take, and grows. */
  #starvedWindow = Number.POSITIVE_INFINITY;

  constructor({ window, capacity, carried, adopted, closed }: RoomState) {
    this.#window = window;
    this.#capacity = capacity;
    this.#carried = carried;
    this.#adopted = adopted;
    this.#closed = closed;
  }

  state(): RoomState {
    return {
      window: this.#window,
      capacity: this.#capacity,
      carried: this.#carried,
      adopted: this.#adopted,
      closed: this.#closed,
    };
  }

  get adopted(): number {
    return this.#adopted;
  }

  get closed(): number {
    return this.#closed;
  }

  get active(): number {
    return this.#carried + this.#adopted - this.#closed;
  }

  get window(): number {
    return Math.min(this.#window, this.#starvedWindow);
  }

  get capacity(): number | null {
    return this.#capacity;
  }

  /** The worker wants another window or capacity. */
  change(message: Message<'window'> | Message<'capacity'>): void {
    if (message.type === 'window') this.#window = message.window;
    else this.#capacity = message.capacity;
  }

  /** @param own what the worker accepts by itself. To add that up takes time, so only a capacity asks for it */
  isFull(inFlight: number, own: Pick<OwnAccepts, 'open'>): boolean {
    return this.#capacity !== null && this.active + own.open + inFlight >= this.#capacity;
  }

  /**
   * @param slowCloses descriptors that count as in flight in the window
   * @param own as for `isFull`
   * @returns how many connections may be sent now
   */
  left(inFlight: number, slowCloses: number, own: Pick<OwnAccepts, 'open'>): number {
    const inWindow = this.window - inFlight - slowCloses;
    if (this.#capacity === null) return Math.max(0, inWindow);
    return Math.max(0, Math.min(inWindow, this.#capacity - this.active - own.open - inFlight));
  }

  noteAdopted(count: number): void {
    this.#adopted += count;
    this.#starvedWindow *= 2;
  }

  /** The worker had no descriptors for so many connections. */
  noteStarved(count: number): void {
    this.#starvedWindow = Math.max(1, Math.floor(count / 2));
  }

  /**
   * @param total connections that the worker has closed since it joined
   * @returns whether these are more than before
   * @throws {PassfdError} `ERR_PROTOCOL` when they are fewer, or more than it ever had
   */
  noteClosed(total: number): boolean {
    const had = this.#carried + this.#adopted;
    if (total < this.#closed || total > had) {
      throw new PassfdError(
        'ERR_PROTOCOL',
        `The worker reported ${total} closed connections after ${this.#closed}, and had adopted ${had}`,
      );
    }
    if (total === this.#closed) return false;
    this.#closed = total;
    return true;
  }
}
