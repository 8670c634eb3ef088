// Many connections through `passfd run`: what each leaves behind, in descriptors and memory, must be nothing.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { Crowd } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

/** A million with `PASSFD_SOAK=1000000`, which takes some minutes. */
const COUNT = Number(process.env['PASSFD_SOAK'] ?? 60_000);

/** Connections before the first look, so that what is made once is made: compiled code, pools, the heap's first growth. */
const WARM_UP = Math.floor(COUNT / 3);

const DEADLINE_MS = 1_800_000;

/** What the heaps of V8 come and go by, measured over runs of an idle server: not what a million small leaks would add. */
const NOISE_BYTES = 24 * 1024 * 1024;

/** The limit of V8's young generation as of Node 20 to 24, where the noise was measured: that of 26 is larger. */
const YOUNG_GENERATION = '--max-semi-space-size=16';

const WORKERS = 2;

interface Footprint {
  readonly descriptors: number;
  readonly memoryBytes: number;
}

function footprintOf(pid: number): Footprint {
  const [, kilobytes = ''] = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return { descriptors: readdirSync(`/proc/${pid}/fd`).length, memoryBytes: Number(kilobytes) * 1024 };
}

describe(`${COUNT} connections through \`passfd run\``, () => {
  it(
    'leave dispatcher and workers with the descriptors and, within noise, the memory that they had',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const records = `${directory.path}/records`;
      await mkdir(records);
      const options = ['--workers', String(WORKERS), '--control', control];
      const program = start(...passfd('run', ...options, app('numbers.js'), records), {
        env: { NODE_OPTIONS: YOUNG_GENERATION },
      });
      let port = '';
      for (let worker = 0; worker < WORKERS; worker++) {
        [, port = ''] = await program.line(/^listening (\d+)$/);
      }

      const serve = async (count: number): Promise<Footprint[]> => {
        const { answered } = await new Crowd({ port: Number(port), concurrency: 50, count }).finished();
        assert.equal(answered, count);
        for (;;) {
          const { workers } = await statusOf(control);
          if (workers.some(({ active }) => active !== 0)) continue;
          return [program.pid, ...workers.map(({ pid }) => pid)].map(footprintOf);
        }
      };
      const before = await serve(WARM_UP);
      const after = await serve(COUNT - WARM_UP);
      console.log(JSON.stringify({ before, after }));
      assert.deepEqual(
        after.map(({ descriptors }) => descriptors),
        before.map(({ descriptors }) => descriptors),
      );
      for (const [index, { memoryBytes }] of after.entries()) {
        const grown = memoryBytes - (before[index]?.memoryBytes ?? 0);
        assert.ok(grown < NOISE_BYTES, `process ${index} grew by ${grown} bytes`);
      }
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
    }, DEADLINE_MS),
  );
});
