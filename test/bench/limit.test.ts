// The limit that dispatchers are measured against: what little it does, it does right.
import assert from 'node:assert/strict';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { PassfdError, StreamSocket, type ErrorCode } from '../../src/fd/index.js';
import { backlogOf } from '../support/dispatcher-stage.js';
import { FakeWorker } from '../support/fake-worker.js';
import { temporaryDirectory } from '../support/files.js';
import { turns } from '../support/loop.js';
import { withPrograms, type Program, type Start } from '../support/program.js';
import { portOf, programs, resultOf, startLoad, withoutPrograms } from './programs.js';

const workerFixture = fileURLToPath(new URL('./fixtures/worker.js', import.meta.url));

const TOO_EARLY: readonly ErrorCode[] = ['ERR_ADDRESS_MISSING', 'ERR_CONNECTION_REFUSED'];

interface Setting {
  readonly limit: Program;
  readonly workers: readonly Program[];
  readonly port: number;
}

interface Wanted {
  readonly app?: 'raw' | 'http';
  readonly workers: number;
  readonly options?: readonly string[];
}

/** The limit with workers that have joined it. */
async function startLimit(start: Start, directory: string, wanted: Wanted): Promise<Setting> {
  const { app = 'raw', workers: count, options = [] } = wanted;
  const control = `${directory}/control`;
  const limit = start(programs.limit, ['--control', control, '--workers', String(count), ...options]);
  const workers = Array.from({ length: count }, () => start(process.execPath, [workerFixture, control, app]));
  return { limit, workers, port: await portOf(limit) };
}

/** Joins when somebody listens at the control path; its file is there a moment before that. */
async function joining(control: string): Promise<FakeWorker> {
  for (;;) {
    try {
      return await FakeWorker.join(control);
    } catch (error) {
      if (!(error instanceof PassfdError) || !TOO_EARLY.includes(error.code)) throw error;
    }
    await turns(1);
  }
}

/** The body of a test that has a directory and starts programs. */
function inDirectory(body: (start: Start, directory: string) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    await body(start, directory.path);
  });
}

/** How many descriptors a program has open. */
function openDescriptors({ pid }: Program): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

