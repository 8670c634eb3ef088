// passfd drain: takes one worker out of service.
import type { Command } from 'commander';

import { parseWorkerId } from '../numbers.js';
import { addClientOptions, type ClientFlags } from '../options.js';
import { connectAs } from '../request.js';
import { answer } from '../tell.js';

const EXAMPLES = `
Example:
  $ passfd drain 3    the worker that passfd status shows as 3 gets no more connections

It returns when that worker has no connection open any more.`;

export function addDrainCommand(program: Command): void {
  const command = program
    .command('drain')
    .description('give one worker no more connections, and wait until it has none open')
    .argument('<id>', 'the number of the worker, as passfd status shows it', parseWorkerId);
  addClientOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (worker: number, flags: ClientFlags) => {
      using client = await connectAs(flags);
      await client.ask({ type: 'drain', worker });
      answer(`worker ${worker} is drained`);
    });
}
