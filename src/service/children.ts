// The worker processes that a service starts, and what it gives them in their environment.
import type { SupervisorOptions } from '../supervisor/index.js';
import type { ServiceFlags } from './settings.js';

/** The worker processes to start. */
export interface Children {
  readonly command: SupervisorOptions['command'];
  readonly count: number;
}

/** @param service the fingerprint of the service: a worker names it when it returns after a crash of the dispatcher */
export function supervisorOptions(
  flags: ServiceFlags,
  { command, count }: Children,
  { authkey, service }: { readonly authkey: string | undefined; readonly service: string },
): SupervisorOptions {
  const isSpread = count > 1;
  const { control, drainTimeout, orphanTimeout, maxExtra, readyTimeout, workerEnvFile, prefixOutput } = flags;
  return {
    command,
    count,
    controlPath: control,
    drainTimeoutMs: drainTimeout,
    readyTimeoutMs: readyTimeout,
    maxExtra,
    output: prefixOutput === true ? 'prefixed' : 'inherit',
    ...(workerEnvFile !== undefined && { envFile: workerEnvFile }),
    env: {
      // A child may join by the control socket: at once, or when its dispatcher was killed.
      PASSFD_AUTHKEY: authkey,
      // It may become another user before it does.
      PASSFD_TRUST_UIDS: String(process.getuid?.() ?? 0),
      PASSFD_ORPHAN_TIMEOUT: String(orphanTimeout),
      PASSFD_DRAIN_TIMEOUT: String(drainTimeout),
      PASSFD_SERVICE: service,
      PASSFD_POLICY: isSpread ? flags.policy : undefined,
    },
  };
}
