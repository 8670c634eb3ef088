// The options that several commands have, with their help; and the settings of a service that they make.
import { InvalidArgumentError, Option, type Command } from 'commander';

import {
  acceptModes,
  policyNames,
  type AcceptMode,
  type Overload,
  type PolicyName,
} from '../dispatcher/index.js';
import { defaultControlPath } from '../handoff/index.js';
import {
  defaultSettings,
  logLevels,
  overloads,
  settingsFrom,
  type LogLevel,
  type ServiceSettings,
  type WrittenAddress,
} from '../service/index.js';
import { parseAddress } from './address.js';
import {
  parseBacklog,
  parseConcurrency,
  parseMaxExtra,
  parseMilliseconds,
  parseUserId,
  parseWorkers,
} from './numbers.js';

/** Of every command. */
export interface ControlFlags {
  readonly control: string;
  readonly authkeyFile?: string;
}

/** Of the commands that connect to a running dispatcher. */
export interface ClientFlags extends ControlFlags {
  readonly trustUid?: readonly number[];
}

/** Of run and serve. */
export interface ServiceFlags extends ControlFlags {
  readonly listen?: readonly WrittenAddress[];
  readonly workers?: number;
  readonly prefixOutput?: true;
  readonly rawControl?: string;
  readonly allowUid?: number[];
  readonly allowGid?: number[];
  readonly accept: AcceptMode;
  readonly policy?: PolicyName;
  readonly overload: Overload;
  readonly backlog?: number;
  readonly recipeConcurrency?: number;
  readonly drainTimeout: number;
  readonly readyTimeout: number;
  readonly orphanTimeout: number;
  readonly maxExtra: number;
  readonly workerEnvFile?: string;
  readonly logLevel: LogLevel;
}

/** The settings that the options of run or serve give. */
export function settingsOf(command: Command): ServiceSettings {
  const flags: Partial<ServiceFlags> = Object.fromEntries(
    // The settings have the defaults too, and other sources come between.
    Object.entries(command.opts()).filter(([name]) => command.getOptionValueSource(name) !== 'default'),
  );
  const settings = settingsFrom({
    controlPath: flags.control,
    rawControlPath: flags.rawControl,
    authkeyFile: flags.authkeyFile,
    listen: flags.listen,
    workers: flags.workers,
    prefixOutput: flags.prefixOutput,
    allowUids: flags.allowUid,
    allowGids: flags.allowGid,
    accept: flags.accept,
    policy: flags.policy,
    overload: flags.overload,
    backlog: flags.backlog,
    recipeConcurrency: flags.recipeConcurrency,
    drainTimeoutMs: flags.drainTimeout,
    readyTimeoutMs: flags.readyTimeout,
    orphanTimeoutMs: flags.orphanTimeout,
    maxExtra: flags.maxExtra,
    workerEnvFile: flags.workerEnvFile,
    logLevel: flags.logLevel,
  });
  requireAcceptMode(command, settings);
  return settings;
}

/** Ends with a usage error when the mode contradicts another option, or this system does not have it. */
export function requireAcceptMode(
  command: Command,
  { accept, policy, overload }: Pick<ServiceSettings, 'accept' | 'policy' | 'overload'>,
  platform: NodeJS.Platform = process.platform,
): void {
  if (accept !== 'direct') return;
  const other =
    policy !== undefined ? `--policy ${policy}` : overload === 'refuse' ? '--overload refuse' : undefined;
  if (other !== undefined) {
    command.error(
      `error: ${other} needs the dispatcher to accept each connection: leave it out, or use --accept hand-off`,
    );
  }
  if (platform !== 'linux') {
    command.error('error: --accept direct needs Linux: use --accept hand-off');
  }
}

