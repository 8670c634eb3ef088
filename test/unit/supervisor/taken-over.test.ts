// Processes that an earlier generation has started: they are taken over, awaited, or ended, and never started twice.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { failsWith } from '../../support/errors.js';
import { isPending, turns } from '../../support/loop.js';
import { failure, killed, onStage, success } from './stage.js';

/** How the end of a process that is no child is reported. */
const unknown = 'unknown';

describe('a worker that an earlier generation has started', () => {
  it(
    'keeps its slot, in which no other process is started',
    onStage({ count: 2 }, async ({ host, pool, supervisor, events }) => {
      pool.ready(1, 51);
      const started = supervisor.start([host.earlier(1, 51)]);
      assert.deepEqual(events, ['takenOver 1 as 51', 'ready 1', 'started 2 as 101']);
      assert.deepEqual(pool.children, [{ id: 2, pid: 101 }]);
      pool.ready(2, 101);
      await started;
      host.pass(60_000);
      assert.equal(host.processes.length, 1);
    }),
  );

  it(
    'is followed by another process when it ends',
    onStage({}, ({ host, pool, supervisor, events }) => {
      pool.ready(1, 51);
      supervisor.start([host.earlier(1, 51)]).catch(() => undefined);
      pool.leave(51);
      host.process(51).exit(killed);
      host.pass(100);
      assert.deepEqual(events.slice(2), [`died 1: ${unknown}, again in 100 ms`, 'started 1 as 101']);
    }),
  );

  it(
    'is replaced at once when it had closed its servers, though its exit code is unknown',
    onStage({}, ({ host, pool, supervisor, events }) => {
      pool.ready(1, 51);
      supervisor.start([host.earlier(1, 51)]).catch(() => undefined);
      host.pass(1_000);
      host.process(51).exit(killed);
      assert.equal(events.at(-1), 'ready 1');
      pool.unlisten(51);
      pool.leave(51);
      assert.deepEqual(events.slice(-2), [`recycled 1: ${unknown}`, 'started 1 as 101']);
    }),
  );

  it(
    'has not finished when it ends before it listens, because its exit code is unknown',
    onStage({}, ({ host, pool, supervisor, events }) => {
      pool.join(1, 51);
      supervisor.start([host.earlier(1, 51, 'starting')]).catch(() => undefined);
      pool.leave(51);
      host.process(51).exit(killed);
      host.pass(100);
      host.process(101).exit(success);
      assert.deepEqual(events, [
        'takenOver 1 as 51',
        `died 1: ${unknown}, again in 100 ms`,
        'started 1 as 101',
        'exited 1: code 0, finished',
        'finished',
      ]);
    }),
  );

  it(
    'leaves its slot empty when it was drained by hand before',
    onStage({}, ({ host, pool, supervisor, events }) => {
      pool.ready(1, 51);
      pool.takeOut(51);
      supervisor.start([host.earlier(1, 51)]).catch(() => undefined);
      pool.leave(51);
      host.process(51).exit(killed);
      assert.deepEqual(events.slice(2), [`exited 1: ${unknown}, drained`]);
    }),
  );

  for (const state of ['starting', 'waiting'] as const) {
    it(
      `that is ${state}, in a slot that has served, is replaced when it ends well without listening`,
      onStage({}, ({ host, supervisor, events }) => {
        const slot =
          state === 'starting'
            ? { ...host.earlier(1, 51, state), hasServed: true }
            : { id: 1, state, restartInMs: 0, history: { deaths: 1, earlyDeaths: 0 }, hasServed: true };
        supervisor.start([slot]).catch(() => undefined);
        if (state === 'starting') host.process(51).exit(killed);
        host.pass(100);
        host.process(101).exit(success);
        assert.match(events.at(-1) ?? '', /^died 1: code 0/);
      }),
    );
  }

  it(
    'is drained and ended like a child in a stop',
    onStage({}, async (stage) => {
      const { host, pool, supervisor } = stage;
      pool.ready(1, 51);
      supervisor.start([host.earlier(1, 51)]).catch(() => undefined);
      const stopped = supervisor.stop();
      assert.deepEqual([stage.signals(51), [...pool.drains.keys()]], [[], [51]]);
      await stage.drained(51);
      assert.deepEqual(stage.signals(51), ['SIGTERM']);
      host.process(51).exit(killed);
      await stopped;
    }),
  );

  it(
    'has the time of a new process when it was not ready',
    onStage({}, async ({ host, pool, supervisor, events }) => {
      pool.join(1, 51);
      const started = supervisor.start([host.earlier(1, 51, 'starting')]);
      host.pass(60_000);
      assert.equal(await isPending(started), true);
      pool.ready(1, 51);
      await started;
      assert.deepEqual(events, ['takenOver 1 as 51', 'overdue 1 as 51, joined', 'ready 1']);
    }),
  );

  it(
    'is awaited when it is not in the pool, in any state',
    onStage({}, ({ host, supervisor, events }) => {
      supervisor.start([host.earlier(1, 51, 'ready')]).catch(() => undefined);
      host.pass(10_000);
      assert.deepEqual(events, ['takenOver 1 as 51', 'stayedAway 1 as 51', 'started 1 as 101']);
    }),
  );

  it(
    'is followed by another process at once when it has already ended',
    onStage({ count: 2 }, async ({ host, pool, supervisor, events }) => {
      pool.ready(1, 51);
      const dead = { ...host.earlier(1, 51) };
      host.process(51).exit(killed);
      pool.leave(51);
      const started = supervisor.start([dead, { ...dead, id: 2, pid: 52, identity: 'born 52' }]);
      await turns();
      assert.deepEqual(events.slice(2), [
        'died 1: unknown, again in 0 ms',
        'started 1 as 101',
        'died 2: unknown, again in 0 ms',
        'started 2 as 102',
      ]);
      pool.ready(1, 101);
      pool.ready(2, 102);
      await started;
    }),
  );
});

