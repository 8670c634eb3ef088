// Activation: finds the socket for each `--listen` that the service manager has passed or kept, if there is one.
import type { OfferedSocket } from '../dispatcher/index.js';
import type { Address } from '../fd/index.js';
import { listenersNamed, matchListeners, storedName, type InheritedDescriptor } from '../systemd/index.js';
import type { ListenAddress, WrittenAddress } from './listen-address.js';

export interface Resolved {
  /** In the order of the options. */
  readonly addresses: readonly ListenAddress[];
  /** Listening sockets that no `--listen` names. A worker may listen there. */
  readonly offered: readonly OfferedSocket[];
  /** Descriptors of no use. */
  readonly useless: readonly InheritedDescriptor[];
}

/** @throws {PassfdError} `ERR_ACTIVATION` for a name that no descriptor has */
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

/** Sockets that a process of this service stored have the name of their address. All others come from .socket units. */
function toOffered({ name, descriptor }: InheritedDescriptor): OfferedSocket {
  return { descriptor, isInherited: name !== storedName(descriptor.localAddress) };
}
