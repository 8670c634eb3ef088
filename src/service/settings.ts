// The settings of a service: their names, limits and defaults, and which source wins.
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';

import * as v from 'valibot';

import { acceptModes, policyNames, type AcceptMode, type Overload } from '../dispatcher/index.js';
import { MAX_TIMER_MS } from '../fd/internal.js';
import {
  DEFAULT_DRAIN_TIMEOUT_MS,
  DEFAULT_ORPHAN_TIMEOUT_MS,
  DEFAULT_READY_TIMEOUT_MS,
  defaultControlPath,
  MAX_USER_ID,
} from '../handoff/index.js';
import { hasFile, type WrittenAddress } from './listen-address.js';
import { logLevels, type LogLevel } from './log.js';

/** More processes than this are a typing error. */
export const MAX_WORKERS = 1024;

/** An int in listen(2). The kernel caps it at `net.core.somaxconn`. */
export const MAX_BACKLOG = 0x7fff_ffff;

export const overloads = ['wait', 'refuse'] as const satisfies readonly Overload[];

/** The values of settings that no source has. */
export const defaultSettings = {
  accept: 'auto' satisfies AcceptMode,
  overload: 'wait' satisfies Overload,
  drainTimeoutMs: DEFAULT_DRAIN_TIMEOUT_MS,
  readyTimeoutMs: DEFAULT_READY_TIMEOUT_MS,
  orphanTimeoutMs: DEFAULT_ORPHAN_TIMEOUT_MS,
  maxExtra: 1,
  prefixOutput: false,
  logLevel: 'info' satisfies LogLevel,
} as const;

const path = v.pipe(v.string(), v.minLength(1));
const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const processes = v.pipe(count, v.maxValue(MAX_WORKERS));
const durationMs = v.pipe(count, v.maxValue(MAX_TIMER_MS));
const userIds = v.array(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(MAX_USER_ID)));

const schema = v.strictObject({
  controlPath: v.optional(path, () => defaultControlPath()),
  rawControlPath: v.optional(path),
  authkeyFile: v.optional(path),
  /** None: workers choose the addresses. */
  listen: v.optional(
    v.custom<readonly WrittenAddress[]>((value) => Array.isArray(value)),
    () => [],
  ),
  /** How many processes to start, where the service starts any. Default: one per core. */
  workers: v.optional(processes, () => availableParallelism()),
  prefixOutput: v.optional(v.boolean(), defaultSettings.prefixOutput),
  allowUids: v.optional(userIds, () => []),
  allowGids: v.optional(userIds, () => []),
  accept: v.optional(v.picklist(acceptModes), defaultSettings.accept),
  /** Undefined: none was named, so none is needed for direct accept. */
  policy: v.optional(v.picklist(policyNames)),
  overload: v.optional(v.picklist(overloads), defaultSettings.overload),
  /** Default: that of `listen`. */
  backlog: v.optional(v.pipe(count, v.maxValue(MAX_BACKLOG))),
  /** Default: no limit. */
  recipeConcurrency: v.optional(count),
  drainTimeoutMs: v.optional(durationMs, defaultSettings.drainTimeoutMs),
  readyTimeoutMs: v.optional(durationMs, defaultSettings.readyTimeoutMs),
  orphanTimeoutMs: v.optional(durationMs, defaultSettings.orphanTimeoutMs),
  maxExtra: v.optional(processes, defaultSettings.maxExtra),
  workerEnvFile: v.optional(path),
  logLevel: v.optional(v.picklist(logLevels), defaultSettings.logLevel),
});

/** All settings, checked. Durations are in milliseconds. */
export type ServiceSettings = Readonly<v.InferOutput<typeof schema>>;

/** Some settings, from one source. */
export type SettingsSource = Readonly<v.InferInput<typeof schema>>;

/**
 * @param sources the strongest first: options, then environment variables, then a file. Defaults come last
 * @throws {TypeError} when a value is not allowed
 */
export function settingsFrom(...sources: readonly SettingsSource[]): ServiceSettings {
  const given = sources.toReversed().flatMap((source) => Object.entries(source));
  const result = v.safeParse(schema, Object.fromEntries(given.filter(([, value]) => value !== undefined)));
  if (!result.success) throw new TypeError(`Settings are wrong: ${v.summarize(result.issues)}`);
  return result.output;
}

/** Workers and later generations may be started in another directory of the same name, so paths of sockets are absolute. */
export function withAbsolutePaths(
  settings: ServiceSettings,
  controlPath = resolve(settings.controlPath),
): ServiceSettings {
  const { rawControlPath, listen } = settings;
  return {
    ...settings,
    controlPath,
    ...(rawControlPath !== undefined && { rawControlPath: resolve(rawControlPath) }),
    listen: listen.map((address) => (hasFile(address) ? { path: resolve(address.path) } : address)),
  };
}
