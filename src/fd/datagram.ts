// Datagrams with descriptors to a Unix socket of another program, such as a service manager. Node has UDP only.
import { formatAddress, toAddress, type UnixAddress } from './address.js';
import { PassfdError } from './errors.js';
import { MAX_DESCRIPTORS, native } from './native.js';
import { borrow, type Passable } from './passable.js';
import { EAGAIN, EBADF, ENOBUFS, ENOMEM, systemError } from './system-error.js';

// One call at a time uses it: the call into the addon is done with it when it returns.
const outgoing = new Int32Array(MAX_DESCRIPTORS);

/**
 * Sends one datagram to the Unix socket at a path or an abstract name. It does not wait.
 * @param bytes at least one byte
 * @param passables at most `MAX_DESCRIPTORS`. A `net.Socket` moves, as with `send`; everything else is lent. Default: none.
 * @returns false when the queue of the receiver is full. The kernel has no event for room there, so try again later.
 * @throws {PassfdError} `ERR_ADDRESS_MISSING`, `ERR_CONNECTION_REFUSED`, `ERR_ADDRESS_DENIED`, `ERR_ADDRESS`,
 * `ERR_TOO_MANY_DESCRIPTORS`, `ERR_DESCRIPTOR_LIMIT`, or the code for a descriptor that cannot be passed
 */
export function sendDatagram(
  address: UnixAddress | string,
  bytes: Uint8Array,
  passables: readonly Passable[] = [],
): boolean {
  const target = toAddress(address);
  if (!('path' in target)) throw new TypeError('The address of a datagram is the path of a Unix socket');
  if (bytes.length === 0) throw new TypeError('A datagram needs at least one byte');
  const count = passables.length;
  if (count > MAX_DESCRIPTORS) {
    throw new PassfdError(
      'ERR_TOO_MANY_DESCRIPTORS',
      `One datagram takes at most ${MAX_DESCRIPTORS} descriptors, not ${count}; send several`,
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
  const hint = result === EBADF ? 'one of its descriptors is not open' : undefined;
  throw systemError(result, 'sendmsg', { address: formatAddress(target) }, hint);
}
