// Opens the addresses of `--listen`: with the sockets of the service manager where there are some, else with new ones.
import type { Dispatcher } from '../dispatcher/index.js';
import { closeAll, PassfdError, type Address } from '../fd/index.js';
import type { InheritedDescriptor, Notifier } from '../systemd/index.js';
import { resolveListen } from './activation.js';
import { ANY_HOST, type ListenAddress, type WrittenAddress } from './listen-address.js';

/**
 * Takes over the inherited descriptors. The dispatcher gets those that nobody asks for as an offer to workers; useless ones
 * are closed, here and in the service manager's store.
 * @throws {PassfdError} when one of the addresses cannot be opened
 */
export async function listenAtAll(
  dispatcher: Dispatcher,
  written: readonly WrittenAddress[],
  inherited: readonly InheritedDescriptor[],
  notifier: Notifier,
): Promise<void> {
  const { addresses, offered, useless } = await resolveListen(written, inherited);
  for (const { name, descriptor } of useless) {
    notifier.removeStored(name);
    descriptor.close();
  }
  await dispatcher.offer(offered);
  for (const address of addresses) await listenAt(dispatcher, address);
  // The dispatcher listens with duplicates.
  closeAll(inherited.map(({ descriptor }) => descriptor).filter(({ closed }) => !closed));
}

async function listenAt(dispatcher: Dispatcher, address: ListenAddress): Promise<Address> {
  try {
    return await dispatcher.listen(address);
  } catch (error) {
    // The error names the number of the duplicate.
    if (error instanceof PassfdError && 'fd' in address) {
      throw new PassfdError(error.code, `fd:${address.fd} cannot be used: ${error.message}`, {
        cause: error,
      });
    }
    // As in Node (net, server.listen): IPv4 alone on a machine without IPv6.
    const isWithoutIpv6 = error instanceof PassfdError && error.code === 'ERR_ADDRESS';
    if (!isWithoutIpv6 || !('host' in address) || address.host !== ANY_HOST) throw error;
    return dispatcher.listen({ host: '0.0.0.0', port: address.port });
  }
}
