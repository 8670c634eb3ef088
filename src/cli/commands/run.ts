// passfd run: an unmodified app in several processes.
import type { Command } from 'commander';

import { appCommand, runService } from '../../service/index.js';
import { requireApp } from '../app.js';
import { ADDRESSES, addServiceOptions, listenOption, settingsOf } from '../options.js';

const EXAMPLES = `
Examples:
  $ passfd run server.js                        one process per core, at the address that server.js listens at
  $ passfd run --workers 4 server.js --verbose  four processes; arguments after the app go to the app
  $ passfd run --listen 8080 server.js          clients connect to port 8080 of every address, wherever the app listens

SIGTERM and SIGINT drain the workers, then passfd exits. A second one, at least 500 ms later, ends them at once.
SIGHUP replaces the workers one by one (passfd restart). SIGUSR2 replaces the dispatcher (passfd takeover).`;

export function addRunCommand(program: Command): void {
  const command = program
    .command('run')
    .description('run an unmodified app in several processes, and spread its connections over them')
    .argument('<app>', 'file that Node runs')
    .argument('[args...]', 'arguments of the app')
    .passThroughOptions();
  addServiceOptions(
    command,
    'number of processes to start, or "max" for one per core (default: "max")',
    listenOption('accept connections here, instead of where the app listens'),
  )
    .addHelpText('after', ADDRESSES + EXAMPLES)
    .action(async (app: string, args: string[]) => {
      requireApp(command, app);
      process.exitCode = await runService(settingsOf(command), appCommand(app, args), ['run', app, ...args]);
    });
}
