// The command line, environment and directory of a child, read again at each start, so that changes take effect.
import { readFileSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseEnv } from 'node:util';

import { CHANNEL_FD, type Start } from './host.js';

/** `inherit`: a child writes to the output of this process. `prefixed`: this process puts `[1] ` before each of its lines. */
export type OutputMode = 'inherit' | 'prefixed';

export interface StartOptions {
  /** The program of a child and its arguments. */
  readonly command: readonly [program: string, ...args: string[]];
  /** The path of the dispatcher's control socket. Children get it as `PASSFD_CONTROL`. */
  readonly controlPath?: string;
  /** Variables for the children. They win over `envFile`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /**
   * A file in dotenv format, read at each start. It wins over the environment of this process. If it cannot be read, the
   * start fails.
   */
  readonly envFile?: string;
  /** Default: `inherit`. */
  readonly output?: OutputMode;
}

/** The parts of `process` that a start depends on. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: () => string;
}

/** @returns a function that gives what to start in a slot now. It throws when a file or the directory cannot be read */
export function createStarts(
  options: StartOptions,
  surroundings: Surroundings = process,
): (id: number) => Start {
  const { command, controlPath, env = {}, envFile, output } = options;
  const [program, ...args] = command;
  const directory = directoryNamedBy(surroundings);
  const envPath = envFile === undefined ? undefined : resolve(directory ?? surroundings.cwd(), envFile);
  return (id) => ({
    program,
    args,
    env: {
      ...surroundings.env,
      ...(envPath !== undefined && readEnv(envPath)),
      ...env,
      PASSFD_CHANNEL_FD: String(CHANNEL_FD),
      PASSFD_WORKER_ID: String(id),
      PASSFD_CONTROL: controlPath,
      // For workers without a channel.
      PASSFD_JOIN: undefined,
    },
    cwd: checked(directory),
    prefix: output === 'prefixed' ? prefixOf(id) : undefined,
  });
}

export function prefixOf(id: number): string {
  return `[${id}] `;
}

/** The working directory of this process by its name in the shell. Undefined when that name leads elsewhere now. */
export function namedDirectory(): string | undefined {
  return directoryNamedBy(process);
}

/**
 * `PWD` may contain a symbolic link that a deployment swaps. The kernel keeps the directory that the link led to at first.
 * Undefined when `PWD` names another directory: a program may inherit a wrong `PWD`.
 */
function directoryNamedBy({ env, cwd }: Surroundings): string | undefined {
  const { PWD: name } = env;
  if (name === undefined || resolve(name) !== name) return undefined;
  try {
    const [named, actual] = [name, cwd()].map((path) => statSync(path, { bigint: true }));
    return named?.dev === actual?.dev && named?.ino === actual?.ino ? name : undefined;
  } catch {
    return undefined;
  }
}

/** Checked here, because for a missing directory Node reports that the program is missing (ENOENT of spawn). */
function checked(directory: string | undefined): string | undefined {
  if (directory === undefined) return undefined;
  try {
    if (statSync(directory).isDirectory()) return directory;
  } catch (cause) {
    throw new Error(`The working directory ${directory} cannot be entered: ${(cause as Error).message}`, {
      cause,
    });
  }
  throw new Error(`The working directory ${directory} is not a directory any more`);
}

function readEnv(path: string): Record<string, string | undefined> {
  try {
    return parseEnv(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw new Error(`The environment file ${path} cannot be read: ${(cause as Error).message}`, { cause });
  }
}
