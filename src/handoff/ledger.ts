// Ledger: what is in flight on a channel, in the order of sending. It is settled from the front, by positions.
import { PassfdError } from '../fd/index.js';

/** Number of settled entries at the front at which their memory is freed. */
const COMPACT_AT = 1024;

export class Ledger<T> {
  #entries: T[] = [];
  /** Index of the first entry that is not settled. */
  #first = 0;
  #settled: number;

  /** @param settled how many an earlier process had settled. Default: 0 */
  constructor(settled = 0) {
    this.#settled = settled;
  }

  /** Position of the last settled entry, which is the number of entries ever settled. */
  get settled(): number {
    return this.#settled;
  }

  /** Position of the last entry. */
  get last(): number {
    return this.#settled + this.size;
  }

  /** Everything in flight, the oldest first. */
  get entries(): readonly T[] {
    return this.#entries.slice(this.#first);
  }

  /** How many are in flight. */
  get size(): number {
    return this.#entries.length - this.#first;
  }

  add(entry: T): void {
    this.#entries.push(entry);
  }

  /**
   * Removes and returns everything up to a position.
   * @param lastSent position of the last entry that was sent. Default: the last entry
   * @throws {PassfdError} `ERR_PROTOCOL` when the peer settles a position twice, or one that it was not sent
   */
  settleUpTo(position: number, lastSent = this.last): T[] {
    const count = position - this.#settled;
    if (count < 1 || position > lastSent) {
      const inFlight =
        lastSent > this.#settled ? `positions ${this.#settled + 1} to ${lastSent} are` : 'nothing is';
      throw new PassfdError(
        'ERR_PROTOCOL',
        `The peer settles position ${position}, and ${inFlight} in flight`,
      );
    }
    const taken = this.#entries.slice(this.#first, this.#first + count);
    this.#first += count;
    this.#settled = position;
    if (this.#first === this.#entries.length) {
      this.#entries = [];
      this.#first = 0;
    } else if (this.#first >= COMPACT_AT) {
      this.#entries = this.#entries.slice(this.#first);
      this.#first = 0;
    }
    return taken;
  }

  /** Removes and returns everything from a position on. It was not sent, so the next entry gets that position. */
  takeFrom(position: number): T[] {
    return this.#entries.splice(this.#first + position - this.#settled - 1);
  }

  /** Removes and returns everything that is in flight. */
  takeAll(): T[] {
    return this.size === 0 ? [] : this.settleUpTo(this.last);
  }
}
