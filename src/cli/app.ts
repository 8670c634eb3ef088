// The command that runs an unmodified app: Node as it runs here, with the module that takes over the app's servers.
import { existsSync } from 'node:fs';

import type { Command } from 'commander';

/** Node finds an app without its extension too. */
const EXTENSION = '.js';

/** Ends with a usage error when there is no such file: every process would only say the same, again and again. */
export function requireApp(command: Command, app: string): void {
  if (existsSync(app) || existsSync(`${app}${EXTENSION}`)) return;
  command.error(`error: there is no file ${app} in ${process.cwd()}`);
}

export function appCommand(app: string, args: readonly string[]): [program: string, ...args: string[]] {
  const register = import.meta.resolve('passfd/register');
  return [process.execPath, ...process.execArgv, '--import', register, app, ...args];
}
