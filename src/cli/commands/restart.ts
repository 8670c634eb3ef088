// passfd restart: replaces the worker processes one by one.
import type { Command } from 'commander';

import { addClientOptions, type ClientFlags } from '../options.js';
import { connectAs } from '../request.js';
import { answer } from '../tell.js';

const EXAMPLES = `
Example:
  $ passfd restart    as SIGHUP to the dispatcher: new code, environment and Node take effect

Each worker serves until the new one in its place is ready, and finishes then what it has open. When a new one is not ready
in time, the old one stays, and so do those behind it. A restart that is asked for while another one runs follows it.`;

export function addRestartCommand(program: Command): void {
  const command = program
    .command('restart')
    .description('replace the workers one by one, without a client noticing');
  addClientOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ClientFlags) => {
      using client = await connectAs(flags);
      await client.ask({ type: 'restart' }, answer);
      answer('restarted');
    });
}
