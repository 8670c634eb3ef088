// passfd takeover: replaces the dispatcher.
import type { Command } from 'commander';

import { addControlOptions, type ControlFlags } from '../options.js';
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
  addControlOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ControlFlags) => {
      using client = await connectAs(flags);
      const result = await client.ask({ type: 'takeover' }, answer);
      answer(describe(result));
    });
}

function describe(result: unknown): string {
  const { generation, pid } = (result ?? {}) as { generation?: unknown; pid?: unknown };
  return `generation ${String(generation)} is process ${String(pid)}`;
}
