// One pool of a passfd worker, an unmodified Python worker and a raw one; each is killed in turn.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { it } from 'node:test';

import type { Status } from '../../src/dispatcher/index.js';
import { Crowd } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { describeWithOnePython, peer } from '../support/peers.js';
import { withPrograms } from '../support/program.js';

const COUNT = 10_000;
const DEADLINE_MS = 180_000;

/** Workers by their dialect. */
function byDialect({ workers }: Status): Map<string, Status['workers'][number]> {
  return new Map(workers.map((worker) => [worker.dialect, worker]));
}

describeWithOnePython('a pool of a passfd worker, a Python worker and a raw worker', (python) => {
  it(
    'serves 10 000 connections, and loses none that a killed worker had not received',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const raw = `${directory.path}/raw`;
      const records = `${directory.path}/records`;
      await mkdir(records);
      // The peers know this key.
      const env = { PASSFD_AUTHKEY: 'peekaboo' };
      const places = ['--control', control, '--raw-control', raw];
      const server = start(...passfd('serve', '--listen', '127.0.0.1:0', ...places), { env });
      const [, port] = await server.errorLine(/127\.0\.0\.1:(\d+)/);
      const join = {
        passfd: () =>
          start(...passfd('worker', '--control', control, app('numbers.js'), records), {
            env,
            ownGroup: true,
          }),
        multiprocessing: () => start(...peer(python, 'listener_worker', control)),
        raw: () => start(...peer(python, 'raw_worker', raw)),
      };
      const ready = async (): Promise<Status> => {
        for (;;) {
          const status = await statusOf(control, env);
          if (status.workers.filter(({ state }) => state === 'ready').length === 3) return status;
        }
      };
      for (const begin of Object.values(join)) begin();
      await ready();
      using crowd = new Crowd({ port: Number(port), concurrency: 50, count: COUNT });
      for (const dialect of ['passfd', 'multiprocessing', 'raw'] as const) {
        await crowd.untilMore(COUNT / 5);
        const victim = byDialect(await ready()).get(dialect);
        assert.ok(victim && victim.adopted > 0, `the ${dialect} worker has served someone`);
        process.kill(victim.pid, 'SIGKILL');
        join[dialect]();
      }
      const { answered, lost, wrong } = await crowd.finished();
      const { connections } = await ready();
      assert.deepEqual(wrong, []);
      assert.equal(answered + lost.length, COUNT);
      assert.equal(connections.adopted, COUNT, 'what was lost had been received by the one that was killed');
      assert.ok(lost.length <= 50, `${lost.length} lost`);
    }, DEADLINE_MS),
  );
});
