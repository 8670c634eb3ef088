// The benchmark in small: that it measures everything, tells what fails, and leaves nothing behind. Never how fast.
import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { contestants } from '../../bench/dispatch/contestants.js';
import type { Outcome } from '../../bench/dispatch/measure.js';
import { startOf, treeOf } from '../../bench/dispatch/proc.js';
import type { Report } from '../../bench/dispatch/report.js';
import { works } from '../../bench/dispatch/works.js';
import { temporaryDirectory } from '../support/files.js';
import { turns } from '../support/loop.js';
import { withPrograms, type Program, type ProgramOptions, type Start } from '../support/program.js';
import { FILE_TIMEOUT_MS } from '../support/test-files.js';
import { withoutPrograms } from './programs.js';

const main = fileURLToPath(new URL('../../bench/run.js', import.meta.url));

/** Every contestant in every work, each in new processes, on a busy machine. */
const DEADLINE_MS = FILE_TIMEOUT_MS;

/** A directory for the results, and one for what has to be gone at the end. */
interface Place {
  readonly results: string;
  readonly temporary: string;
}

async function withPlace(body: (place: Place) => Promise<void>): Promise<void> {
  await using directory = await temporaryDirectory();
  const place = { results: join(directory.path, 'r'), temporary: join(directory.path, 't') };
  mkdirSync(place.temporary);
  await body(place);
  assert.deepEqual(readdirSync(place.temporary), []);
}

function bench(start: Start, place: Place, args: readonly string[], env: NodeJS.ProcessEnv = {}): Program {
  const options: ProgramOptions = { env: { TMPDIR: place.temporary, ...env } };
  return start(process.execPath, [main, '--tiny', '--results', place.results, ...args], options);
}

function reportIn({ results }: Place): Report {
  return JSON.parse(readFileSync(join(results, 'tiny.json'), 'utf8')) as Report;
}

/** Those in which something is missing or wrong. */
function failuresIn(outcomes: readonly Outcome[]): Outcome[] {
  return outcomes.filter(({ problems, answers }) => problems.length > 0 || answers === 0);
}

/** Figures of the work that are missing, or no numbers. Where there is no dispatcher, it has none. */
function withoutFigures({ work, contestant, rounds, traced }: Outcome): string[] {
  const figures: Partial<Record<string, number | null>> = { ...traced, ...rounds[0] };
  const columns = works.find(({ id }) => id === work)?.columns ?? [];
  const isDispatched = Object.keys(figures).some((name) => name.startsWith('dispatcher'));
  return columns
    .filter((name) => isDispatched || !name.startsWith('dispatcher'))
    .filter((name) => !Number.isFinite(figures[name]))
    .map((name) => `(${work}) ${contestant}: ${name}`);
}

describe('a tiny round of the benchmark', { skip: withoutPrograms }, () => {
  it(
    'gets every answer from every contestant in every work',
    withPrograms(
      (start) =>
        withPlace(async (place) => {
          const program = bench(start, place, []);
          const exit = await program.exit;
          const { outcomes, notes } = reportIn(place);
          assert.deepEqual(failuresIn(outcomes), []);
          assert.deepEqual(outcomes.flatMap(withoutFigures), []);
          for (const { name, title, works: expected } of contestants) {
            const measured = outcomes.filter(({ contestant }) => contestant === name).map(({ work }) => work);
            if (notes.some((note) => note.startsWith(`Skipped: ${title}.`))) assert.deepEqual(measured, []);
            else {
              assert.deepEqual(
                measured,
                works.map(({ id }) => id).filter((id) => expected.includes(id)),
              );
            }
          }
          assert.deepEqual(readdirSync(place.results).sort(), ['tiny.json', 'tiny.md', 'tiny.svg']);
          assert.equal(exit, 0);
        }),
      DEADLINE_MS,
    ),
  );

  it(
    'tells of a contestant that fails, measures the others, and ends with 1',
    withPrograms((start) =>
      withPlace(async (place) => {
        const tools = join(place.results, 'tools');
        mkdirSync(tools, { recursive: true });
        writeFileSync(join(tools, 'haproxy'), '#!/bin/sh\necho out of order\nexit 3\n');
        chmodSync(join(tools, 'haproxy'), 0o755);
        const choice = ['--works', 'c', '--contestants', 'alone,haproxy'];
        const program = bench(start, place, choice, { PATH: `${tools}:${process.env['PATH'] ?? ''}` });
        const exit = await program.exit;
        const { outcomes } = reportIn(place);
        const failures = failuresIn(outcomes);
        assert.deepEqual(
          failures.map(({ contestant }) => contestant),
          ['haproxy'],
        );
        const problems = failures.flatMap((failure) => failure.problems);
        assert.match(problems.join('\n'), /^haproxy .* ended: 3\nout of order$/m);
        assert.deepEqual(
          outcomes.map(({ contestant }) => contestant),
          ['alone', 'haproxy'],
        );
        assert.equal(exit, 1);
      }),
    ),
  );

  it(
    'says what it skips and why, where something is not installed',
    withPrograms((start) =>
      withPlace(async (place) => {
        const choice = ['--works', 'c', '--contestants', 'alone,python'];
        const program = bench(start, place, choice, { PATH: place.temporary });
        assert.equal(await program.exit, 0);
        const { outcomes, notes } = reportIn(place);
        assert.deepEqual(
          outcomes.map(({ contestant }) => contestant),
          ['alone'],
        );
        assert.deepEqual(
          notes.filter((note) => note.includes('not installed')),
          [
            'Skipped: the recipe in Python. python3 is not installed.',
            'Syscalls were not counted: strace is not installed.',
          ],
        );
      }),
    ),
  );

  for (const contestant of [
    'passfd-direct',
    'passfd-run',
    'passfd-serve',
    'cluster',
    'reuse-port',
    'python',
  ]) {
    it(
      `ends everything that it has started when it is interrupted: ${contestant}`,
      withPrograms((start) =>
        withPlace(async (place) => {
          const choice = ['--works', 'c', '--contestants', contestant, '--rounds', '100'];
          const program = bench(start, place, choice);
          await program.errorLine(/^\[2\//);
          // The load generator runs only when everything that it asks is there.
          while (!treeOf(program.pid).some((pid) => commandOf(pid).endsWith('/load'))) await turns(1);
          const processes = treeOf(program.pid).map((pid) => ({ pid, start: startOf(pid) }));
          program.signal('SIGINT');
          assert.equal(await program.exit, 130);
          for (const { pid, start: begun } of processes) {
            while (begun !== undefined && startOf(pid) === begun) await turns(1);
          }
        }),
      ),
    );
  }

  it(
    'refuses a contestant or a work that it does not know, with 2',
    withPrograms((start) =>
      withPlace(async (place) => {
        for (const choice of [
          ['--contestants', 'apache'],
          ['--works', 'a,z'],
          ['--rounds', '0'],
        ]) {
          const program = bench(start, place, choice);
          assert.equal(await program.exit, 2);
          assert.match(
            await program.stderr,
            new RegExp(`option '${choice[0] ?? ''} .*' argument .* is invalid`),
          );
        }
      }),
    ),
  );
});

/** What a process was started as. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[0] ?? '';
  } catch {
    return ''; // it has ended
  }
}
