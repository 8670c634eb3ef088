// Quota: how many workers or control connections there may be at the control sockets, in all and of one user.
import { readFileSync } from 'node:fs';

import { PassfdError, type PeerCredentials } from '../fd/index.js';
import { isTrusted } from '../handoff/index.js';

export interface QuotaLimits {
  /** What is counted, in the plural, for error messages. */
  readonly of: string;
  readonly total: number;
  /** Less than the total, so that no user takes every place. */
  readonly perUser: number;
  /** The part of the total that only root and the user of this process may use, so that others cannot lock them out. */
  readonly reserved: number;
}

/** Connections that carry commands. */
export const CONTROL_LIMITS = { of: 'control connections', total: 256, perUser: 64, reserved: 128 };

/** Workers that join at a control socket. Children do not count: their supervisor limits them. */
export const JOINED_LIMITS = { of: 'workers', total: 1024, perUser: 512, reserved: 512 };

/** Each of the two kinds may take a quarter of all descriptors, so that half is left for clients. */
const SHARE = 4;

interface Entry {
  readonly uid: number;
  readonly isTrusted: boolean;
  readonly descriptors: number;
}

export class Quota<T> implements Iterable<T> {
  readonly #of: string;
  readonly #total: number;
  /** Descriptors that all entries may take. */
  readonly #share: number;
  /** Most entries of one user, when each takes one descriptor. */
  readonly perUser: number;
  /** The share of the total that users without trust may have together, from 0 to 1. */
  readonly #partOfOthers: number;
  readonly #entries = new Map<T, Entry>();

  /** @param descriptors the descriptor limit of this process */
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
   * @param descriptors how many one more entry would take
   * @throws {PassfdError} `ERR_QUOTA` when there is no place for one more of this user
   */
  check({ uid }: PeerCredentials, descriptors = 1): void {
    const all = [...this.#entries.values()];
    if (all.length >= this.#total || descriptorsOf(all) + descriptors > this.#share) {
      throw new PassfdError('ERR_QUOTA', `There are ${all.length} ${this.#of} already, which is the limit`);
    }
    const others = all.filter((entry) => !entry.isTrusted);
    const isFull =
      others.length >= this.#total * this.#partOfOthers ||
      descriptorsOf(others) + descriptors > this.#share * this.#partOfOthers;
    if (isFull && !isTrusted({ uid })) {
      throw new PassfdError(
        'ERR_QUOTA',
        `There are ${others.length} ${this.#of} of other users already; the rest is reserved for root and the dispatcher's user`,
      );
    }
    const own = all.filter((entry) => entry.uid === uid);
    if (own.length < this.perUser && descriptorsOf(own) + descriptors <= this.#share / 2) return;
    throw new PassfdError(
      'ERR_QUOTA',
      `User ${uid} has ${own.length} ${this.#of} already, which is the limit for one user`,
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

/** Read from /proc, since Node has no call for it. Without /proc, no limit is assumed. */
function descriptorLimit(): number {
  try {
    const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? [];
    return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
