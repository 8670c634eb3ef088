// Finds inherited listening sockets by their addresses.
import { lookup } from 'node:dns/promises';
import { existsSync, lstatSync } from 'node:fs';
import { isIP, isIPv6, SocketAddress } from 'node:net';
import { resolve } from 'node:path';

import { formatAddress, type Address } from '../fd/index.js';
import type { InheritedDescriptor } from './inherited.js';

export interface Matches {
  /** One for each wanted address, in its order. */
  readonly found: readonly (InheritedDescriptor | undefined)[];
  /** Listening sockets that were not wanted. */
  readonly rest: readonly InheritedDescriptor[];
  /** Other descriptors, and listening sockets that no client can reach any more. */
  readonly useless: readonly InheritedDescriptor[];
}

/** The parts of the system that matching depends on. */
export interface Surroundings {
  /** The numeric address of a host name. */
  readonly resolveHost: (host: string) => Promise<string>;
  readonly hasIpv6: () => boolean;
  readonly isSocketFile: (path: string) => boolean;
}

const real: Surroundings = {
  resolveHost: async (host) => (await lookup(host, { verbatim: true })).address,
  // The file exists when the kernel has IPv6, even without an address.
  hasIpv6: () => process.platform !== 'linux' || existsSync('/proc/net/if_inet6'),
  isSocketFile: (path) => lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true,
};

/**
 * Finds the listening socket for each wanted address. A process that was started again goes on with the sockets of the one
 * before; otherwise it would find their addresses in use. Each socket is found at most once, and of several with the same
 * address the first. Port 0 means any free port, so no socket is found for it.
 *
 * A listening socket lives until its last holder closes it, and the manager's store is one. So close the rest before you
 * listen at an address that it may have: here and in the store (`removeStored`, then `barrier`), or shut it down.
 *
 * Takes over no descriptor: all still belong to the caller.
 */
export async function matchListeners(
  inherited: readonly InheritedDescriptor[],
  wanted: readonly Address[],
  surroundings: Surroundings = real,
): Promise<Matches> {
  const left = new Map<InheritedDescriptor, string>();
  const useless: InheritedDescriptor[] = [];
  for (const one of inherited) {
    const key = keyOfListener(one, surroundings);
    if (key === undefined) useless.push(one);
    else left.set(one, key);
  }
  const found: (InheritedDescriptor | undefined)[] = [];
  for (const address of wanted) {
    const keys = await keysOf(address, surroundings);
    const match = keys.flatMap((key) => [...left].filter(([, own]) => own === key))[0]?.[0];
    if (match) left.delete(match);
    found.push(match);
  }
  return { found, rest: [...left.keys()], useless };
}

/** Undefined for other descriptors, and for a listening socket that no client can reach any more. */
function keyOfListener(
  { descriptor }: InheritedDescriptor,
  { isSocketFile }: Surroundings,
): string | undefined {
  if (descriptor.closed || descriptor.describe().kind !== 'listener') return undefined;
  const address = descriptor.localAddress;
  // A process that exits in good order removes the file of its socket. No file can be made for an existing socket.
  if ('path' in address && !address.path.startsWith('\0') && !isSocketFile(address.path)) return undefined;
  return keyOf(address);
}

/** The keys of sockets that listen at an address, the best first. */
async function keysOf(address: Address, surroundings: Surroundings): Promise<string[]> {
  if ('path' in address) return [keyOf(address)];
  const { host, port } = address;
  if (port === 0) return [];
  try {
    const hosts = [isNumeric(host) ? host : await surroundings.resolveHost(host)];
    // Without IPv6, `0.0.0.0` is used for it.
    if (host === '::' && !surroundings.hasIpv6()) hosts.push('0.0.0.0');
    return hosts.map((numeric) => keyOf({ host: numeric, port }));
  } catch {
    return []; // `listen` will report it
  }
}

/** The same for all spellings of an address. */
function keyOf(address: Address): string {
  if (!('path' in address)) return formatAddress({ host: canonicalHost(address.host), port: address.port });
  const { path } = address;
  return `unix:${formatAddress({ path: path.startsWith('\0') ? path : resolve(path) })}`;
}

function isNumeric(host: string): boolean {
  return isIP(host.replace(/%.*$/, '')) !== 0;
}

function canonicalHost(host: string): string {
  const [address = '', zone] = host.split('%');
  if (!isIPv6(address)) return host;
  const canonical = new SocketAddress({ address, family: 'ipv6' }).address;
  return zone === undefined ? canonical : `${canonical}%${zone}`;
}
