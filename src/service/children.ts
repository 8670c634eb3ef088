// The worker processes that a service starts, and what it gives them in their environment.
import type { SupervisorOptions } from '../supervisor/index.js';
import type { ServiceSettings } from './settings.js';

/** The command line of a worker process. */
export type WorkerCommand = SupervisorOptions['command'];

/** @param service the fingerprint of the service: a worker names it when it returns after a crash of the dispatcher */
export function supervisorOptions(
  settings: ServiceSettings,
  command: WorkerCommand,
  { authkey, service }: { readonly authkey: string | undefined; readonly service: string },
): SupervisorOptions {
  const { drainTimeoutMs, readyTimeoutMs, orphanTimeoutMs, workerEnvFile, workers } = settings;
  const isSpread = workers > 1;
  return {
    command,
    count: workers,
    controlPath: settings.controlPath,
    drainTimeoutMs,
    readyTimeoutMs,
    maxExtra: settings.maxExtra,
    output: settings.prefixOutput ? 'prefixed' : 'inherit',
    ...(workerEnvFile !== undefined && { envFile: workerEnvFile }),
    env: {
      // A child may join by the control socket: at once, or when its dispatcher was killed.
      PASSFD_AUTHKEY: authkey,
      // It may become another user before it does.
      PASSFD_TRUST_UIDS: String(process.getuid?.() ?? 0),
      PASSFD_ORPHAN_TIMEOUT: String(orphanTimeoutMs),
      PASSFD_DRAIN_TIMEOUT: String(drainTimeoutMs),
      PASSFD_SERVICE: service,
      // Sessions are split without any policy too.
      PASSFD_POLICY: isSpread ? (settings.policy ?? 'none') : undefined,
    },
  };
}
