// passfd serve: a dispatcher whose workers join by its control socket, or are started from a command in any language.
import type { Command } from 'commander';

import { giveOwnInspectPort, runService } from '../../service/index.js';
import { ADDRESSES, addServiceOptions, listenOption, settingsOf, type ServiceFlags } from '../options.js';

const EXAMPLES = `
Examples:
  $ passfd serve --listen 8080                                  workers join: passfd worker app.js
  $ passfd serve --listen 8080 --workers 4 -- python worker.py  starts four workers, which join
  $ passfd serve --listen fd:3                                  uses an inherited listening socket

Workers that are started from COMMAND find the path of the control socket in PASSFD_CONTROL.`;

export function addServeCommand(program: Command): void {
  const command = program
    .command('serve')
    .description('run a dispatcher: workers in any language join it and get connections')
    .argument(
      '[command...]',
      'program of the workers, and its arguments; without it, passfd starts no workers',
    )
    .passThroughOptions();
  addServiceOptions(
    command,
    'number of processes of COMMAND to start, or "max" for one per core; needs a COMMAND (default with a COMMAND: "max")',
    listenOption('accept connections here; required').makeOptionMandatory(),
  )
    .addHelpText('after', ADDRESSES + EXAMPLES)
    .action(async (words: string[], flags: ServiceFlags) => {
      const [program, ...args] = words;
      if (program === undefined && flags.workers !== undefined) {
        command.error('error: --workers needs a COMMAND to start, as in: --workers 4 -- python worker.py');
      }
      if (program === '') command.error('error: the name of COMMAND is empty');
      giveOwnInspectPort(process.env);
      process.exitCode = await runService(
        settingsOf(command),
        program === undefined ? undefined : [program, ...args],
        ['serve', ...words],
      );
    });
}
