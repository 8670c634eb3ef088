// The options that several commands have, each with the words of its help.
import { InvalidArgumentError, Option, type Command } from 'commander';

import { policyNames, type Overload, type PolicyName } from '../dispatcher/index.js';
import {
  DEFAULT_DRAIN_TIMEOUT_MS,
  DEFAULT_ORPHAN_TIMEOUT_MS,
  DEFAULT_READY_TIMEOUT_MS,
  defaultControlPath,
} from '../handoff/index.js';
import { logLevels, type LogLevel } from '../service/index.js';
import { parseAddress } from './address.js';
import { parseBacklog, parseMaxExtra, parseMilliseconds, parseUserId, parseWorkers } from './numbers.js';

/** Of every command. */
export interface ControlFlags {
  readonly control: string;
  readonly authkeyFile?: string;
}

/** Of the commands that go to a running dispatcher. */
export interface ClientFlags extends ControlFlags {
  readonly trustUid?: readonly number[];
}

function addControlOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--control <path>', 'the Unix socket where workers and commands reach the dispatcher')
        .argParser(parsePath)
        .default(defaultControlPath()),
    )
    .addOption(
      new Option(
        '--authkey-file <file>',
        'a file with the key that dispatcher, workers and commands share; or set PASSFD_AUTHKEY',
      ).argParser(parsePath),
    );
}

export function addClientOptions(command: Command): Command {
  return addControlOptions(command).addOption(
    repeatable(
      '--trust-uid <uid>',
      "trust a dispatcher of this user, beside root's and your own (repeatable); or set PASSFD_TRUST_UIDS",
      parseUserId,
    ),
  );
}

export function addServiceOptions(command: Command, listen: Option): Command {
  command
    .addOption(
      new Option(
        '--workers <n>',
        'processes to start: a number, or "max" for one per core, which is the default',
      ).argParser(parseWorkers),
    )
    .addOption(listen)
    .addOption(
      new Option('--policy <name>', 'the rule that chooses the worker for a connection')
        .choices(policyNames)
        .default('round-robin' satisfies PolicyName),
    )
    .addOption(
      new Option('--overload <how>', 'when no worker has room: let clients wait, or close their connections')
        .choices(['wait', 'refuse'] satisfies Overload[])
        .default('wait' satisfies Overload),
    )
    .addOption(
      new Option(
        '--backlog <n>',
        'connections that may wait in the kernel for each address (default: 511)',
      ).argParser(parseBacklog),
    )
    .addOption(
      new Option('--drain-timeout <ms>', 'time that workers have to finish when they are stopped or replaced')
        .argParser(parseMilliseconds)
        .default(DEFAULT_DRAIN_TIMEOUT_MS),
    )
    .addOption(
      new Option(
        '--ready-timeout <ms>',
        'time that a new worker or dispatcher has to be ready; then one that replaces another is given up, any other is logged, and an address that no worker serves is closed',
      )
        .argParser(parseMilliseconds)
        .default(DEFAULT_READY_TIMEOUT_MS),
    )
    .addOption(
      new Option(
        '--orphan-timeout <ms>',
        'time that workers wait for the next dispatcher when this one is killed; then they finish and end',
      )
        .argParser(parseMilliseconds)
        .default(DEFAULT_ORPHAN_TIMEOUT_MS),
    )
    .addOption(
      new Option('--max-extra <n>', 'processes beyond the wanted number that a rolling restart may run')
        .argParser(parseMaxExtra)
        .default(1),
    )
    // Node itself takes `--env-file`, wherever it stands.
    .addOption(
      new Option(
        '--worker-env-file <file>',
        'variables for the workers, read whenever one is started',
      ).argParser(parsePath),
    )
    .option('--prefix-output', 'begin each line that a worker prints with its number, as "[2] "');
  return addControlOptions(command)
    .addOption(
      new Option(
        '--raw-control <path>',
        'a second socket, for workers that only take descriptors and answer "OK"',
      ).argParser(parsePath),
    )
    .addOption(
      repeatable('--allow-uid <uid>', 'let processes of this user join too (repeatable)', parseUserId),
    )
    .addOption(
      repeatable('--allow-gid <gid>', 'let processes of this group join too (repeatable)', parseUserId),
    )
    .addOption(
      new Option('--log-level <level>', 'lowest level that is logged on standard error')
        .choices(logLevels)
        .default('info' satisfies LogLevel),
    );
}

export function listenOption(description: string): Option {
  return repeatable(
    '--listen <addr>',
    `${description}: PORT, HOST:PORT, [::1]:PORT, unix:PATH, fd:N or fd:NAME (repeatable)`,
    parseAddress,
  );
}

/** @throws {InvalidArgumentError} for what a shell makes of a variable that is not set */
function parsePath(text: string): string {
  if (text !== '') return text;
  throw new InvalidArgumentError('A path is not empty.');
}

/** Not `<value...>`, which would take the arguments behind it too. */
export function repeatable(flags: string, description: string, parse: (text: string) => unknown): Option {
  return new Option(flags, description).argParser(
    (text: string, before: readonly unknown[] | undefined): readonly unknown[] => [
      ...(before ?? []),
      parse(text),
    ],
  );
}
