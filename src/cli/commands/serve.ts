// passfd serve: a dispatcher whose workers join by its control socket, or are started from a command of any language.
import { availableParallelism } from 'node:os';

import type { Command } from 'commander';

import { giveOwnInspectPort, runService, type ServiceFlags } from '../../service/index.js';
import { addServiceOptions, listenOption } from '../options.js';

const EXAMPLES = `
Examples:
  $ passfd serve --listen 8080                                  workers join: passfd worker app.js
  $ passfd serve --listen 8080 --workers 4 -- python worker.py  four of them are started, and join
  $ passfd serve --listen fd:3                                  a listening socket that was inherited

A worker that is started from COMMAND finds the control socket's path in PASSFD_CONTROL.`;

export function addServeCommand(program: Command): void {
  const command = program
    .command('serve')
    .description('run a dispatcher: workers of any language join it, and get the connections')
    .argument('[command...]', 'a program that works, and its arguments')
    .passThroughOptions();
  addServiceOptions(command, listenOption('accept connections here').makeOptionMandatory())
    .addHelpText('after', EXAMPLES)
    .action(async (words: string[], flags: ServiceFlags) => {
      const [program, ...args] = words;
      if (program === undefined && flags.workers !== undefined) {
        command.error('error: --workers needs a COMMAND to start, as in: --workers 4 -- python worker.py');
      }
      if (program === '') command.error('error: the name of COMMAND is empty');
      giveOwnInspectPort(process.env);
      process.exitCode = await runService(
        flags,
        program === undefined
          ? undefined
          : {
              command: [program, ...args],
              count: flags.workers ?? availableParallelism(),
            },
        ['serve', ...words],
      );
    });
}
