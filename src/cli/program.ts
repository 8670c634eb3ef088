// The program `passfd`: its commands and its help.
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
import { print, printError } from './output.js';

const EXAMPLES = `
Examples:
  $ passfd run server.js        run one process per core, and spread the connections over them
  $ passfd status               show connections and workers
  $ passfd help run             show the help of one command`;

/** Parsing throws a `CommanderError` for a usage error and for help. Nothing ends the process. */
export function createProgram(): Command {
  const program = new Command('passfd')
    .description(
      'Spreads connections over worker processes: one process accepts each and passes its descriptor to a worker.',
    )
    .version(version)
    .enablePositionalOptions()
    .showHelpAfterError('(for help: passfd help COMMAND)')
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
