// File locks (flock(2)) that end exactly when this process ends, even if another process shares its descriptors.
import { Descriptor } from './descriptor.js';
import { native } from './native.js';
import { EWOULDBLOCK, systemError } from './system-error.js';

/** `alone` excludes every other lock. `shared` excludes locks that are `alone`. */
export type LockKind = 'alone' | 'shared';

/**
 * Locks an open file. The lock replaces the one that the file has.
 * @returns false when another process has a lock that excludes this one; then the earlier lock is lost too
 * @throws {PassfdError} `ERR_SYSTEM` when the file system has no locks
 */
export function lockFile(descriptor: Descriptor, kind: LockKind): boolean {
  const result = native.lock(descriptor.fd, kind === 'alone' ? 1 : 0);
  if (result < 0 && result !== EWOULDBLOCK) {
    throw systemError(result, 'flock', { descriptor: `descriptor ${descriptor.fd}` });
  }
  return result === 0;
}

/**
 * Keeps a descriptor, and the lock on it, exactly as long as this process lives. A descriptor alone can outlive this process,
 * because the process of the last will shares all descriptors.
 */
export class Hold implements Disposable {
  #kept: { readonly is: 'held'; readonly number: number } | { readonly is: 'open'; readonly by: Descriptor };

  /** Takes over the descriptor. On systems that cannot hold it (macOS, Linux before 5.9), it simply stays open here. */
  constructor(descriptor: Descriptor) {
    const number = native.holdBegin(descriptor.fd);
    if (number >= 0) {
      descriptor.close();
      this.#kept = { is: 'held', number };
    } else {
      this.#kept = { is: 'open', by: new Descriptor(descriptor.release()) };
    }
  }

  /** Closes the descriptor. A second call does nothing. */
  [Symbol.dispose](): void {
    if (this.#kept.is === 'held') {
      if (this.#kept.number >= 0) native.holdEnd(this.#kept.number);
      this.#kept = { is: 'held', number: -1 };
    } else if (!this.#kept.by.closed) {
      this.#kept.by.close();
    }
  }
}
