// The command line as its user types it, and what it tells.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import type { Status } from '../../src/dispatcher/index.js';
import type { Program } from './program.js';

/** The program `passfd` of this build. */
export const passfdMain = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

// They are not compiled, so they stay in the source tree.
const apps = new URL('../../../test/process/apps/', import.meta.url);

/**
 * `PASSFD_TEST_ACCEPT=direct node build/test/run.js WORDS` has all services accept in this mode, except where a test names
 * another one, or an option that needs hand-off.
 */
const { PASSFD_TEST_ACCEPT } = process.env;
const NAMES_ITS_MODE = ['--accept', '--policy', 'refuse'];

/** Workers of a service that a test kills at its end are not to wait for the next one. */
const WITHOUT_WAITING = ['--orphan-timeout', '1'];

/** The command that runs `passfd ARGS`. */
export function passfd(...args: readonly string[]): [command: string, args: string[]] {
  return passfdAt(passfdMain, ...args);
}

/** The same with the program of another build. */
export function passfdAt(main: string, ...args: readonly string[]): [command: string, args: string[]] {
  const [command = '', ...rest] = args;
  const isService = command === 'run' || command === 'serve';
  const waits = isService && !args.includes('--orphan-timeout') && !args.includes('--help');
  const isFree = isService && !NAMES_ITS_MODE.some((word) => args.includes(word));
  const mode = isFree && PASSFD_TEST_ACCEPT !== undefined ? ['--accept', PASSFD_TEST_ACCEPT] : [];
  return [process.execPath, [main, command, ...(waits ? WITHOUT_WAITING : []), ...mode, ...rest]];
}

/** The path of an app that knows nothing of passfd. */
export function app(name: string): string {
  return fileURLToPath(new URL(name, apps));
}

/** Asks a service to stop, and again until it says that it stopped at once. @returns how it ended */
export async function stopAtOnce(service: Program): Promise<number | string> {
  const asking = setInterval(() => {
    if (!service.errorLines.some((line) => line.includes('stopped at once'))) service.signal('SIGTERM');
  }, 100);
  try {
    return await service.ended;
  } finally {
    clearInterval(asking);
  }
}

/**
 * How the first process of worker 1 ends, as in `exited with code 0`. One that has listened, or fails, is started again, so
 * the service lives on.
 */
export async function firstEndOfWorker(service: Program): Promise<string> {
  const [, end = ''] = await service.errorLine(
    /"child":1,.*"msg":"process (exited with code \d+|was killed by \w+)/,
  );
  return end;
}

const run = promisify(execFile);

/** What `passfd status --json` answers. */
export async function statusOf(control: string, env: NodeJS.ProcessEnv = {}): Promise<Status> {
  const options = { env: { ...process.env, ...env } };
  const { stdout } = await run(...passfd('status', '--json', '--control', control), options);
  return JSON.parse(stdout) as Status;
}
