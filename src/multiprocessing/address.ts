// Addresses as Python writes them: a string for a Unix socket, a pair of host and port for TCP.
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';

import { PassfdError, type Address, type AddressLike } from '../fd/index.js';

/** A path (with a leading NUL an abstract name), or `[host, port]`, as Python's tuple; or an address of `passfd`. */
export type ConnectionAddress = AddressLike | readonly [host: string, port: number];

/** Names are looked up as IPv4, as Python's AF_INET does. @throws {PassfdError} `ERR_ADDRESS` */
export async function fromPython(address: ConnectionAddress): Promise<AddressLike> {
  if (!isPair(address)) return address;
  const [host, port] = address;
  if (typeof host !== 'string' || isIP(host) !== 0) return { host, port };
  try {
    return { host: (await lookup(host, { family: 4 })).address, port };
  } catch (cause) {
    throw new PassfdError('ERR_ADDRESS', `The host ${host} has no IPv4 address; check its name`, { cause });
  }
}

export function toPython(address: Address): string | [host: string, port: number] {
  return 'path' in address ? address.path : [address.host, address.port];
}

function isPair(address: ConnectionAddress): address is readonly [host: string, port: number] {
  return Array.isArray(address);
}
