// Addresses as Python writes them: a string for a Unix socket, a pair of host and port for TCP.
import type { Address, AddressLike } from '../fd/index.js';

/** A path (or, with a leading NUL, an abstract name), or `[host, port]`, as Python's tuple; or an address of `passfd`. */
export type ConnectionAddress = AddressLike | readonly [host: string, port: number];

export function fromPython(address: ConnectionAddress): AddressLike {
  if (typeof address === 'string' || !Array.isArray(address)) return address as AddressLike;
  const [host, port] = address as readonly [string, number];
  return { host, port };
}

export function toPython(address: Address): string | [host: string, port: number] {
  return 'path' in address ? address.path : [address.host, address.port];
}
