// Handing the children over to the next supervisor, in two steps: the first one can be undone.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { socketPair } from '../../../src/fd/index.js';
import type { SlotSnapshot } from '../../../src/supervisor/internal.js';
import { failsWith } from '../../support/errors.js';
import { isPending, turns } from '../../support/loop.js';
import { failure, killed, onStage, success, type Stage } from './stage.js';

/** Starts the children, and makes them ready. */
async function startReady(stage: Stage, count: number): Promise<void> {
  const started = stage.supervisor.start();
  for (let id = 1; id <= count; id++) stage.pool.ready(id, 100 + id);
  await started;
}

/** For example `1: ready 101`. Closes the descriptors. */
function texts(snapshots: readonly SlotSnapshot[]): string[] {
  return snapshots.map((snapshot) => {
    if (!('pid' in snapshot)) return `${snapshot.id}: ${snapshot.state}`;
    assert.equal(snapshot.identity, `born ${snapshot.pid}`);
    snapshot.stdout?.descriptor.close();
    return `${snapshot.id}: ${snapshot.state} ${snapshot.pid}`;
  });
}

describe('the snapshots of the slots', () => {
  it(
    'list the processes in the slots, and slots that have finished',
    onStage({ count: 5 }, async (stage) => {
      const { host, pool, supervisor } = stage;
      supervisor.start().catch(() => undefined);
      pool.ready(1, 101);
      host.process(103).exit(success);
      host.process(104).exit(failure);
      pool.ready(5, 105);
      pool.leave(105);
      await supervisor.freeze();
      assert.deepEqual(texts(supervisor.snapshot()), [
        '1: ready 101',
        '2: starting 102',
        '3: finished',
        '4: waiting',
        '5: ready 105',
      ]);
      supervisor.thaw();
    }),
  );

  it(
    'list processes that were taken over, are awaited, or are leaving',
    onStage({ count: 2 }, async ({ host, pool, supervisor }) => {
      for (const pid of [51, 53]) pool.ready(1, pid);
      supervisor
        .start([
          host.earlier(1, 51),
          host.earlier(2, 52, 'awaited'),
          host.earlier(1, 53, 'leaving'),
          host.earlier(4, 54),
        ])
        .catch(() => undefined);
      await supervisor.freeze();
      assert.deepEqual(texts(supervisor.snapshot()), [
        '1: ready 51',
        '1: leaving 53',
        '2: awaited 52',
        '4: leaving 54',
      ]);
      supervisor.thaw();
    }),
  );

  it(
    'list slots that wait for their next process, which is started when the pause ends, with the same count of deaths',
    onStage({}, async (stage) => {
      await startReady(stage, 1);
      stage.host.pass(1_000);
      for (let death = 0; death < 3; death++) stage.dieAndRestart(failure);
      stage.last.exit(failure);
      assert.equal(stage.events.at(-1), 'died 1: code 1, again in 800 ms');
      stage.host.pass(300);
      await stage.supervisor.freeze();
      const snapshots = stage.supervisor.snapshot();
      assert.deepEqual(snapshots, [
        {
          id: 1,
          state: 'waiting',
          restartInMs: 500,
          history: { deaths: 4, earlyDeaths: 4 },
          hasServed: true,
        },
      ]);
      stage.supervisor.thaw();
      await onStage({}, (next) => {
        next.supervisor.start(snapshots).catch(() => undefined);
        next.host.pass(499);
        assert.deepEqual(next.events, []);
        next.host.pass(1);
        // It had served before, so a crash loop does not end the supervisor.
        next.dieAndRestart(failure);
        assert.deepEqual(next.events, [
          'started 1 as 101',
          'died 1: code 1, again in 1600 ms',
          'crashLooped 1',
          'started 1 as 102',
        ]);
      })();
    }),
  );

  it(
    'list slots that were drained by hand, and whether they have ever served',
    onStage({}, async (stage) => {
      await startReady(stage, 1);
      stage.pool.takeOut(101);
      stage.pool.leave(101);
      stage.last.exit(success);
      await stage.supervisor.freeze();
      const snapshots = stage.supervisor.snapshot();
      stage.supervisor.thaw();
      await onStage({}, async (next) => {
        await next.supervisor.start(snapshots);
        next.restart();
        next.last.exit(success);
        assert.equal(next.events.at(-1), 'died 1: code 0, again in 100 ms');
      })();
    }),
  );

  it(
    'carry the output of the processes, with a line that has begun',
    onStage({ count: 2, output: 'prefixed' }, async (stage) => {
      await startReady(stage, 2);
      await stage.supervisor.freeze();
      const snapshots = stage.supervisor.snapshot();
      for (const snapshot of snapshots) {
        assert.ok(snapshot.state === 'ready' && snapshot.stdout);
        assert.equal(Buffer.from(snapshot.stdout.partial).toString(), 'part');
        snapshot.stdout.descriptor.close();
      }
      stage.supervisor.thaw();
      assert.deepEqual(
        stage.host.outputs.map(({ calls }) => calls),
        [
          ['freeze', 'thaw'],
          ['freeze', 'thaw'],
        ],
      );
    }),
  );

  it(
    'leak no descriptor when one cannot be duplicated',
    onStage({ count: 2, output: 'prefixed' }, async (stage) => {
      await startReady(stage, 2);
      const [, second] = stage.host.outputs;
      assert.ok(second);
      second.duplicate = () => {
        throw new Error('EMFILE');
      };
      await stage.supervisor.freeze();
      assert.throws(() => stage.supervisor.snapshot(), /EMFILE/);
      stage.supervisor.thaw();
    }),
  );

  it(
    'are available only while the supervisor is frozen',
    onStage({}, async (stage) => {
      await startReady(stage, 1);
      assert.throws(() => stage.supervisor.snapshot(), TypeError);
      await assert.rejects(stage.supervisor.disown(), TypeError);
      await stage.supervisor.freeze();
      stage.supervisor.thaw();
      assert.throws(() => stage.supervisor.snapshot(), TypeError);
    }),
  );
});

