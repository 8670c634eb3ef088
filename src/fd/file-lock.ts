// File locks (flock(2)) that end with this process, however it ends, and whoever shares its descriptors.
import { Descriptor } from './descriptor.js';
import { native } from './native.js';
import { EWOULDBLOCK, systemError } from './system-error.js';

/** `alone`: nobody else has a lock. `shared`: nobody else has it alone. */
export type LockKind = 'alone' | 'shared';

/**
 * Locks an open file, in place of the lock that it has.
 * @returns whether it is locked; if not, somebody else has it, and the lock that it had is lost
 * @throws {PassfdError} `ERR_SYSTEM` where the file system has no locks
 */
export function lockFile(descriptor: Descriptor, kind: LockKind): boolean {
  const result = native.lock(descriptor.fd, kind === 'alone' ? 1 : 0);
  if (result < 0 && result !== EWOULDBLOCK) {
    throw systemError(result, 'flock', { descriptor: `descriptor ${descriptor.fd}` });
  }
  return result === 0;
}

/**
 * Keeps a descriptor, and the lock on it, exactly as long as this process lives. The process of a last will shares the
 * descriptors of this one, so a descriptor alone can outlive it.
 */
export class Hold implements Disposable {
  #kept: { readonly is: 'held'; readonly number: number } | { readonly is: 'open'; readonly by: Descriptor };

  /** Takes over the descriptor. Where the system cannot hold it (macOS, Linux before 5.9), it stays open here. */
  constructor(descriptor: Descriptor) {
    const number = native.holdBegin(descriptor.fd);
    if (number >= 0) {
      descriptor.close();
      this.#kept = { is: 'held', number };
    } else {
      this.#kept = { is: 'open', by: new Descriptor(descriptor.release()) };
    }
  }

  /** Lets go of it. A second call does nothing. */
  [Symbol.dispose](): void {
    if (this.#kept.is === 'held') {
      if (this.#kept.number >= 0) native.holdEnd(this.#kept.number);
      this.#kept = { is: 'held', number: -1 };
    } else if (!this.#kept.by.closed) {
      this.#kept.by.close();
    }
  }
}
