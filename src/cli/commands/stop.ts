// passfd stop: ends a dispatcher and the processes that it has started.
import type { Command } from 'commander';

import { addClientOptions, type ClientFlags } from '../options.js';
import { connectAs } from '../request.js';
import { answer } from '../tell.js';

const EXAMPLES = `
Example:
  $ passfd stop    as SIGTERM to the dispatcher: what is open is finished first

It returns when the dispatcher has ended.`;

export function addStopCommand(program: Command): void {
  const command = program
    .command('stop')
    .description('end a running dispatcher and its workers, when they have finished what is open');
  addClientOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ClientFlags) => {
      using client = await connectAs(flags);
      await client.stop();
      answer('stopped');
    });
}
