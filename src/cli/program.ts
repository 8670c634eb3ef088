// The program `passfd` as its user sees it: its commands and its help.
import { Command } from 'commander';

import { version } from '../dispatcher/index.js';
import { addDrainCommand } from './commands/drain.js';
import { addRestartCommand } from './commands/restart.js';
import { addRunCommand } from './commands/run.js';
import { addServeCommand } from './commands/serve.js';
import { addStatusCommand } from './commands/status.js';
import { addStopCommand } from './commands/stop.js';
import { addTakeoverCommand } from './commands/takeover.js';
import { addWorkerCommand } from './commands/worker.js';
import { print, printError } from './tell.js';

const EXAMPLES = `
Examples:
  $ passfd run server.js        a process per core, each with its share of the connections
  $ passfd status               what they do
  $ passfd help run             all about one command`;

/** A usage error or a request for help throws a `CommanderError` here; nothing ends the process. */
export function createProgram(): Command {
  const program = new Command('passfd')
    .description(
      'One process accepts connections, and hands each, as an open descriptor, to one of several workers.',
    )
    .version(version)
    .enablePositionalOptions()
    .showHelpAfterError('(passfd help COMMAND says more)')
    .exitOverride()
    .configureOutput({ writeOut: print, writeErr: printError })
    .addHelpText('after', EXAMPLES);
  addRunCommand(program);
  addServeCommand(program);
  addWorkerCommand(program);
  addStatusCommand(program);
  addRestartCommand(program);
  addTakeoverCommand(program);
  addDrainCommand(program);
  addStopCommand(program);
  return program;
}
