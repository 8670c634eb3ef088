// The app that a command is given: checked before anything is started.
import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';

import type { Command } from 'commander';

import { RUN_THE_APP } from '../supervisor/index.js';

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
