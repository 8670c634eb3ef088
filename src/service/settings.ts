// The settings of a service.
import type { Overload, PolicyName } from '../dispatcher/index.js';
import { resolve } from 'node:path';

import { hasFile, type WrittenAddress } from './listen-address.js';
import type { LogLevel } from './log.js';

/** What `passfd run` and `passfd serve` were asked for. */
export interface ServiceFlags {
  readonly control: string;
  readonly authkeyFile?: string;
  readonly listen?: readonly WrittenAddress[];
  readonly workers?: number;
  readonly prefixOutput?: true;
  readonly rawControl?: string;
  readonly allowUid?: readonly number[];
  readonly allowGid?: readonly number[];
  readonly policy: PolicyName;
  readonly overload: Overload;
  readonly backlog?: number;
  readonly drainTimeout: number;
  readonly readyTimeout: number;
  readonly orphanTimeout: number;
  readonly maxExtra: number;
  readonly workerEnvFile?: string;
  readonly logLevel: LogLevel;
}

/** Workers and later generations may be started in another directory of the same name, so paths of sockets are absolute. */
export function withAbsolutePaths(flags: ServiceFlags, control = resolve(flags.control)): ServiceFlags {
  const { rawControl, listen } = flags;
  return {
    ...flags,
    control,
    ...(rawControl !== undefined && { rawControl: resolve(rawControl) }),
    ...(listen && { listen: listen.map(withAbsolutePath) }),
  };
}

function withAbsolutePath(address: WrittenAddress): WrittenAddress {
  return hasFile(address) ? { path: resolve(address.path) } : address;
}
