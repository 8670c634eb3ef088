// The command lines of Node: one that runs an unmodified app as a worker, and the one that this process runs.
import { existsSync } from 'node:fs';
import { delimiter, isAbsolute, join, relative, resolve } from 'node:path';

import { namedDirectory } from '../supervisor/index.js';
import { inheritedOptions } from './inspect.js';

export function appCommand(app: string, args: readonly string[]): [program: string, ...args: string[]] {
  const register = import.meta.resolve('passfd/register');
  return [nodeProgram(), ...inheritedOptions(process), '--import', register, app, ...args];
}

/** The command that this process runs, as it is to be found now: code and Node may have been replaced. */
export function ownCommand(): [program: string, ...args: string[]] {
  const [, script = '', ...args] = process.argv;
  return [nodeProgram(), ...inheritedOptions(process), asNamed(script), ...args];
}

/**
 * Node as it was called, and not where that led: what stands there is another version after an update. `node` is looked
 * up in `PATH` whenever it is started.
 */
function nodeProgram(): string {
  const { argv0, execPath } = process;
  if (isAbsolute(argv0)) return existsSync(argv0) ? argv0 : execPath;
  if (argv0.includes('/')) return execPath;
  const directories = (process.env['PATH'] ?? '').split(delimiter);
  return directories.some((directory) => existsSync(join(directory, argv0))) ? argv0 : execPath;
}

/** By the name of the working directory, where that is a symbolic link that a deployment swaps. */
function asNamed(path: string): string {
  const named = namedDirectory();
  const fromHere = relative(process.cwd(), path);
  return named === undefined || fromHere.startsWith('..') || isAbsolute(fromHere)
    ? path
    : resolve(named, fromHere);
}
