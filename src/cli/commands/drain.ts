// passfd drain: takes one worker out of service.
import type { Command } from 'commander';

import { parseWorkerId } from '../numbers.js';
import { addClientOptions, type ClientFlags } from '../options.js';
import { answer } from '../output.js';
import { connectAs } from '../request.js';

const EXAMPLES = `
Example:
  $ passfd drain 3    worker 3, as passfd status numbers it, gets no more connections

The command returns when the worker has no open connection left.`;

export function addDrainCommand(program: Command): void {
  const command = program
    .command('drain')
    .description('give one worker no more connections, and wait until its open ones have ended')
    .argument('<id>', 'number of the worker, as passfd status shows it', parseWorkerId);
  addClientOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (worker: number, flags: ClientFlags) => {
      using client = await connectAs(flags);
      await client.ask({ type: 'drain', worker });
      answer(`worker ${worker} is drained`);
    });
}
