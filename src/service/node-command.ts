// Command lines of Node: to run an unmodified app as a worker, and to start this process again.
import { existsSync } from 'node:fs';
import { delimiter, isAbsolute, join, relative, resolve } from 'node:path';

import { namedDirectory } from '../supervisor/internal.js';
import { inheritedOptions } from './inspect.js';

export function appCommand(app: string, args: readonly string[]): [program: string, ...args: string[]] {
  const register = import.meta.resolve('passfd/register');
  return [nodeProgram(), ...inheritedOptions(process), '--import', register, app, ...args];
}

/** The command of this process, looked up now: its code and its Node may have been replaced. */
export function ownCommand(): [program: string, ...args: string[]] {
  const [, script = '', ...args] = process.argv;
  return [nodeProgram(), ...inheritedOptions(process), asNamed(script), ...args];
}

/**
 * Node by the path or name that this process was started with, not by `execPath`: after an update, the same path or name
 * leads to another version. A name is looked up in `PATH` at each start.
 */
function nodeProgram(): string {
  const { argv0, execPath } = process;
  if (isAbsolute(argv0)) return existsSync(argv0) ? argv0 : execPath;
  if (argv0.includes('/')) return execPath;
  const directories = (process.env['PATH'] ?? '').split(delimiter);
  return directories.some((directory) => existsSync(join(directory, argv0))) ? argv0 : execPath;
}

/** A path in the working directory is named by the directory's symbolic link, which a deployment swaps. */
function asNamed(path: string): string {
  const named = namedDirectory();
  const fromHere = relative(process.cwd(), path);
  return named === undefined || fromHere.startsWith('..') || isAbsolute(fromHere)
    ? path
    : resolve(named, fromHere);
}
