// PeerGuard: protects an acceptor from users who make closes slow by what they pass. See native/closer.h.
import { isLate, ownAccount, refuse } from './closing.js';
import type { Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import { native } from './native.js';

export class PeerGuard {
  readonly #place: string;
  readonly #refused: (error: PassfdError) => void;

  /**
   * @param place the address, for messages
   * @param refused gets an `ERR_SLOW_CLOSE` for each connection that was refused, and one when all connections have to wait
   */
  constructor(place: string, refused: (error: PassfdError) => void) {
    this.#place = place;
    this.#refused = refused;
  }

  /** Has a thread close the connection, on the account of its user. */
  distrust(connection: Descriptor): void {
    connection.distrust(userOf(connection.fd));
  }

  /** Whether the connection of a distrusted user may stay. If not, it is closed. */
  admits(connection: Descriptor): boolean {
    const user = connection.account;
    if (user === undefined || user === 0 || user === process.geteuid?.() || !isLate(user)) return true;
    refuse(connection.release(), user);
    this.#refused(
      new PassfdError(
        'ERR_SLOW_CLOSE',
        `A connection of user ${user} to ${this.#place} was refused: too many descriptors that this user has passed are ` +
          'slow to close',
      ),
    );
    return false;
  }

  /**
   * Whether half of all descriptor numbers are taken by slow closes. Then nothing is accepted here: a client can leave
   * descriptors in the queue that keep the number of its connection taken, even when the connection is refused. The other
   * half is for other sockets.
   */
  get isFull(): boolean {
    return native.isCloserFull();
  }

  reportFull(): void {
    this.#refused(
      new PassfdError(
        'ERR_SLOW_CLOSE',
        `Connections to ${this.#place} wait: half of the descriptors that this process may have are slow to close. End the ` +
          'processes that passed them, or raise the limit (ulimit -n)',
      ),
    );
  }
}

/** The user at the other end of a Unix socket. A peer that the kernel does not name gets an account of its own. */
function userOf(fd: number): number {
  const credentials = new Int32Array(3);
  return native.peer(fd, credentials) < 0 ? ownAccount() : (credentials[1] ?? 0) >>> 0;
}