export function addServiceOptions(command: Command, workers: string, listen: Option): Command {
  command
    .addOption(new Option('--workers <n>', workers).argParser(parseWorkers))
    .addOption(listen)
    .addOption(
      new Option(
        '--accept <mode>',
        'who accepts connections: the workers themselves ("direct", Linux), or the dispatcher, which hands them off ("hand-off"); in this release "auto" is "hand-off"',
      )
        .choices(acceptModes)
        .default(defaultSettings.accept),
    )
    .addOption(
      new Option(
        '--policy <name>',
        'rule by which the dispatcher chooses the worker for a connection (default: "round-robin")',
      ).choices(policyNames),
    )
    .addOption(
      new Option('--overload <action>', 'when all workers are full: let new connections wait, or close them')
        .choices(overloads)
        .default(defaultSettings.overload),
    )
    .addOption(
      new Option(
        '--backlog <n>',
        'connections that may wait in the kernel for each address (default: 511)',
      ).argParser(parseBacklog),
    )
    .addOption(
      new Option(
        '--recipe-concurrency <n>',
        'connections that one Python or raw worker may have open at a time (default: no limit)',
      ).argParser(parseConcurrency),
    )
    .addOption(
      new Option(
        '--drain-timeout <ms>',
        'time that a worker has to finish its connections when it is stopped or replaced; after it, the worker gets SIGTERM, and SIGKILL 2000 ms later',
      )
        .argParser(parseMilliseconds)
        .default(defaultSettings.drainTimeoutMs),
    )
    .addOption(
      new Option(
        '--ready-timeout <ms>',
        'time that a new worker or dispatcher has to become ready. After it, a restart or takeover fails; at any other start, the worker is logged and goes on; an address that no worker serves is closed',
      )
        .argParser(parseMilliseconds)
        .default(defaultSettings.readyTimeoutMs),
    )
    .addOption(
      new Option(
        '--orphan-timeout <ms>',
        'time that workers wait for a new dispatcher when theirs was killed; after it, they drain and exit',
      )
        .argParser(parseMilliseconds)
        .default(defaultSettings.orphanTimeoutMs),
    )
    .addOption(
      new Option('--max-extra <n>', 'extra processes that a rolling restart may run at a time')
        .argParser(parseMaxExtra)
        .default(defaultSettings.maxExtra),
    )
    // Node itself takes `--env-file`, wherever it stands.
    .addOption(
      new Option(
        '--worker-env-file <file>',
        'file with environment variables for workers, read at each start of a worker',
      ).argParser(parsePath),
    )
    .option('--prefix-output', 'begin each line that a worker prints with its number, as in "[2] "');
  return addControlOptions(command)
    .addOption(
      new Option(
        '--raw-control <path>',
        'second control socket, for workers that only receive descriptors and answer "OK"',
      ).argParser(parsePath),
    )
    .addOption(
      repeatable(
        '--allow-uid <uid>',
        'let processes of this user join as workers, in addition to root and the user of the dispatcher (repeatable)',
        parseUserId,
      ),
    )
    .addOption(
      repeatable(
        '--allow-gid <gid>',
        'let processes of this group join as workers too (repeatable)',
        parseUserId,
      ),
    )
    .addOption(
      new Option('--log-level <level>', 'lowest level to log, on standard error')
        .choices(logLevels)
        .default(defaultSettings.logLevel),
    );
}

export function addClientOptions(command: Command): Command {
  return addControlOptions(command).addOption(
    repeatable(
      '--trust-uid <uid>',
      'trust a dispatcher of this user, in addition to root and your own user (repeatable); also: PASSFD_TRUST_UIDS',
      parseUserId,
    ),
  );
}

function addControlOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--control <path>',
        'Unix socket where workers and commands connect to the dispatcher; each service needs a path of its own',
      )
        .argParser(parsePath)
        .default(defaultControlPath(), describeDefaultControl()),
    )
    .addOption(
      new Option(
        '--authkey-file <file>',
        'file with the key that dispatcher, workers and commands share; also: PASSFD_AUTHKEY',
      ).argParser(parsePath),
    );
}

/** Where the default control path comes from, and what it is here. */
function describeDefaultControl(): string {
  return `$XDG_RUNTIME_DIR/passfd/control, or passfd-UID/control in the directory for temporary files; here ${defaultControlPath()}`;
}

export function listenOption(description: string): Option {
  return repeatable('--listen <addr>', `${description}: see Addresses below (repeatable)`, parseAddress);
}

/** Follows the options in the help of run and serve. */
export const ADDRESSES = `
Times are in milliseconds.

Addresses:
  8080                port 8080 at every address of this machine, IPv4 and IPv6
  127.0.0.1:8080      port 8080 at this address only
  [::1]:8080          the same, for an IPv6 address
  unix:/run/app.sock  a Unix socket; unix:@NAME is an abstract name
  fd:3                an inherited listening socket, by its descriptor
  fd:web              an inherited listening socket, by its name: FileDescriptorName= of systemd
`;

/** @throws {InvalidArgumentError} for an empty path, which a shell makes of a variable that is not set */
function parsePath(text: string): string {
  if (text !== '') return text;
  throw new InvalidArgumentError('A path is not empty.');
}

/** Not `<value...>`: that takes the arguments after it too. */
export function repeatable(flags: string, description: string, parse: (text: string) => unknown): Option {
  return new Option(flags, description).argParser(
    (text: string, before: readonly unknown[] | undefined): readonly unknown[] => [
      ...(before ?? []),
      parse(text),
    ],
  );
}
