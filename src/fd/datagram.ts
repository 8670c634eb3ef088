// Datagrams to a Unix socket of another program, with descriptors: Node has UDP only.
import { formatAddress, toAddress, type UnixAddress } from './address.js';
import { PassfdError } from './errors.js';
import { MAX_DESCRIPTORS, native } from './native.js';
import { borrow, type Passable } from './passable.js';
import { EAGAIN, EBADF, ENOBUFS, ENOMEM, systemError } from './system-error.js';

// One call at a time uses it: the call into the addon returns when it is done with it.
const outgoing = new Int32Array(MAX_DESCRIPTORS);

/**
 * Sends one datagram to the Unix socket at a path or an abstract name, from a socket without a name, and without waiting.
 * @param bytes at least one
 * @param passables a `net.Socket` moves, as with `send`; everything else is lent
 * @returns false when the receiver's queue is full; the kernel does not tell when it takes more, so try again later
 * @throws {PassfdError} `ERR_ADDRESS_MISSING`, `ERR_CONNECTION_REFUSED`, `ERR_ADDRESS_DENIED`, `ERR_ADDRESS`,
 * `ERR_TOO_MANY_DESCRIPTORS`, `ERR_DESCRIPTOR_LIMIT`, or what is wrong with one of the passables
 */
export function sendDatagram(
  address: UnixAddress | string,
  bytes: Uint8Array,
  passables: readonly Passable[] = [],
): boolean {
  const target = toAddress(address);
  if (!('path' in target)) throw new TypeError('A datagram goes to the path of a Unix socket');
  if (bytes.length === 0) throw new TypeError('A datagram has at least one byte');
  const count = passables.length;
  if (count > MAX_DESCRIPTORS) {
    throw new PassfdError(
      'ERR_TOO_MANY_DESCRIPTORS',
      `${count} descriptors in one datagram, and the kernel takes ${MAX_DESCRIPTORS}; send several`,
    );
  }
  const loans = borrow(passables, outgoing);
  const result = native.sendDatagram(Buffer.from(target.path), bytes, outgoing, count);
  if (result >= 0) {
    for (const loan of loans) loan.sent();
    return true;
  }
  for (const loan of loans) loan.failed();
  if (result === EAGAIN || result === ENOBUFS || result === ENOMEM) return false;
  const hint = result === EBADF ? 'one of the descriptors to be sent is not open' : undefined;
  throw systemError(result, 'sendmsg', { address: formatAddress(target) }, hint);
}
