// How a test file of Node's ends: alone, and as the only worker of `passfd run`.
import { temporaryDirectory } from '../support/files.js';
import { firstEndOfWorker, passfd, stopAtOnce } from '../support/passfd.js';
import { Program } from '../support/program.js';
import type { NodeTest } from './source.js';

/** The slowest takes some seconds; this is for a busy machine. */
const TIMEOUT_MS = 60_000;

/** Some of Node's tests have fixed ports, which begin with this one where nothing else is said. */
const FIRST_PORT = 12_346;
const PORTS_PER_LANE = 100;

export const PASSED = 'exited with code 0';
const HANGS = `did not end within ${TIMEOUT_MS / 1000} s`;

export interface Outcome {
  /** `PASSED`, or how it ended otherwise. */
  readonly end: string;
  readonly output: readonly string[];
}

type Command = ReturnType<typeof passfd>;

/** @param lane of tests that run at the same time, each has another: their fixed ports depend on it */
export async function alone({ path, flags }: NodeTest, lane: number): Promise<Outcome> {
  const command = (): Command => [process.execPath, [...flags, path]];
  return run(command, lane, async (program, hangs) => {
    const end = await Promise.race([program.ended, hangs]);
    program.kill();
    if (typeof end === 'number') return `exited with code ${end}`;
    return end === HANGS ? end : `was killed by ${end}`;
  });
}

/** A worker that has listened, or fails, is started again: its first end is the answer. */
export async function underPassfd({ path, flags }: NodeTest, lane: number): Promise<Outcome> {
  const command = (directory: string): Command => {
    const [node, args] = passfd('run', '--workers', '1', '--control', `${directory}/control`, path);
    return [node, [...flags, ...args]];
  };
  return run(command, lane, async (program, hangs) => {
    const ended = firstEndOfWorker(program);
    const found = await Promise.race([ended, hangs]);
    await stopAtOnce(program);
    if (found === HANGS) ended.catch(() => undefined);
    return found;
  });
}

async function run(
  command: (directory: string) => Command,
  lane: number,
  watch: (program: Program, hangs: Promise<string>) => Promise<string>,
): Promise<Outcome> {
  await using directory = await temporaryDirectory();
  const program = new Program(...command(directory.path), {
    cwd: directory.path,
    env: {
      NODE_TEST_DIR: directory.path,
      TEST_THREAD_ID: String(lane),
      NODE_COMMON_PORT: String(FIRST_PORT + lane * PORTS_PER_LANE),
      // Without it, the files would report to a runner.
      NODE_TEST_CONTEXT: undefined,
    },
    ownGroup: true,
  });
  program.endInput();
  let timer: NodeJS.Timeout | undefined;
  const hangs = new Promise<string>((resolve) => {
    timer = setTimeout(resolve, TIMEOUT_MS, HANGS);
  });
  try {
    const end = await watch(program, hangs);
    return { end, output: [...program.lines, ...program.errorLines] };
  } finally {
    clearTimeout(timer);
    program.kill();
  }
}