describe('the limit', { skip: withoutPrograms }, () => {
  it(
    'gives each of two workers exactly every other connection',
    inDirectory(async (start, directory) => {
      const { port } = await startLimit(start, directory, { workers: 2 });
      const result = await resultOf(startLoad(start, port, 'raw', '--count', '3000'));
      const { completed, failed, reasons, byWorker } = result;
      assert.deepEqual(
        { completed, failed, reasons, byWorker },
        { completed: 3000, failed: 0, reasons: [], byWorker: { w000001: 1500, w000002: 1500 } },
      );
    }),
  );

  it(
    'goes on in turn where the batch before it ended',
    inDirectory(async (start, directory) => {
      const { port } = await startLimit(start, directory, { workers: 3, options: ['--batch', '4'] });
      const { failed, byWorker } = await resultOf(startLoad(start, port, 'raw', '--count', '1000'));
      assert.deepEqual([failed, byWorker], [0, { w000001: 334, w000002: 333, w000003: 333 }]);
    }),
  );

  it(
    'serves HTTP as any dispatcher does',
    inDirectory(async (start, directory) => {
      const { port } = await startLimit(start, directory, { app: 'http', workers: 2 });
      for (const work of ['http', 'keep-alive']) {
        const load = startLoad(start, port, work, '--count', '500', '--connections', '10');
        const { completed, failed, reasons } = await resultOf(load);
        assert.deepEqual([completed, failed, reasons], [500, 0, []]);
      }
    }),
  );

  it(
    'holds no connection that a worker has',
    inDirectory(async (start, directory) => {
      const { limit, port } = await startLimit(start, directory, { workers: 2 });
      const before = openDescriptors(limit);
      const load = startLoad(start, port, 'idle', '--connections', '100');
      await load.line(/"held"/);
      // The last answer may come before the limit closes its copy.
      while (openDescriptors(limit) !== before) await turns(1);
      load.endInput();
      assert.equal((await resultOf(load)).failed, 0);
    }),
  );

  it(
    'leaves clients in the backlog while a channel is full, and loses none of them',
    inDirectory(async (start, directory) => {
      const setting = await startLimit(start, directory, { workers: 2, options: ['--batch', '1'] });
      const { limit, workers, port } = setting;
      for (const worker of workers) worker.signal('SIGSTOP');
      const load = startLoad(start, port, 'raw', '--count', '1500', '--connections', '1500');
      // A channel takes a few hundred messages.
      while (backlogOf({ host: '127.0.0.1', port }) < 500) await turns(1);
      for (const worker of workers) worker.signal('SIGCONT');
      const { completed, failed, reasons, byWorker } = await resultOf(load);
      assert.deepEqual(
        { completed, failed, reasons, byWorker },
        { completed: 1500, failed: 0, reasons: [], byWorker: { w000001: 750, w000002: 750 } },
      );
      limit.signal('SIGTERM');
      assert.equal(await limit.exit, 0);
    }),
  );

  it(
    'reads whatever a worker says, so that none is stopped by it',
    inDirectory(async (start, directory) => {
      const control = `${directory}/control`;
      const limit = start(programs.limit, ['--control', control, '--workers', '1']);
      using worker = await joining(control);
      await worker.serve();
      const load = startLoad(start, await portOf(limit), 'raw', '--count', '1');
      const { descriptors } = await worker.handoff();
      // Many times as much as a channel takes.
      for (let count = 0; count < 2000; count++) await worker.sayClosed(0);
      for (const descriptor of descriptors) {
        using client = new StreamSocket(descriptor.duplicate());
        await client.send(Buffer.from('w000001'));
      }
      assert.equal((await resultOf(load)).failed, 0);
    }),
  );

  it(
    'ends at a signal, and leaves no file behind',
    inDirectory(async (start, directory) => {
      const { limit } = await startLimit(start, directory, { workers: 1 });
      assert.ok(existsSync(`${directory}/control`));
      limit.signal('SIGTERM');
      assert.deepEqual([await limit.exit, await limit.stderr], [0, '']);
      assert.ok(!existsSync(`${directory}/control`));
    }),
  );

  it(
    'ends and says so when a worker leaves',
    inDirectory(async (start, directory) => {
      const { limit, workers } = await startLimit(start, directory, { workers: 2 });
      workers[1]?.kill();
      assert.equal(await limit.exit, 1);
      assert.match(await limit.stderr, /^limit: worker [01] has left\n$/);
      assert.ok(!existsSync(`${directory}/control`));
    }),
  );

  it(
    'says what is in the way at its control path, and leaves it there',
    inDirectory(async (start, directory) => {
      writeFileSync(`${directory}/control`, '');
      const limit = start(programs.limit, ['--control', `${directory}/control`, '--workers', '1']);
      assert.equal(await limit.exit, 1);
      assert.match(await limit.stderr, /control: Address already in use/);
      assert.ok(existsSync(`${directory}/control`));
    }),
  );

  for (const [args, says] of [
    [[], /it takes --control and --workers\nUsage: limit/],
    [['--control', 'x', '--workers', '0'], /--workers takes a whole number from 1 to 1024, not '0'/],
    [['--control', 'x', '--workers', '1', '--batch', '253'], /--batch takes a whole number from 1 to 252/],
    [['--control', 'x'.repeat(108), '--workers', '1'], /--control takes a path of less than 108 bytes/],
  ] as const) {
    it(
      `says what is wrong with: limit ${args.join(' ')}`,
      withPrograms(async (start) => {
        const limit = start(programs.limit, args);
        assert.equal(await limit.exit, 2);
        assert.match(await limit.stderr, says);
      }),
    );
  }
});
