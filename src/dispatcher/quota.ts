// Quota: how many there may be of what peers make at a control socket, in all and of one user.
import { readFileSync } from 'node:fs';

import { PassfdError, type PeerCredentials } from '../fd/index.js';

export interface QuotaLimits {
  /** What is counted, in the plural. */
  readonly of: string;
  readonly total: number;
  /** Less than the total, so that no user takes the place of all others. */
  readonly perUser: number;
}

/** Connections over which commands come. */
export const CONTROL_LIMITS = { of: 'control connections', total: 256, perUser: 64 };

/** Workers that join at a control socket. Children are as many as their supervisor starts. */
export const JOINED_LIMITS = { of: 'workers', total: 1024, perUser: 512 };

/** Each kind may take a quarter of all descriptors, so that half of them is left for clients. */
const SHARE = 4;

export class Quota<T> implements Iterable<T> {
  readonly #of: string;
  readonly #total: number;
  readonly perUser: number;
  readonly #users = new Map<T, number>();

  /** @param descriptors how many this process may have */
  constructor({ of, total, perUser }: QuotaLimits, descriptors = descriptorLimit()) {
    this.#of = of;
    this.#total = Math.min(total, Math.floor(descriptors / SHARE));
    this.perUser = Math.min(perUser, Math.floor(this.#total / 2));
  }

  [Symbol.iterator](): IterableIterator<T> {
    return this.#users.keys();
  }

  /** @throws {PassfdError} `ERR_DISPATCHER` when there is no place for one more of this user */
  check({ uid }: PeerCredentials): void {
    if (this.#users.size >= this.#total) {
      throw new PassfdError(
        'ERR_DISPATCHER',
        `There are ${this.#total} ${this.#of} here, and no more are let in`,
      );
    }
    let count = 0;
    for (const user of this.#users.values()) if (user === uid) count++;
    if (count < this.perUser) return;
    throw new PassfdError(
      'ERR_DISPATCHER',
      `User ${uid} has ${count} ${this.#of} here, and no more are let in of one user`,
    );
  }

  add(one: T, { uid }: PeerCredentials): void {
    this.#users.set(one, uid);
  }

  delete(one: T): void {
    this.#users.delete(one);
  }
}

/** Node has no call for it; where the system does not tell it in a file, none is taken to be in force. */
function descriptorLimit(): number {
  try {
    const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? [];
    return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
