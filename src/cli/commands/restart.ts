// passfd restart: replaces the worker processes one by one.
import type { Command } from 'commander';

import { addClientOptions, repeatable, type ClientFlags } from '../options.js';
import { connectAs } from '../request.js';
import { answer } from '../output.js';

interface RestartFlags extends ClientFlags {
  readonly without?: string[];
}

const EXAMPLES = `
Examples:
  $ passfd restart                   same as SIGHUP: new code, environment and Node take effect
  $ passfd restart --without 9090    the new version no longer listens at port 9090

A worker serves until its replacement listens at every address that it serves. Then it drains and exits.
If a replacement does not listen within --ready-timeout of the service, the restart fails and names the missing addresses.
The old worker and those that were not replaced yet keep serving.
An address given to --without is closed when the last worker that listens there is replaced.
A restart that is requested while another one runs starts after it.`;

export function addRestartCommand(program: Command): void {
  const command = program
    .command('restart')
    .description('replace the workers one by one, without dropping connections')
    .addOption(
      repeatable(
        '--without <addr>',
        'address that the new workers need not serve: PORT, unix:PATH, or as passfd status prints it (repeatable)',
        (text) => text,
      ),
    );
  addClientOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: RestartFlags) => {
      using client = await connectAs(flags);
      await client.ask({ type: 'restart', ...(flags.without && { without: flags.without }) }, answer);
      answer('restarted');
    });
}
