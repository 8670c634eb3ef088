// passfd takeover: replaces the dispatcher.
import type { Command } from 'commander';
import * as v from 'valibot';

import { addClientOptions, type ClientFlags } from '../options.js';
import { connectAs } from '../request.js';
import { answer } from '../tell.js';

const EXAMPLES = `
Example:
  $ passfd takeover    as SIGUSR2 to the dispatcher: a new release of passfd takes effect

The next generation gets the listening sockets, the workers and the connections on their way. Until it is ready the present
one serves; when it does not get that far, the present one goes on.`;

export function addTakeoverCommand(program: Command): void {
  const command = program
    .command('takeover')
    .description('replace the dispatcher by its next generation, without workers or clients noticing');
  addClientOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ClientFlags) => {
      using client = await connectAs(flags);
      const result = await client.ask({ type: 'takeover' }, answer);
      answer(describe(result));
    });
}

const takenOver = v.object({ generation: v.number(), pid: v.number() });

function describe(result: unknown): string {
  const { success, output } = v.safeParse(takenOver, result);
  // A later release may tell something else.
  return success
    ? `generation ${output.generation} is process ${output.pid}`
    : 'the next generation has taken over';
}
