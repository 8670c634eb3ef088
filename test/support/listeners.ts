// Socket files as they are found in the world: of a listener that ended without removing its file.
import { rename } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';

import { listen } from '../../src/fd/index.js';

/** Why tests of IPv6 cannot run here, or false when they can. */
export const withoutIpv6: string | false = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
)
  ? false
  : 'needs ::1';

/** Leaves a socket file at the path behind which nobody listens. */
export async function leaveSocketFile(path: string, mode?: number): Promise<void> {
  const elsewhere = `${path}~`;
  const acceptor = await listen(elsewhere, mode === undefined ? {} : { mode });
  await rename(elsewhere, path); // so that close does not find it
  await acceptor.close();
}
