// Addresses of sockets: how they are checked, printed, and read from the kernel.
import { isIP } from 'node:net';
import { lookup } from 'node:dns/promises';

import { PassfdError } from './errors.js';
import { NAME_LENGTH, native } from './native.js';

/** A TCP address. `host` is a name or a numeric address; an address that the kernel reports is always numeric. */
export interface TcpAddress {
  readonly host: string;
  /** 0 to 65535. To listen at port 0 lets the kernel pick a free port. */
  readonly port: number;
}

/**
 * The address of a Unix socket: a path of at most 107 bytes (103 on macOS). On Linux also an abstract name: a NUL and at most
 * 107 more bytes, used at exactly that length (unix(7)). The path is empty for a socket without a name.
 */
export interface UnixAddress {
  readonly path: string;
}

export type Address = TcpAddress | UnixAddress;

/** An address, or a string, which is the path of a Unix socket. */
export type AddressLike = Address | string;

/** Checks the address that a caller gave. @throws {TypeError} */
export function toAddress(address: AddressLike): Address {
  if (typeof address === 'string') return toAddress({ path: address });
  if ('path' in address) {
    const { path } = address;
    if (typeof path !== 'string' || path === '') {
      throw new TypeError('The path of a Unix socket is a non-empty string');
    }
    if (path.indexOf('\0', 1) > 0 && !isAbstract(path)) {
      throw new TypeError(`The path of a Unix socket may not contain NUL: ${JSON.stringify(path)}`);
    }
    return { path };
  }
  const { host, port } = address;
  if (typeof host !== 'string' || host === '') {
    throw new TypeError('The host of an address is a non-empty string');
  }
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new TypeError(`A port is an integer from 0 to 65535, not ${String(port)}`);
  }
  return { host, port };
}

/** Whether a path is an abstract name of Linux, which has no file, no mode and no owner. */
export function isAbstract(path: string): boolean {
  return path.startsWith('\0');
}

/** The address for people: `/run/app.sock`, `@name` for an abstract name, `127.0.0.1:80`, `[::1]:80`. */
export function formatAddress(address: Address): string {
  if ('path' in address) return isAbstract(address.path) ? `@${address.path.slice(1)}` : address.path;
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** The numeric addresses of a host, at least one, in the order of the resolver. @throws {PassfdError} `ERR_ADDRESS` */
export async function resolveHost(host: string): Promise<string[]> {
  if (isIP(host.replace(/%.*$/, '')) !== 0) return [host];
  try {
    return (await lookup(host, { all: true, verbatim: true })).map(({ address }) => address);
  } catch (cause) {
    throw new PassfdError('ERR_ADDRESS', `The host ${host} has no address; check its name`, { cause });
  }
}

/** The address that `getsockname` or `getpeername` reports, or `-errno`. */
export function readAddress(fd: number, end: 'local' | 'remote'): Address | number {
  const numbers = new Int32Array(2);
  const name = Buffer.alloc(NAME_LENGTH);
  const length = native.address(fd, end === 'remote' ? 1 : 0, numbers, name);
  if (length < 0) return length;
  const text = name.toString('utf8', 0, length);
  const [family = 0, port = 0] = numbers;
  return family === 4 || family === 6 ? { host: text, port } : { path: text };
}
