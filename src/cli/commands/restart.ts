// passfd restart: replaces the worker processes one by one.
import type { Command } from 'commander';

import { addClientOptions, repeatable, type ClientFlags } from '../options.js';
import { connectAs } from '../request.js';
import { answer } from '../tell.js';

interface RestartFlags extends ClientFlags {
  readonly without?: string[];
}

const EXAMPLES = `
Examples:
  $ passfd restart                   as SIGHUP to the dispatcher: new code, environment and Node take effect
  $ passfd restart --without 9090    the new version does not listen at port 9090 any more

Each worker serves until the new one in its place listens at every address where it does, and finishes then what it has
open. When a new one does not within --ready-timeout, the restart fails and names the address, the old one stays, and so do
those that were to follow. An address that is given up by --without is closed when the last worker there is replaced.
A restart that is asked for while another one runs follows it.`;

export function addRestartCommand(program: Command): void {
  const command = program
    .command('restart')
    .description('replace the workers one by one, without a client noticing')
    .addOption(
      repeatable(
        '--without <addr>',
        'an address that the new workers need not serve: as passfd status prints it, or PORT, or unix:PATH (repeatable); none by default',
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