describe('a supervisor that takes over', () => {
  it(
    'forwards the output of each process, with its prefix',
    onStage({ output: 'inherit' }, async ({ host, pool, supervisor }) => {
      const [here, there] = socketPair();
      const stdout = { descriptor: here.release(), partial: Buffer.from('part') };
      pool.ready(1, 51);
      await supervisor.start([{ ...host.earlier(1, 51), stdout }]);
      assert.deepEqual(
        host.outputs.map(({ prefix, ends }) => [prefix, ends]),
        [['[1] ', { stdout }]],
      );
      there.destroy();
    }),
  );
});

describe('a frozen supervisor', () => {
  it(
    'starts and ends nothing until it thaws',
    onStage({ count: 2 }, async (stage) => {
      const { host, pool, supervisor, events } = stage;
      await startReady(stage, 2);
      pool.leave(101);
      host.process(101).exit(failure);
      await supervisor.freeze();
      events.splice(0);
      pool.leave(102);
      host.process(102).exit(killed);
      host.pass(60_000);
      assert.equal(events.length, 0);
      supervisor.thaw();
      assert.deepEqual(events, ['died 2: SIGKILL, again in 100 ms', 'started 1 as 103']);
      host.pass(100);
      assert.equal(events.at(-1), 'started 2 as 104');
    }),
  );

  it(
    'thaws and stops when it is asked to stop',
    onStage({}, async (stage) => {
      const { host, supervisor } = stage;
      await startReady(stage, 1);
      await supervisor.freeze();
      const stopped = supervisor.stop();
      assert.throws(() => supervisor.snapshot(), TypeError);
      await stage.drained(101);
      host.process(101).exit(killed);
      await stopped;
      await assert.rejects(supervisor.freeze(), failsWith('ERR_CLOSED'));
    }),
  );

  it(
    'rejects the freeze when it is stopped before reading has stopped',
    onStage({}, async (stage) => {
      await startReady(stage, 1);
      const paused = assert.rejects(stage.supervisor.freeze(), failsWith('ERR_CLOSED'));
      stage.supervisor.kill().catch(() => undefined);
      await paused;
    }),
  );

  it(
    'refuses to be frozen again, and to restart',
    onStage({}, async (stage) => {
      await startReady(stage, 1);
      await stage.supervisor.freeze();
      await assert.rejects(stage.supervisor.freeze(), failsWith('ERR_BUSY'));
      await assert.rejects(stage.supervisor.restart(), failsWith('ERR_BUSY'));
      stage.supervisor.thaw();
      stage.supervisor.thaw();
    }),
  );

  it(
    'cannot be frozen before the start, or during a restart',
    onStage({}, async (stage) => {
      await assert.rejects(stage.supervisor.freeze(), failsWith('ERR_BUSY'));
      await startReady(stage, 1);
      stage.restart();
      await assert.rejects(stage.supervisor.freeze(), failsWith('ERR_BUSY', /restart/));
    }),
  );
});

