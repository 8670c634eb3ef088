// What is started in a slot: looked up anew at each start, so that new code, environment and settings take effect.
import { readFileSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseEnv } from 'node:util';

import { CHANNEL_FD, type Start } from './host.js';

/** Where the output of a child goes: it is this process's own, or each line of it comes here and gets a `[1] `. */
export type Output = 'inherit' | 'prefixed';

export interface StartOptions {
  /** The program of a child and its arguments. */
  readonly command: readonly [program: string, ...args: string[]];
  /** The dispatcher's control socket, which children can join by too: `PASSFD_CONTROL` of theirs. */
  readonly controlPath?: string;
  /** The environment of the children, beside what they are told of their channel. It wins over `envFile`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /**
   * A file in the format of dotenv that is read at each start. It wins over the environment of this process, which cannot
   * change any more. One that cannot be read fails the start.
   */
  readonly envFile?: string;
  readonly output?: Output;
}

/** `process` is one. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: () => string;
}

/** @returns what is to be started in a slot now; it throws when that cannot be told */
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
      // Of a worker that joins by the control socket; this one has a channel.
      PASSFD_JOIN: undefined,
    },
    cwd: checked(directory),
    prefix: output === 'prefixed' ? prefixOf(id) : undefined,
  });
}

export function prefixOf(id: number): string {
  return `[${id}] `;
}

/** The working directory of this process, by the name that it had in the shell, where it still has one. */
export function namedDirectory(): string | undefined {
  return directoryNamedBy(process);
}

/**
 * The working directory as the shell names it, which may be by way of a symbolic link that a deployment swaps; the kernel
 * itself keeps the directory that the link led to. Undefined when `PWD` names another one, as a program may inherit it.
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

/** Node says of a missing directory that the program is missing (ENOENT of spawn). */
function checked(directory: string | undefined): string | undefined {
  if (directory === undefined) return undefined;
  try {
    if (statSync(directory).isDirectory()) return directory;
  } catch (cause) {
    throw new Error(`The working directory ${directory} cannot be entered: ${(cause as Error).message}`, {
      cause,
    });
  }
  throw new Error(`The working directory ${directory} is no directory any more`);
}

function readEnv(path: string): Record<string, string | undefined> {
  try {
    return parseEnv(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw new Error(`The environment file ${path} cannot be read: ${(cause as Error).message}`, { cause });
  }
}
