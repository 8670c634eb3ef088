// passfd worker: an unmodified app as one more worker of a running dispatcher.
import { spawn } from 'node:child_process';
import { once } from 'node:events';

import type { Command } from 'commander';

import { requireApp } from '../app.js';
import { trustedUsers } from '../../handoff/index.js';
import { appCommand, readAuthkey } from '../../service/index.js';
import { addClientOptions, type ClientFlags } from '../options.js';
import { warn } from '../output.js';

const EXAMPLES = `
Examples:
  $ passfd worker server.js                          joins the dispatcher of passfd run or passfd serve
  $ passfd worker --control /run/app/control app.js  joins the dispatcher at this path

Signals are passed on to the app. The exit code is that of the app.`;

/** A terminal sends its signals to every process in the foreground, the app included, so those are not passed on. */
const SIGNALS = ['SIGTERM', 'SIGHUP', 'SIGUSR2'] as const;
const SIGNALS_OF_TERMINALS = ['SIGINT', 'SIGQUIT'] as const;

export function addWorkerCommand(program: Command): void {
  const command = program
    .command('worker')
    .description('run an unmodified app as one more worker of a running dispatcher')
    .argument('<app>', 'file that Node runs')
    .argument('[args...]', 'arguments of the app')
    .passThroughOptions();
  addClientOptions(command)
    .addHelpText('after', EXAMPLES)
    .action(async (app: string, args: string[], flags: ClientFlags) => {
      requireApp(command, app);
      const authkey = await readAuthkey(flags, warn);
      const end = await run(appCommand(app, args), {
        PASSFD_JOIN: '1',
        PASSFD_CONTROL: flags.control,
        PASSFD_AUTHKEY: authkey,
        // `trustedUsers` includes those of the environment.
        PASSFD_TRUST_UIDS: [...trustedUsers(flags.trustUid)].join(','),
        // This command may run inside a worker, whose variables these are.
        PASSFD_CHANNEL_FD: undefined,
        PASSFD_WORKER_ID: undefined,
      });
      if (typeof end === 'number') process.exitCode = end;
      else process.kill(process.pid, end);
    });
}

/** @returns the exit code, or the signal that ended it */
async function run(
  [program, ...args]: readonly [string, ...string[]],
  env: NodeJS.ProcessEnv,
): Promise<number | NodeJS.Signals> {
  const child = spawn(program, args, { stdio: 'inherit', env: { ...process.env, ...env } });
  const forward = (signal: NodeJS.Signals): void => {
    child.kill(signal);
  };
  const stay = (): void => undefined;
  const forTerminals = process.stdin.isTTY ? stay : forward;
  for (const signal of SIGNALS) process.on(signal, forward);
  for (const signal of SIGNALS_OF_TERMINALS) process.on(signal, forTerminals);
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  for (const signal of SIGNALS) process.off(signal, forward);
  for (const signal of SIGNALS_OF_TERMINALS) process.off(signal, forTerminals);
  return signal ?? code ?? 1;
}
