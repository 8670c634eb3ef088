// Turns the `-errno` of a system call into a `PassfdError` whose `cause` has the shape of Node's own system errors.
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';

import { PassfdError, type ErrorCode } from './errors.js';

const { errno } = constants;

/** The native functions return `-errno`. */
export const EAGAIN = -errno.EAGAIN;
/** A send returns it when too many descriptors of this user are in flight (ETOOMANYREFS, which Node has no name for). */
export const ENOBUFS = -errno.ENOBUFS;
export const ENOMEM = -errno.ENOMEM;
export const EADDRINUSE = -errno.EADDRINUSE;
export const ENOENT = -errno.ENOENT;
export const ECONNREFUSED = -errno.ECONNREFUSED;
export const EWOULDBLOCK = -errno.EWOULDBLOCK;
export const EMFILE = -errno.EMFILE;
export const ENFILE = -errno.ENFILE;
export const EBADF = -errno.EBADF;
export const EACCES = -errno.EACCES;
export const ENAMETOOLONG = -errno.ENAMETOOLONG;
export const ENOTDIR = -errno.ENOTDIR;
export const ESRCH = -errno.ESRCH;

const codes = new Map<number, ErrorCode>([
  [EBADF, 'ERR_DESCRIPTOR_CLOSED'],
  [EMFILE, 'ERR_DESCRIPTOR_LIMIT'],
  [ENFILE, 'ERR_DESCRIPTOR_LIMIT'],
  [-errno.EPIPE, 'ERR_PEER_GONE'],
  [-errno.ECONNRESET, 'ERR_PEER_GONE'],
  [-errno.ENOTCONN, 'ERR_PEER_GONE'],
  [ENAMETOOLONG, 'ERR_ADDRESS'],
  [-errno.EINVAL, 'ERR_ADDRESS'],
  [-errno.EADDRNOTAVAIL, 'ERR_ADDRESS'],
  [-errno.EAFNOSUPPORT, 'ERR_ADDRESS'],
  [ENOTDIR, 'ERR_ADDRESS'],
  [EADDRINUSE, 'ERR_ADDRESS_IN_USE'],
  [EACCES, 'ERR_ADDRESS_DENIED'],
  [-errno.EPERM, 'ERR_ADDRESS_DENIED'],
  [-errno.EROFS, 'ERR_ADDRESS_DENIED'],
  [ENOENT, 'ERR_ADDRESS_MISSING'],
  [ECONNREFUSED, 'ERR_CONNECTION_REFUSED'],
]);

/** Codes that only make sense for a call with an address. */
const isAboutAnAddress = (code: ErrorCode): boolean =>
  code.startsWith('ERR_ADDRESS') || code === 'ERR_CONNECTION_REFUSED';

const advice: Partial<Record<ErrorCode, string>> = {
  ERR_DESCRIPTOR_CLOSED: 'other code closed it, though it has an owner',
  ERR_DESCRIPTOR_LIMIT: 'raise the limit (ulimit -n) or close what is not needed',
  ERR_PEER_GONE: 'the other end closed the connection or died',
  ERR_CONNECTION_REFUSED: 'no process listens there: start the server, or wait for it',
  ERR_ADDRESS_DENIED:
    'this user may not use it: a port below 1024 needs CAP_NET_BIND_SERVICE, a path needs write permission',
  ERR_ADDRESS_IN_USE: 'stop the process that has it, or take another address',
};

/**
 * @param result the `-errno` that the call returned
 * @param syscall the name of the call, as in the manual
 * @param subject what the call was made for, for the message. Only an address gives codes about addresses.
 * @param hint what to do. Default: the general advice for the code.
 */
export function systemError(
  result: number,
  syscall: string,
  subject: { descriptor: string } | { address: string },
  hint?: string,
): PassfdError {
  const name = getSystemErrorName(result);
  const found = codes.get(result) ?? 'ERR_SYSTEM';
  const code = isAboutAnAddress(found) && !('address' in subject) ? 'ERR_SYSTEM' : found;
  const what = 'address' in subject ? subject.address : subject.descriptor;
  const todo = hint ?? advice[code];
  const cause = Object.assign(new Error(`${syscall} ${name}`), { code: name, errno: result, syscall });
  return new PassfdError(
    code,
    `${syscall} failed on ${what}: ${name}${todo === undefined ? '' : `; ${todo}`}`,
    {
      cause,
    },
  );
}
