// passfd run: an unmodified app in as many processes as are wanted.
import { availableParallelism } from 'node:os';

import type { Command } from 'commander';

import { requireApp } from '../app.js';
import { appCommand, runService, type ServiceFlags } from '../../service/index.js';
import { addServiceOptions, listenOption } from '../options.js';

const EXAMPLES = `
Examples:
  $ passfd run server.js                        a process per core, at the address that server.js asks for
  $ passfd run --workers 4 server.js --verbose  four processes; what follows the app is the app's own
  $ passfd run --listen 8080 server.js          whatever address the app asks for, clients come to port 8080

SIGTERM and SIGINT let the workers finish what they have open; a second one, at least 500 ms later, ends them at once.
SIGHUP replaces the workers one by one (passfd restart), SIGUSR2 the dispatcher (passfd takeover).`;

export function addRunCommand(program: Command): void {
  const command = program
    .command('run')
    .description('scale an unmodified app: its servers get their connections from one dispatcher')
    .argument('<app>', 'the file that Node runs')
    .argument('[args...]', 'arguments of the app')
    .passThroughOptions();
  addServiceOptions(command, listenOption('accept here, and not at the address that the app asks for'))
    .addHelpText('after', EXAMPLES)
    .action(async (app: string, args: string[], flags: ServiceFlags) => {
      requireApp(command, app);
      const children = {
        command: appCommand(app, args),
        count: flags.workers ?? availableParallelism(),
      };
      process.exitCode = await runService(flags, children, ['run', app, ...args]);
    });
}
