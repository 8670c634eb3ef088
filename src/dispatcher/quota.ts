// Quota: how many there may be of what peers make at a control socket, in all and of one user.
import { PassfdError, type PeerCredentials } from '../fd/index.js';

export interface QuotaLimits {
  /** What is counted, in the plural. */
  readonly of: string;
  readonly total: number;
  /** Less than the total, so that no user takes the place of all others. */
  readonly perUser: number;
}

export class Quota<T> implements Iterable<T> {
  readonly #limits: QuotaLimits;
  readonly #users = new Map<T, number>();

  constructor(limits: QuotaLimits) {
    this.#limits = limits;
  }

  [Symbol.iterator](): IterableIterator<T> {
    return this.#users.keys();
  }

  /** @throws {PassfdError} `ERR_DISPATCHER` when there is no place for one more of this user */
  check({ uid }: PeerCredentials): void {
    const { of, total, perUser } = this.#limits;
    if (this.#users.size >= total) {
      throw new PassfdError('ERR_DISPATCHER', `There are ${total} ${of} here, and no more are let in`);
    }
    let count = 0;
    for (const user of this.#users.values()) if (user === uid) count++;
    if (count < perUser) return;
    throw new PassfdError(
      'ERR_DISPATCHER',
      `User ${uid} has ${count} ${of} here, and no more are let in of one user`,
    );
  }

  add(one: T, { uid }: PeerCredentials): void {
    this.#users.set(one, uid);
  }

  delete(one: T): void {
    this.#users.delete(one);
  }
}
