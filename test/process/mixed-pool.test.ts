// One pool of a passfd worker, an unmodified Python worker and a raw one; each is killed in turn.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { it } from 'node:test';
import { setImmediate } from 'node:timers/promises';

import type { Status } from '../../src/dispatcher/index.js';
import { Crowd } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { describeWithOnePython, peer } from '../support/peers.js';
import { untilStopped } from '../support/processes.js';
import { withPrograms, type Program } from '../support/program.js';
import { assertExactlyOnce, servedBy } from '../support/records.js';

const COUNT = 10_000;

/** At a time. */
const CLIENTS = 50;

/** Workers by their dialect. */
function byDialect({ workers }: Status): Map<string, Status['workers'][number]> {
  return new Map(workers.map((worker) => [worker.dialect, worker]));
}

type Dialect = 'passfd' | 'multiprocessing' | 'raw';

/** One of the recipe's workers, where it has stopped itself. */
interface Stopped {
  readonly pid: number;
  readonly dialect: 'multiprocessing' | 'raw';
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
      const join: Record<Dialect, () => Program> = {
        passfd: () =>
          start(...passfd('worker', '--control', control, app('numbers.js'), records), {
            env,
            ownGroup: true,
          }),
        multiprocessing: () => start(...peer(python, 'listener_worker', control, `records=${records}`)),
        raw: () => start(...peer(python, 'raw_worker', raw, `records=${records}`)),
      };
      const until = async (fact: (status: Status) => boolean): Promise<Status> => {
        for (;;) {
          const status = await statusOf(control, env);
          if (fact(status)) return status;
        }
      };
      const ready = (): Promise<Status> =>
        until(({ workers }) => workers.filter(({ state }) => state === 'ready').length === 3);
      /** Kills a worker, and has another of its kind join. @returns how many connections go to others */
      const replace = async ({ pid, dialect }: { pid: number; dialect: Dialect }): Promise<number> => {
        process.kill(pid, 'SIGKILL');
        const [, redelivered] = await server.errorLine(
          new RegExp(`"pid":${pid},"redelivered":(\\d+).*"worker left"`),
        );
        join[dialect]();
        return Number(redelivered);
      };
      for (const begin of Object.values(join)) begin();
      await ready();
      using crowd = new Crowd({ port: Number(port), concurrency: CLIENTS });
      const stop = async (dialect: Stopped['dialect'], signal: NodeJS.Signals): Promise<Stopped> => {
        const status = await until(({ workers }) =>
          workers.some((worker) => worker.dialect === dialect && worker.adopted > 0),
        );
        const victim = byDialect(status).get(dialect);
        assert.ok(victim);
        process.kill(victim.pid, signal);
        await untilStopped(victim.pid);
        return { pid: victim.pid, dialect };
      };

      const received: number[] = [];
      for (const dialect of ['multiprocessing', 'raw'] as const) {
        // It is free, so it is sent the next connection, and does not receive it.
        const idle = await stop(dialect, 'SIGUSR1');
        await until(({ workers }) => workers.some(({ pid, inFlight }) => pid === idle.pid && inFlight === 1));
        assert.equal(await replace(idle), 1, `what the ${dialect} worker had not received goes to another`);
        // It has read from its client, and not answered.
        const busy = await stop(dialect, 'SIGUSR2');
        const number = servedBy(records, busy.pid).at(-1);
        assert.ok(number !== undefined);
        received.push(number);
        await replace(busy);
      }
      while (crowd.lost.length < received.length) await setImmediate();
      assert.deepEqual([...crowd.lost], received, 'lost is what those that were killed had received');

      const victim = byDialect(await ready()).get('passfd');
      assert.ok(victim && victim.adopted > 0);
      await replace({ pid: victim.pid, dialect: 'passfd' });
      await crowd.untilMore(COUNT - crowd.answered);
      const outcome = await crowd.stop();
      assertExactlyOnce(outcome, await ready(), records);
      assert.ok(outcome.lost.length <= received.length + CLIENTS, `${outcome.lost.length} lost`);
    }),
  );
});
