// Wanted addresses: which open addresses serve as well, which are in the way, and how one is opened, as Node's `listen` does.
import {
  Acceptor,
  Descriptor,
  formatAddress,
  listen,
  PassfdError,
  type Address,
  type ListenOptions,
} from '../fd/index.js';
import type { WantedAddress } from '../handoff/index.js';

/** The addresses that serve as well as the wanted one, as text. Empty if only the key identifies it. */
export function namesOf(wanted: WantedAddress): string[] {
  if ('fd' in wanted) return [];
  if ('path' in wanted) return [formatAddress(wanted)];
  const { host, port, ipv6Only } = wanted;
  if (port === 0) return [];
  if (host !== null) return [formatAddress({ host, port })];
  // Without a host: see `openWanted`.
  return (ipv6Only ? ['::'] : ['::', '0.0.0.0']).map((any) => formatAddress({ host: any, port }));
}

/** Whether a socket at one address keeps another process from listening at the wanted one. */
export function isInTheWay(other: Address, wanted: WantedAddress | Address): boolean {
  if ('fd' in wanted) return false;
  if ('path' in wanted || 'path' in other) {
    return 'path' in wanted && 'path' in other && wanted.path === other.path;
  }
  const hosts = [wanted.host ?? '::', other.host];
  const isShared = hosts.some((host) => host === '::' || host === '0.0.0.0') || hosts[0] === hosts[1];
  return wanted.port === other.port && isShared;
}

/** @throws {PassfdError} as `listen` of `passfd`; for `{ fd }` as `openInherited` */
export async function openWanted(
  address: WantedAddress,
  options: Pick<ListenOptions, 'backlog'>,
): Promise<Acceptor> {
  if ('fd' in address) return openInherited(address.fd);
  if ('path' in address) return listen(address.path, { ...options, mode: address.mode });
  const { host, port, ipv6Only } = address;
  if (host !== null) return listen({ host, port }, { ...options, ipv6Only });
  try {
    return await listen({ host: '::', port }, { ...options, ipv6Only });
  } catch (error) {
    // Node also takes IPv4 where the machine has no IPv6 (net, server.listen).
    if (error instanceof PassfdError && error.code === 'ERR_ADDRESS') {
      return listen({ host: '0.0.0.0', port }, options);
    }
    throw error;
  }
}

/** @throws {PassfdError} `ERR_WRONG_KIND`, `ERR_DESCRIPTOR_CLOSED` */
export function openInherited(fd: number): Acceptor {
  const borrowed = new Descriptor(fd);
  try {
    using duplicate = borrowed.duplicate();
    return new Acceptor(duplicate);
  } finally {
    borrowed.release();
  }
}