describe('a supervisor that disowns its children', () => {
  it(
    'sends no signal, starts nothing, and has no timer and no watch',
    onStage({ count: 4, output: 'prefixed' }, async (stage) => {
      const { host, pool, supervisor, events } = stage;
      pool.ready(1, 51);
      const started = supervisor.start([
        host.earlier(1, 51),
        host.earlier(2, 52, 'awaited'),
        host.earlier(9, 59, 'leaving'),
      ]);
      host.process(102).exit(failure);
      await supervisor.freeze();
      events.splice(0);
      await supervisor.disown();
      await assert.rejects(started, failsWith('ERR_CLOSED'));
      assert.deepEqual([host.timers, host.watches, pool.listenerCount('ready')], [0, 0, 0]);
      assert.deepEqual(host.forgotten, [101]);
      assert.deepEqual(
        host.outputs.map(({ calls }) => calls.at(-1)),
        ['disown', 'disown'],
      );
      for (const pid of [51, 52, 59, 101]) assert.deepEqual(stage.signals(pid), []);
      host.endAll();
      pool.leave(51);
      host.pass(60_000);
      assert.equal(host.processes.length, 2);
      assert.deepEqual(events, []);
    }),
  );

  it(
    'stops at once, and refuses to restart',
    onStage({}, async (stage) => {
      const { supervisor } = stage;
      await startReady(stage, 1);
      await supervisor.freeze();
      await supervisor.disown();
      await supervisor.stop();
      await supervisor.kill();
      supervisor.thaw();
      assert.deepEqual(stage.signals(101), []);
      await assert.rejects(supervisor.restart(), failsWith('ERR_CLOSED'));
      await assert.rejects(supervisor.freeze(), failsWith('ERR_CLOSED'));
      await assert.rejects(supervisor.disown(), TypeError);
    }),
  );

  it(
    'sends no signal to a worker that has drained later',
    onStage({}, async (stage) => {
      const { host, pool, supervisor } = stage;
      pool.ready(1, 51);
      pool.ready(2, 52);
      await supervisor.start([host.earlier(1, 51), host.earlier(2, 52)]);
      await supervisor.freeze();
      await supervisor.disown();
      await stage.drained(52);
      await turns();
      assert.deepEqual(stage.signals(52), []);
    }),
  );

  it(
    'resolves when the output that was not handed over is written',
    onStage({ output: 'prefixed' }, async (stage) => {
      await startReady(stage, 1);
      const [output] = stage.host.outputs;
      assert.ok(output);
      let written = (): void => undefined;
      output.disown = () =>
        new Promise((resolve) => {
          written = resolve;
        });
      await stage.supervisor.freeze();
      const disowned = stage.supervisor.disown();
      assert.equal(await isPending(disowned), true);
      written();
      await disowned;
    }),
  );
});
