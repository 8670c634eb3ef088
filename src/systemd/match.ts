// Which inherited listening socket is the one that is wanted: it is known by its address.
import { lookup } from 'node:dns/promises';
import { existsSync, lstatSync } from 'node:fs';
import { isIP, isIPv6, SocketAddress } from 'node:net';
import { resolve } from 'node:path';

import { formatAddress, type Address } from '../fd/index.js';
import type { InheritedDescriptor } from './inherited.js';

export interface Matches {
  /** As long as what was wanted, and in its order. */
  readonly found: readonly (InheritedDescriptor | undefined)[];
  /** What nobody wanted. */
  readonly rest: readonly InheritedDescriptor[];
  /** What is no listening socket, or one that no client can reach any more. */
  readonly useless: readonly InheritedDescriptor[];
}

/** The world that matching looks at. */
export interface Surroundings {
  /** The numeric address of a host name. */
  readonly resolveHost: (host: string) => Promise<string>;
  readonly hasIpv6: () => boolean;
  readonly isSocketFile: (path: string) => boolean;
}

const real: Surroundings = {
  resolveHost: async (host) => (await lookup(host, { verbatim: true })).address,
  // It is there where the kernel has IPv6, be an address configured or not.
  hasIpv6: () => process.platform !== 'linux' || existsSync('/proc/net/if_inet6'),
  isSocketFile: (path) => lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true,
};

/**
 * Finds for each wanted address the listening socket that has it, so that a process that was started again goes on with
 * the sockets of the one before, and does not find their addresses in use. One socket is found once at most; of several
 * with the same address, the first. A wanted port 0 is any free one, so none is found for it.
 *
 * Before anything listens anew, the rest has to go where it may be in the way: a listening socket lives until its last
 * holder has closed it, so from the manager's store too (`removeStored`, then `barrier`), unless it is shut down.
 *
 * Takes nothing over: all of it still belongs to the caller.
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

/** Undefined for what is no listening socket, or one that no client can reach any more. */
function keyOfListener(
  { descriptor }: InheritedDescriptor,
  { isSocketFile }: Surroundings,
): string | undefined {
  if (descriptor.closed || descriptor.describe().kind !== 'listener') return undefined;
  const address = descriptor.localAddress;
  // Who ends in good order removes the file of its socket, and nobody can make a file for a socket that is there.
  if ('path' in address && !address.path.startsWith('\0') && !isSocketFile(address.path)) return undefined;
  return keyOf(address);
}

/** What the kernel would say of a socket that listens there; the first is the best. */
async function keysOf(address: Address, surroundings: Surroundings): Promise<string[]> {
  if ('path' in address) return [keyOf(address)];
  const { host, port } = address;
  if (port === 0) return [];
  try {
    const hosts = [isNumeric(host) ? host : await surroundings.resolveHost(host)];
    // There `0.0.0.0` stands for it.
    if (host === '::' && !surroundings.hasIpv6()) hosts.push('0.0.0.0');
    return hosts.map((numeric) => keyOf({ host: numeric, port }));
  } catch {
    return []; // Whoever listens there is told.
  }
}

/** The same for all ways to write an address. */
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
