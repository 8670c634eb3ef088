// Has the service manager keep this service's listening sockets, for the process that it starts next.
import type { Dispatcher } from '../dispatcher/index.js';
import { storedName, type Notifier } from '../systemd/index.js';
import type { Life } from './life.js';

/** Does nothing without a service manager. */
export function keepSockets(
  dispatcher: Dispatcher,
  notifier: Notifier,
  { controlPath, life }: { readonly controlPath: string; readonly life: Life },
): void {
  dispatcher.on('listening', (address, { fd, isInherited }) => {
    if (!isInherited) notifier.store(storedName(address), [{ fd }]);
  });
  dispatcher.on('relistened', (address, { fd }) => {
    if ('path' in address && address.path === controlPath) return;
    notifier.removeStored(storedName(address));
    notifier.store(storedName(address), [{ fd }]);
  });
  dispatcher.on('unlistened', (address) => {
    if (!life.isEnding) notifier.removeStored(storedName(address));
  });
}
