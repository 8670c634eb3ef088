// Runs each test file many times beside busy loops on every core, and lists each that failed once:
// `npm run test:steady -- [ROUNDS] [WORD...]`.
import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { FILE_TIMEOUT_MS, testDirectory, testFiles } from '../support/test-files.js';
import { codeVersion, Record } from './record.js';

/** Without a number: a test with several processes depends on more moments than one without. */
const ROUNDS = { ofProcesses: 10, ofOthers: 3 };

const CORES = availableParallelism();

/** How many files run at the same time: most tests wait more than they work. */
const LANES = 2 * CORES;

/** So many runs pass between two lines of progress. */
const TOLD_EVERY = 20;

const root = resolve(testDirectory, '../..');
const begun = Date.now();
const running = new Set<ChildProcess>();
const interruption = new AbortController();

const [first = '', ...others] = process.argv.slice(2);
const isCount = /^[1-9]\d*$/.test(first);
const words = isCount || first === '' ? others : [first, ...others];
const files = testFiles(words);
if (files.length === 0) {
  tell(`No test file matches: ${words.join(' ')}\nUsage: npm run test:steady -- [ROUNDS] [WORD...]`);
  process.exit(2);
}

const version = codeVersion(
  ['build/src', 'build/test', 'build/examples', 'native', 'docs'].map((path) => join(root, path)),
  ['.js', '.cjs', '.py', '.c', '.h', '.md'],
);
const record = new Record(join(root, 'build/steady'), version);
if (record.dropped > 0) tell(`${record.dropped} runs do not count any more: they were of other code`);

const wanted = files.map((file) => {
  const rounds = isCount ? Number(first) : startsProcesses(file) ? ROUNDS.ofProcesses : ROUNDS.ofOthers;
  return { file, name: relative(testDirectory, file), rounds };
});
const left = wanted.flatMap(({ file, name, rounds }) => {
  const done = record.of(name).length;
  return Array.from({ length: Math.max(rounds - done, 0) }, (_, index) => ({
    file,
    name,
    round: done + index,
  }));
});
// Each file once, then each a second time: what fails often is known soon.
left.sort((a, b) => a.round - b.round);
const total = wanted.reduce((sum, { rounds }) => sum + rounds, 0);
if (left.length < total) tell(`going on: ${total - left.length} of ${total} runs were done before`);
tell(`${left.length} runs of ${files.length} files, ${LANES} at the same time, beside ${CORES} busy loops`);

const busyLoops = Array.from({ length: CORES }, () =>
  spawn(process.execPath, [fileURLToPath(new URL('busy-loop.js', import.meta.url))], { stdio: 'ignore' }),
);
process.once('exit', () => {
  for (const child of busyLoops) child.kill('SIGKILL');
  for (const child of running) killGroup(child);
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (interruption.signal.aborted) process.exit(1);
    interruption.abort();
    tell(`stopping when the ${running.size} files that run have ended; a second signal stops at once`);
  });
}

let done = 0;
const queue = left.values();
await Promise.all(
  Array.from({ length: LANES }, async () => {
    for (const { file, name } of queue) {
      await runOnce(file, name);
      if (++done % TOLD_EVERY === 0) tell(`${done} of ${left.length} runs, ${minutes()} min`);
      if (interruption.signal.aborted) return;
    }
  }),
);
if (interruption.signal.aborted && done < left.length) {
  tell(`stopped after ${done} of ${left.length} runs; the same command goes on`);
  process.exit(1);
}
conclude();
// What a test has left behind may still hold its output.
process.exit();

async function runOnce(file: string, name: string): Promise<void> {
  const { isPassed, output } = await run(file);
  if (isPassed) record.passed(name);
  else tell(`failed: ${name}: ${relative(root, record.failed(name, output))}`);
}

function run(file: string): Promise<{ isPassed: boolean; output: string }> {
  const child = spawn(process.execPath, ['--test-reporter=spec', file], {
    // A Ctrl-C is for this process, not for a test.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (part: string) => (output += part));
  }
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    output += `\nended after ${FILE_TIMEOUT_MS / 1000} s\n`;
    killGroup(child);
    // A process that has left the group may still hold the output of one that has ended.
    child.stdout.destroy();
    child.stderr.destroy();
  }, FILE_TIMEOUT_MS);
  return new Promise((resolved) => {
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      running.delete(child);
      if (signal) output += `\nended by ${signal}\n`;
      resolved({ isPassed: code === 0 && !isLate, output });
    });
  });
}

function conclude(): void {
  const unsteady = wanted.flatMap(({ name }) => {
    const runs = record.of(name);
    const failures = runs.flatMap(({ failure }) => (failure === undefined ? [] : [failure]));
    return failures.length === 0 ? [] : [{ name, failures, runs: runs.length }];
  });
  tell(
    `${total} runs of ${files.length} files, ${minutes()} min: ${unsteady.length} files failed at least once`,
  );
  for (const { name, failures, runs } of unsteady) {
    tell(`${name}: failed ${failures.length} of ${runs}`);
    for (const path of failures) tell(`    ${relative(root, path)}`);
  }
  record.finish(wanted.map(({ name }) => name));
  process.exitCode = unsteady.length === 0 ? 0 : 1;
}

/** Whether the file, or what it imports of the tests, can start a process. */
function startsProcesses(file: string, seen = new Set<string>()): boolean {
  if (seen.has(file)) return false;
  seen.add(file);
  const code = readFileSync(file, 'utf8');
  if (/from 'node:(child_process|cluster)'/.test(code)) return true;
  return [...code.matchAll(/from '(\.[^']+)'/g)]
    .map(([, path = '']) => join(dirname(file), path))
    .some((path) => path.startsWith(testDirectory) && startsProcesses(path, seen));
}

/** Also what is left of a group whose first process has ended: its number is not used anew as long as one lives. */
function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has just ended.
  }
}

function minutes(): string {
  return ((Date.now() - begun) / 60_000).toFixed(1);
}

function tell(line: string): void {
  process.stdout.write(`${line}\n`);
}