describe('an awaited worker', () => {
  it(
    'has its slot when it is ready after it joined by the control socket',
    onStage({}, async ({ host, pool, supervisor, events }) => {
      const started = supervisor.start([host.earlier(1, 51, 'awaited')]);
      host.pass(9_999);
      assert.equal(await isPending(started), true);
      pool.join(7, 51);
      pool.ready(7, 51);
      await started;
      host.pass(60_000);
      assert.deepEqual(events, ['takenOver 1 as 51', 'ready 1']);
    }),
  );

  it(
    'has its slot when it joined before the start',
    onStage({}, async ({ host, pool, supervisor }) => {
      pool.ready(7, 51);
      await supervisor.start([host.earlier(1, 51, 'awaited')]);
      assert.equal(host.processes.length, 0);
    }),
  );

  it(
    'is followed by another process at once when it ends before it returns; that one gets a pause when it dies',
    onStage({}, ({ host, supervisor, events }) => {
      supervisor.start([host.earlier(1, 51, 'awaited')]).catch(() => undefined);
      host.process(51).exit(killed);
      host.process(101).exit(failure);
      host.pass(100);
      assert.deepEqual(events, [
        'takenOver 1 as 51',
        'died 1: unknown, again in 0 ms',
        'started 1 as 101',
        'died 1: code 1, again in 100 ms',
        'started 1 as 102',
      ]);
    }),
  );

  it(
    'is ended when it does not return in time, and another process is started at once',
    onStage({ drainTimeoutMs: 5_000 }, async (stage) => {
      const { host, pool, supervisor, events } = stage;
      const started = supervisor.start([host.earlier(1, 51, 'awaited')]);
      host.pass(10_000);
      assert.deepEqual(stage.signals(51), ['SIGTERM']);
      assert.deepEqual(events, ['takenOver 1 as 51', 'stayedAway 1 as 51', 'started 1 as 101']);
      pool.ready(1, 101);
      await started;
      host.pass(5_000);
      assert.deepEqual(stage.signals(51), ['SIGTERM', 'SIGKILL']);
      host.process(51).exit(killed);
      host.pass(60_000);
      assert.deepEqual(events.slice(3), ['ready 1', 'killed 1', 'exited 1: unknown']);
    }),
  );

  it(
    'gets no connections when it returns too late',
    onStage({}, async (stage) => {
      const { host, pool, supervisor, events } = stage;
      supervisor.start([host.earlier(1, 51, 'awaited')]).catch(() => undefined);
      host.pass(10_000);
      pool.ready(7, 51);
      assert.deepEqual([...pool.drains.keys()], [51]);
      await stage.drained(51);
      assert.deepEqual(stage.signals(51), ['SIGTERM']);
      assert.equal(events.at(-1), 'started 1 as 101');
    }),
  );

  it(
    'is drained when it returns during a stop',
    onStage({}, async (stage) => {
      const { host, pool, supervisor } = stage;
      supervisor.start([host.earlier(1, 51, 'awaited')]).catch(() => undefined);
      const stopped = supervisor.stop();
      pool.ready(1, 51);
      host.pass(10_000);
      assert.deepEqual(stage.signals(51), []);
      await stage.drained(51);
      assert.deepEqual(stage.signals(51), ['SIGTERM']);
      host.process(51).exit(killed);
      await stopped;
    }),
  );

  it(
    'is ended when it does not return during a stop',
    onStage({}, async (stage) => {
      const { host, supervisor, events } = stage;
      supervisor.start([host.earlier(1, 51, 'awaited')]).catch(() => undefined);
      const stopped = supervisor.stop();
      host.pass(9_999);
      assert.deepEqual(stage.signals(51), []);
      host.pass(1);
      assert.deepEqual(stage.signals(51), ['SIGTERM']);
      host.process(51).exit(killed);
      await stopped;
      assert.deepEqual(events, ['takenOver 1 as 51', 'exited 1: unknown']);
    }),
  );

  it(
    'is killed at once by `kill`',
    onStage({}, async (stage) => {
      const { host, supervisor } = stage;
      supervisor.start([host.earlier(1, 51, 'awaited')]).catch(() => undefined);
      const ended = supervisor.kill();
      assert.deepEqual(stage.signals(51), ['SIGKILL']);
      host.process(51).exit(killed);
      await ended;
    }),
  );

  it(
    'is not followed by another one when its end makes a listener stop all children',
    onStage({}, async ({ host, supervisor, events }) => {
      let stopped: Promise<void> | undefined;
      supervisor.on('died', () => {
        stopped = supervisor.stop();
      });
      supervisor.start([host.earlier(1, 51, 'awaited')]).catch(() => undefined);
      host.process(51).exit(killed);
      await stopped;
      assert.equal(host.processes.length, 0);
      assert.deepEqual(events.slice(1), ['died 1: unknown, again in 0 ms', 'exited 1: no process']);
    }),
  );

  it(
    'shows that the command works, so the start no longer fails',
    onStage({}, async (stage) => {
      const { host, supervisor, events } = stage;
      const started = supervisor.start([host.earlier(1, 51, 'awaited')]);
      host.process(51).exit(killed);
      for (let death = 0; death < 6; death++) stage.dieAndRestart(failure);
      assert.equal(await isPending(started), true);
      assert.equal(events.filter((event) => event === 'crashLooped 1').length, 1);
      const stopped = supervisor.stop();
      host.endAll();
      await stopped;
      await assert.rejects(started, failsWith('ERR_CLOSED'));
    }),
  );
});

