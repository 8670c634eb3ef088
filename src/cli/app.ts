// Checks the app on the command line before anything is started.
import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';

import type { Command } from 'commander';

import { RUN_THE_APP } from '../supervisor/internal.js';

/** Ends with a usage error when Node could not run the app: otherwise every worker would fail, in a crash loop. */
export function requireApp(command: Command, app: string): void {
  if (app === '') command.error('error: the name of the app is empty');
  if (whatNodeTries(app).some(isFile)) {
    const program = isFile(app) ? programIn(app) : undefined;
    if (program !== undefined) {
      command.error(`error: ${app} is ${program}, not JavaScript: ${RUN_THE_APP}`);
    }
    return;
  }
  if (existsSync(app)) {
    command.error(`error: the directory ${app} has no index.js and no package.json with a main`);
  }
  const missing = `error: there is no file ${app} in ${process.cwd()}`;
  command.error(isCommand(app) ? `${missing}, and ${app} is a command: ${RUN_THE_APP}` : missing);
}

/** Enough for the first line of a script. */
const HEAD_BYTES = 256;

/** Interpreters of scripts that Node cannot run. Node skips the first line of any other script. */
const INTERPRETERS = /^#!\s*\S*?((?:[/ ](?:ba|da|z|k|fi)?sh)|(?:[/ ](?:python|perl|ruby|php)[\d.]*))(?:\s|$)/;

/** A script for both: its second line makes a shell run Node, and is a string or a comment for Node. */
const BOTH = /^#!.*\n(?:(["']):\1|\/\/)/;

/** @returns what a file is that Node cannot run; undefined for one that it may be able to run */
function programIn(path: string): string | undefined {
  const head = headOf(path);
  if (head.startsWith('\x7fELF')) return 'a program of this machine';
  const interpreter = INTERPRETERS.exec(head)?.[1];
  if (interpreter === undefined || BOTH.test(head)) return undefined;
  return `a script for ${interpreter.slice(1)}`;
}

/** @returns nothing for a file that cannot be read: Node reports why */
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

/** Whether a shell, or a script of npm, finds a command with this name. */
function isCommand(name: string): boolean {
  if (name.includes('/')) return false;
  const directories = (process.env['PATH'] ?? '').split(delimiter);
  return [join('node_modules', '.bin'), ...directories].some((directory) => isFile(join(directory, name)));
}

/** Node also finds an app without its extension, and in a directory. */
function whatNodeTries(app: string): string[] {
  return [app, `${app}.js`, join(app, 'index.js'), join(app, 'package.json')];
}

/** False where the file cannot be examined: its name is too long, or its directory is closed to this user. */
function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
