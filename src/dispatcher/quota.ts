// Quota: how many there may be of what peers make at a control socket, in all and of one user.
import { readFileSync } from 'node:fs';

import { PassfdError, type PeerCredentials } from '../fd/index.js';
import { isTrusted } from '../handoff/index.js';

export interface QuotaLimits {
  /** What is counted, in the plural. */
  readonly of: string;
  readonly total: number;
  /** Less than the total, so that no user takes the place of all others. */
  readonly perUser: number;
  /** Of the total, for root and the user of this process: whoever else is let in cannot lock them out. */
  readonly reserved: number;
}

/** Connections over which commands come. */
export const CONTROL_LIMITS = { of: 'control connections', total: 256, perUser: 64, reserved: 128 };

/** Workers that join at a control socket. Children are as many as their supervisor starts. */
export const JOINED_LIMITS = { of: 'workers', total: 1024, perUser: 512, reserved: 512 };

/** Each kind may take a quarter of all descriptors, so that half of them is left for clients. */
const SHARE = 4;

interface Entry {
  readonly uid: number;
  readonly isTrusted: boolean;
  readonly descriptors: number;
}

export class Quota<T> implements Iterable<T> {
  readonly #of: string;
  readonly #total: number;
  /** Descriptors that all of them may take. */
  readonly #share: number;
  /** How many there may be of one user that take one descriptor each. */
  readonly perUser: number;
  /** What users may have together that are not trusted, as a part of the whole. */
  readonly #partOfOthers: number;
  readonly #entries = new Map<T, Entry>();

  /** @param descriptors how many this process may have */
  constructor({ of, total, perUser, reserved }: QuotaLimits, descriptors = descriptorLimit()) {
    this.#of = of;
    this.#share = Math.floor(descriptors / SHARE);
    this.#total = Math.min(total, this.#share);
    this.perUser = Math.max(1, Math.floor((perUser * this.#total) / total));
    this.#partOfOthers = 1 - reserved / total;
  }

  [Symbol.iterator](): IterableIterator<T> {
    return this.#entries.keys();
  }

  /**
   * @param descriptors how many it takes
   * @throws {PassfdError} `ERR_QUOTA` when there is no place for one more of this user
   */
  check({ uid }: PeerCredentials, descriptors = 1): void {
    const all = [...this.#entries.values()];
    if (all.length >= this.#total || descriptorsOf(all) + descriptors > this.#share) {
      throw new PassfdError('ERR_QUOTA', `There are ${all.length} ${this.#of} here, and no more are let in`);
    }
    const others = all.filter((entry) => !entry.isTrusted);
    const isFull =
      others.length >= this.#total * this.#partOfOthers ||
      descriptorsOf(others) + descriptors > this.#share * this.#partOfOthers;
    if (isFull && !isTrusted({ uid })) {
      throw new PassfdError(
        'ERR_QUOTA',
        `There are ${others.length} ${this.#of} of other users here, and the rest is kept for root and the own one`,
      );
    }
    const own = all.filter((entry) => entry.uid === uid);
    if (own.length < this.perUser && descriptorsOf(own) + descriptors <= this.#share / 2) return;
    throw new PassfdError(
      'ERR_QUOTA',
      `User ${uid} has ${own.length} ${this.#of} here, and no more are let in of one user`,
    );
  }

  add(one: T, { uid }: PeerCredentials, descriptors = 1): void {
    this.#entries.set(one, { uid, isTrusted: isTrusted({ uid }), descriptors });
  }

  delete(one: T): void {
    this.#entries.delete(one);
  }
}

function descriptorsOf(entries: readonly Entry[]): number {
  return entries.reduce((sum, { descriptors }) => sum + descriptors, 0);
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
