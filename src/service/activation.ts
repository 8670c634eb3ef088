// Activation: finds for each `--listen` the socket that the service manager has passed or kept, where there is one.
import type { OfferedSocket } from '../dispatcher/index.js';
import type { Address } from '../fd/index.js';
import { listenersNamed, matchListeners, storedName, type InheritedDescriptor } from '../systemd/index.js';
import type { ListenAddress, WrittenAddress } from './listen-address.js';

export interface Resolved {
  /** In the order in which they were written. */
  readonly addresses: readonly ListenAddress[];
  /** Listening sockets that no `--listen` asks for: a worker may. */
  readonly offered: readonly OfferedSocket[];
  /** What nobody can use. */
  readonly useless: readonly InheritedDescriptor[];
}

/** @throws {PassfdError} `ERR_ACTIVATION` for a name that there is not */
export async function resolveListen(
  written: readonly WrittenAddress[],
  inherited: readonly InheritedDescriptor[],
): Promise<Resolved> {
  const named = new Set(
    written.flatMap((one) => ('fdName' in one ? listenersNamed(inherited, one.fdName) : [])),
  );
  const plain = written.filter(isPlain);
  const others = inherited.filter((one) => !named.has(one));
  const { found, rest, useless } = await matchListeners(others, plain);
  const addresses = written.flatMap((one): ListenAddress | ListenAddress[] => {
    if ('fdName' in one) {
      return listenersNamed(inherited, one.fdName).map(({ descriptor }) => ({ fd: descriptor.fd }));
    }
    if (!isPlain(one)) return one;
    const match = found[plain.indexOf(one)];
    return match ? { fd: match.descriptor.fd } : one;
  });
  return { addresses, offered: rest.map(toOffered), useless };
}

function isPlain(address: WrittenAddress): address is Address {
  return 'host' in address || 'path' in address;
}

/** What a process of this service had stored has the name that it gave it; the rest is that of .socket units. */
function toOffered({ name, descriptor }: InheritedDescriptor): OfferedSocket {
  return { descriptor, isInherited: name !== storedName(descriptor.localAddress) };
}
