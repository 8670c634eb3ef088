// passfd status: the connections so far, and the workers, of a running dispatcher.
import type { Command } from 'commander';

import { addClientOptions, type ClientFlags } from '../options.js';
import { connectAs } from '../request.js';
import { formatStatus, statusIn } from '../status-table.js';
import { answer } from '../output.js';
import { PassfdError } from '../../fd/index.js';
import { printable } from '../../handoff/index.js';

const EXAMPLES = `
Examples:
  $ passfd status
  $ passfd status --json | jq '.workers[] | {id, active}'`;

interface StatusFlags extends ClientFlags {
  readonly json?: true;
}

export function addStatusCommand(program: Command): void {
  const command = program
    .command('status')
    .description('show the listeners, the connections and the workers of a running dispatcher')
    .option('--json', 'print one JSON object, for programs');
  addClientOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: StatusFlags) => {
      using client = await connectAs(flags);
      const result = await client.ask({ type: 'status' });
      if (flags.json === true) {
        // `printable` escapes control characters in a way that JSON reads back.
        answer(printable(JSON.stringify(result)));
        return;
      }
      const status = statusIn(result);
      if (!status) {
        throw new PassfdError(
          'ERR_PROTOCOL',
          'The dispatcher is of another release, and its status has another format; use passfd status --json',
        );
      }
      answer(formatStatus(status));
    });
}
