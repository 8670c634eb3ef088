// The settings of a service.
import type { Overload, PolicyName } from '../dispatcher/index.js';
import type { WrittenAddress } from './listen-address.js';
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
