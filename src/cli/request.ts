// Connects a command to the dispatcher that its options name.
import { trustedUsers } from '../handoff/index.js';
import { readAuthkey } from '../service/index.js';
import { ControlClient } from './control-client.js';
import type { ClientFlags } from './options.js';
import { warn } from './output.js';

/** The caller owns the connection. */
export async function connectAs(flags: ClientFlags): Promise<ControlClient> {
  return ControlClient.connect(flags.control, await readAuthkey(flags, warn), trustedUsers(flags.trustUid));
}