describe('a process without a place', () => {
  it(
    'is drained and ended when its slot is beyond `count`',
    onStage({}, async (stage) => {
      const { host, pool, supervisor, events } = stage;
      pool.ready(1, 51);
      pool.ready(2, 52);
      await supervisor.start([host.earlier(2, 52), host.earlier(1, 51)]);
      assert.deepEqual([...pool.drains.keys()], [52]);
      await stage.drained(52);
      assert.deepEqual(stage.signals(52), ['SIGTERM']);
      host.process(52).exit(killed);
      assert.deepEqual(events, ['takenOver 1 as 51', 'ready 1', 'exited 2: unknown']);
    }),
  );

  it(
    'is waited for in a stop, and killed by `kill`',
    onStage({}, async (stage) => {
      const { host, pool, supervisor } = stage;
      pool.ready(1, 51);
      pool.ready(3, 53);
      supervisor.start([host.earlier(1, 51), host.earlier(3, 53)]).catch(() => undefined);
      const stopped = supervisor.stop();
      host.process(51).exit(killed);
      assert.equal(await isPending(stopped), true);
      supervisor.stop().catch(() => undefined);
      assert.deepEqual(stage.signals(53), ['SIGKILL']);
      host.process(53).exit(killed);
      await stopped;
    }),
  );

  it(
    'is drained and ended when another process has its place',
    onStage({}, async (stage) => {
      const { host, pool, supervisor, events } = stage;
      pool.ready(1, 51);
      pool.ready(1, 52);
      pool.ready(1, 53);
      await supervisor.start([host.earlier(1, 51, 'leaving'), host.earlier(1, 52), host.earlier(1, 53)]);
      assert.deepEqual([...pool.drains.keys()], [51, 53]);
      await stage.drained(51);
      await stage.drained(53);
      assert.deepEqual(
        [51, 52, 53].map((pid) => stage.signals(pid)),
        [['SIGTERM'], [], ['SIGTERM']],
      );
      host.process(51).exit(killed);
      assert.deepEqual(events, ['takenOver 1 as 52', 'ready 1', 'exited 1: unknown']);
    }),
  );

  it(
    'is drained when it returns, or ended when it does not return, after its dispatcher was killed',
    onStage({}, async (stage) => {
      const { host, pool, supervisor } = stage;
      supervisor
        .start([host.earlier(2, 52, 'awaited'), host.earlier(3, 53, 'awaited')])
        .catch(() => undefined);
      pool.ready(2, 52);
      await turns();
      assert.deepEqual([stage.signals(52), stage.signals(53)], [[], []]);
      host.pass(10_000);
      assert.deepEqual([stage.signals(52), stage.signals(53)], [[], ['SIGTERM']]);
      await stage.drained(52);
      assert.deepEqual(stage.signals(52), ['SIGTERM']);
    }),
  );
});

