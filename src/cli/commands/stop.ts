// passfd stop: ends a dispatcher and the worker processes that it has started.
import type { Command } from 'commander';

import { addClientOptions, type ClientFlags } from '../options.js';
import { connectAs } from '../request.js';
import { answer } from '../output.js';

const EXAMPLES = `
Example:
  $ passfd stop    same as SIGTERM: drains the workers, then the dispatcher exits

The command returns when the dispatcher has exited.`;

export function addStopCommand(program: Command): void {
  const command = program
    .command('stop')
    .description('drain the workers of a running dispatcher, then end it and them');
  addClientOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ClientFlags) => {
      using client = await connectAs(flags);
      await client.stop();
      answer('stopped');
    });
}
