// passfd takeover: replaces the dispatcher process.
import type { Command } from 'commander';
import * as v from 'valibot';

import { addClientOptions, type ClientFlags } from '../options.js';
import { connectAs } from '../request.js';
import { answer } from '../output.js';

const EXAMPLES = `
Example:
  $ passfd takeover    same as SIGUSR2: a new release of passfd takes effect

The next generation of the dispatcher gets the listening sockets, the workers, and the connections in flight. The present
one serves until the next one is ready. If the takeover fails, the present one keeps serving.`;

export function addTakeoverCommand(program: Command): void {
  const command = program
    .command('takeover')
    .description('replace the dispatcher process, without dropping connections or restarting workers');
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
  // A later release may answer in another format.
  return success
    ? `generation ${output.generation} is process ${output.pid}`
    : 'the next generation has taken over';
}