describe('a slot that has finished', () => {
  it(
    'stays finished under the next supervisor',
    onStage({ count: 2 }, async ({ host, pool, supervisor, events }) => {
      const started = supervisor.start([{ id: 2, state: 'finished' }]);
      pool.ready(1, 101);
      await started;
      host.pass(60_000);
      assert.deepEqual(events, ['started 1 as 101', 'ready 1']);
    }),
  );

  it(
    'does not finish the supervisor when it was drained by hand',
    onStage({}, async ({ pool, supervisor, events }) => {
      await supervisor.start([{ id: 1, state: 'finished', wasDrained: true }]);
      assert.deepEqual(events, []);
      const restarted = supervisor.restart();
      pool.ready(1, 101);
      assert.equal(await restarted, 1);
    }),
  );

  it(
    'finishes the supervisor when it is the only one',
    onStage({}, async ({ supervisor, events }) => {
      await supervisor.start([{ id: 1, state: 'finished' }]);
      assert.deepEqual(events, ['finished']);
    }),
  );

  it(
    'gives a leaving process whose dispatcher was killed the whole drain timeout to end by itself',
    onStage({ drainTimeoutMs: 30_000 }, async (stage) => {
      const { host, pool, supervisor } = stage;
      pool.ready(1, 52);
      await supervisor.start([host.earlier(1, 51, 'leaving'), host.earlier(1, 52)]);
      host.pass(29_999);
      assert.deepEqual([stage.signals(51), stage.signals(52)], [[], []]);
      host.pass(1);
      assert.deepEqual(stage.signals(51), ['SIGTERM']);
      host.pass(2_000);
      assert.deepEqual(stage.signals(51), ['SIGTERM', 'SIGKILL']);
      assert.equal(host.processes.length, 0);
    }),
  );
});
