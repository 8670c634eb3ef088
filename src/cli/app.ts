// The command that runs an unmodified app: Node as it runs here, with the module that takes over the app's servers.
import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs';
import { delimiter, isAbsolute, join, relative, resolve } from 'node:path';

import type { Command } from 'commander';

import { namedDirectory, RUN_THE_APP } from '../supervisor/index.js';
import { inheritedOptions } from './inspect.js';

/** Ends with a usage error when Node would find nothing to run: every process would only say the same, again and again. */
export function requireApp(command: Command, app: string): void {
  if (app === '') command.error('error: the name of the app is empty');
  if (whatNodeTries(app).some(isFile)) {
    const program = isFile(app) ? programIn(app) : undefined;
    if (program !== undefined) {
      command.error(`error: ${app} is ${program}, and no JavaScript: ${RUN_THE_APP}`);
    }
    return;
  }
  if (existsSync(app)) {
    command.error(`error: the directory ${app} has no index.js, and no package.json that says what to run`);
  }
  const missing = `error: there is no file ${app} in ${process.cwd()}`;
  command.error(isCommand(app) ? `${missing}, and ${app} is a command: ${RUN_THE_APP}` : missing);
}

/** Enough for the first line of a script. */
const HEAD_BYTES = 256;

/** Those of scripts that Node cannot run. It passes over the first line of any other. */
const INTERPRETERS = /^#!\s*\S*?((?:[/ ](?:ba|da|z|k|fi)?sh)|(?:[/ ](?:python|perl|ruby|php)[\d.]*))(?:\s|$)/;

/** A second line that a shell runs, to pass the file on to Node, and that is a string or a comment to Node. */
const BOTH = /^#!.*\n(?:(["']):\1|\/\/)/;

/** What a file is that Node cannot run; undefined of one that it may. */
function programIn(path: string): string | undefined {
  const head = headOf(path);
  if (head.startsWith('\x7fELF')) return 'a program of this machine';
  const interpreter = INTERPRETERS.exec(head)?.[1];
  if (interpreter === undefined || BOTH.test(head)) return undefined;
  return `a script for ${interpreter.slice(1)}`;
}

/** Nothing of a file that cannot be read: Node says why. */
function headOf(path: string): string {
  try {
    const fd = openSync(path, 'r');
    try {
      const head = Buffer.alloc(HEAD_BYTES);
      return head.toString('latin1', 0, readSync(fd, head));
    } finally {
      closeSync(fd);
    }
  } catch {
    return '';
  }
}

/** Whether a shell, or npm in a script of this package, would find a command by that name. */
function isCommand(name: string): boolean {
  if (name.includes('/')) return false;
  const directories = (process.env['PATH'] ?? '').split(delimiter);
  return [join('node_modules', '.bin'), ...directories].some((directory) => isFile(join(directory, name)));
}

/** Node finds an app without its extension too, and in a directory. */
function whatNodeTries(app: string): string[] {
  return [app, `${app}.js`, join(app, 'index.js'), join(app, 'package.json')];
}

/** Nothing is a file that cannot be looked at: its name is too long, or its directory is another user's. */
function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

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
