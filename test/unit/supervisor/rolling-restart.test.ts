// Replacing the processes one by one: a new one is ready before its old one is drained, and a new one that fails changes
// nothing.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Supervisor } from '../../../src/supervisor/index.js';
import { failsWith } from '../../support/errors.js';
import { isPending, turns } from '../../support/loop.js';
import { failure, FakeHost, FakePool, killed, onStage, success, type Stage } from './stage.js';

const terminated = { is: 'signal', signal: 'SIGTERM' } as const;

/** Starts them, all are ready, and their events are forgotten. */
function startReady(stage: Stage, count: number): void {
  stage.start();
  for (let id = 1; id <= count; id++) stage.pool.ready(id, 100 + id);
  stage.events.splice(0);
}

/** The old process is drained, is told to end, and ends. */
async function leave(stage: Stage, pid: number): Promise<void> {
  await stage.drained(pid);
  assert.deepEqual(stage.signals(pid), ['SIGTERM']);
  stage.pool.leave(pid);
  stage.host.process(pid).exit(terminated);
}

function pids({ host }: Stage): number[] {
  return host.processes.map(({ pid }) => pid);
}

describe('a rolling restart', () => {
  it(
    'starts the new worker before it drains the old one, and goes to the next when that has ended',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const restarted = stage.supervisor.restart();
      assert.deepEqual(stage.events, ['restartBegan of 2', 'started 1 as 103']);
      assert.equal(stage.host.process(103).start?.env['PASSFD_WORKER_ID'], '1');
      await turns();
      assert.equal(stage.pool.drains.size, 0);

      stage.pool.ready(1, 103);
      assert.deepEqual([...stage.pool.drains.keys()], [101]);
      assert.deepEqual(stage.signals(101), []);
      await leave(stage, 101);
      assert.deepEqual(stage.events.splice(0).slice(2), [
        'ready 1',
        'exited 1: SIGTERM',
        'replaced 1: 103 for 101, 1 of 2',
        'started 2 as 104',
      ]);

      stage.pool.ready(2, 104);
      assert.equal(await isPending(restarted), true);
      await leave(stage, 102);
      await restarted;
      assert.deepEqual(stage.events, [
        'ready 2',
        'exited 2: SIGTERM',
        'replaced 2: 104 for 102, 2 of 2',
        'restarted 2',
      ]);
      assert.deepEqual([stage.signals(103), stage.signals(104)], [[], []]);
    }),
  );

  it(
    'kills an old one that does not end, as when all are stopped',
    onStage({ drainTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 102);
      stage.host.pass(5_000);
      assert.deepEqual(stage.signals(101), ['SIGTERM']);
      stage.host.pass(2_000);
      assert.deepEqual(stage.signals(101), ['SIGTERM', 'SIGKILL']);
      assert.equal(await isPending(restarted), true);
      stage.host.process(101).exit(killed);
      await restarted;
    }),
  );

  it(
    'runs so many beside the wanted number as it may: the next one starts when an old one has ended',
    onStage({ count: 3, maxExtra: 2 }, async (stage) => {
      startReady(stage, 3);
      const restarted = stage.supervisor.restart();
      assert.deepEqual(pids(stage), [101, 102, 103, 104, 105]);
      stage.pool.ready(2, 105);
      await stage.drained(102);
      assert.equal(stage.host.processes.length, 5);
      stage.host.process(102).exit(terminated);
      assert.equal(stage.host.processes.length, 6);
      stage.pool.ready(3, 106);
      stage.pool.ready(1, 104);
      await leave(stage, 101);
      await leave(stage, 103);
      await restarted;
      assert.deepEqual(
        stage.events.filter((event) => event.startsWith('replaced')),
        [
          'replaced 2: 105 for 102, 1 of 3',
          'replaced 1: 104 for 101, 2 of 3',
          'replaced 3: 106 for 103, 3 of 3',
        ],
      );
    }),
  );

  it(
    'counts an old one that has not ended since the last restart',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      stage.restart();
      stage.pool.ready(1, 103);
      stage.pool.leave(103);
      stage.host.process(103).exit(failure);
      await turns();
      stage.host.pass(100);
      assert.equal(stage.last.pid, 104);
      const again = stage.supervisor.restart();
      assert.equal(stage.host.processes.length, 4);
      await leave(stage, 101);
      assert.equal(stage.host.processes.length, 5);
      stage.pool.ready(1, 105);
      stage.host.process(104).exit(terminated);
      stage.pool.ready(2, 106);
      await leave(stage, 102);
      await again;
    }),
  );

  it(
    'gives a slot that waits for its next process one at once, beside what else it may',
    onStage({ count: 3 }, async (stage) => {
      startReady(stage, 3);
      stage.pool.leave(102);
      stage.host.process(102).exit(failure);
      const restarted = stage.supervisor.restart();
      assert.deepEqual(pids(stage).slice(3), [104, 105]);
      assert.deepEqual(stage.pool.children.slice(3), [
        { id: 1, pid: 104 },
        { id: 2, pid: 105 },
      ]);
      stage.pool.ready(2, 105);
      assert.equal(stage.events.at(-1), 'replaced 2: 105 for none, 1 of 3');
      stage.pool.ready(1, 104);
      await leave(stage, 101);
      stage.pool.ready(3, 106);
      await leave(stage, 103);
      await restarted;
      stage.host.pass(60_000);
      assert.equal(stage.host.processes.length, 6);
    }),
  );

  it(
    'gives one that dies before its turn its new process at once',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const restarted = stage.supervisor.restart();
      stage.pool.leave(102);
      stage.host.process(102).exit(failure);
      assert.deepEqual(stage.events.slice(2), ['died 2: code 1, again in 100 ms', 'started 2 as 104']);
      stage.pool.ready(2, 104);
      stage.pool.ready(1, 103);
      await leave(stage, 101);
      await restarted;
      assert.equal(stage.host.processes.length, 4);
    }),
  );

  it(
    'fills the slot of one that has finished, at once',
    onStage({ count: 2 }, async (stage) => {
      stage.start();
      stage.host.process(101).exit(success);
      stage.pool.ready(2, 102);
      const restarted = stage.supervisor.restart();
      assert.deepEqual(pids(stage).slice(2), [103, 104]);
      stage.pool.ready(1, 103);
      stage.pool.ready(2, 104);
      await leave(stage, 102);
      assert.equal(await restarted, 2);
      assert.equal(stage.events.at(-1), 'restarted 2');
    }),
  );

  it(
    'does not fail when one that had finished finishes again, and does not count it',
    onStage({ count: 2 }, async (stage) => {
      stage.start();
      stage.host.process(101).exit(success);
      stage.pool.ready(2, 102);
      const restarted = stage.supervisor.restart();
      stage.host.process(103).exit(success);
      stage.pool.ready(2, 104);
      await leave(stage, 102);
      assert.equal(await restarted, 1);
      assert.equal(stage.events.at(-1), 'restarted 1');
    }),
  );

  it(
    'fails when a new one ends well before it listens, and the old one serves on',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.host.process(102).exit(success);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /ended with code 0/));
      stage.host.pass(60_000);
      assert.deepEqual([stage.host.processes.length, stage.signals(101)], [2, []]);
    }),
  );

  it(
    'fails when a new one ends well before it listens in a slot that waited, and tries again',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      stage.pool.leave(101);
      stage.host.process(101).exit(failure);
      const restarted = stage.supervisor.restart();
      stage.host.process(102).exit(success);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /ended with code 0/));
      stage.host.pass(60_000);
      assert.equal(stage.last.pid, 103);
    }),
  );

  it(
    'gives one that ends well by itself before its turn its new process once',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      stage.host.pass(1_000);
      const restarted = stage.supervisor.restart();
      stage.pool.leave(102);
      stage.host.process(102).exit(success);
      assert.deepEqual(stage.events.slice(2), ['recycled 2: code 0', 'started 2 as 104']);
      stage.pool.ready(2, 104);
      stage.pool.ready(1, 103);
      await leave(stage, 101);
      assert.equal(await restarted, 2);
      assert.equal(stage.host.processes.length, 4);
    }),
  );

  it(
    'goes on when an old one ends well by itself while its new one starts, and when a new one does later',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const restarted = stage.supervisor.restart();
      stage.pool.leave(101);
      stage.host.process(101).exit(success);
      assert.equal(stage.host.processes.length, 4);
      stage.pool.ready(1, 103);
      stage.host.pass(1_000);
      stage.pool.leave(103);
      stage.host.process(103).exit(success);
      assert.equal(stage.events.at(-1), 'started 1 as 105');
      stage.pool.ready(2, 104);
      await leave(stage, 102);
      assert.equal(await restarted, 2);
    }),
  );

  it(
    'waits for the last words of one that ended before its turn',
    onStage({ count: 1 }, async (stage) => {
      startReady(stage, 1);
      stage.host.process(101).exit(success);
      const restarted = stage.supervisor.restart();
      assert.equal(stage.host.processes.length, 1);
      stage.pool.leave(101);
      assert.equal(stage.last.pid, 102);
      stage.pool.ready(1, 102);
      assert.equal(await restarted, 1);
    }),
  );

  it(
    'replaces one that is not ready yet, and the start is done when the new one is',
    onStage({}, async (stage) => {
      const started = stage.supervisor.start();
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 102);
      await started;
      assert.deepEqual(stage.signals(101), ['SIGTERM']);
      stage.host.process(101).exit(terminated);
      await restarted;
    }),
  );

  it(
    'replaces a worker of an earlier generation',
    onStage({}, async (stage) => {
      stage.pool.ready(1, 51);
      await stage.supervisor.start([stage.host.earlier(1, 51)]);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 101);
      await leave(stage, 51);
      await restarted;
      assert.equal(stage.events.at(-2), 'replaced 1: 101 for 51, 1 of 1');
    }),
  );

  it(
    'has the new one in the place of an awaited one that stays away meanwhile',
    onStage({}, async (stage) => {
      const started = stage.supervisor.start([stage.host.earlier(1, 51, 'awaited')]);
      const restarted = stage.supervisor.restart();
      stage.host.pass(10_000);
      assert.deepEqual(stage.signals(51), ['SIGTERM']);
      stage.pool.ready(1, 101);
      await Promise.all([started, restarted]);
      assert.equal(stage.host.processes.length, 1);
    }),
  );

  it(
    'gives the slot a new beginning: the next pause is the first again',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      for (let death = 0; death < 3; death++) stage.dieAndRestart(failure);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 105);
      stage.host.process(104).exit(terminated);
      await restarted;
      stage.pool.leave(105);
      stage.host.process(105).exit(failure);
      assert.equal(stage.events.at(-1), 'died 1: code 1, again in 100 ms');
    }),
  );

  it('refuses a number beside the wanted one that is none', () => {
    for (const maxExtra of [0, -1, 1.5, Number.NaN]) {
      assert.throws(
        () => new Supervisor(new FakePool(), { command: ['app'], count: 1, maxExtra }, new FakeHost()),
        TypeError,
      );
    }
  });
});

describe('an old worker that ends by itself during a rolling restart', () => {
  it(
    'leaves its place to the new one, whose time goes on',
    onStage({ readyTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.pool.leave(101);
      stage.host.process(101).exit(failure);
      stage.host.pass(4_000);
      assert.deepEqual(stage.events.slice(1), ['started 1 as 102', 'exited 1: code 1']);
      stage.pool.ready(1, 102);
      await restarted;
      assert.equal(stage.events.at(-2), 'replaced 1: 102 for none, 1 of 1');
      stage.host.pass(60_000);
      assert.equal(stage.host.processes.length, 2);
    }),
  );

  it(
    'is followed as usual when the new one dies too',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.pool.leave(101);
      stage.host.process(101).exit(failure);
      stage.host.process(102).exit(failure);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED'));
      assert.equal(stage.events.at(-2), 'died 1: code 1, again in 100 ms');
      stage.host.pass(100);
      assert.equal(stage.events.at(-1), 'started 1 as 103');
    }),
  );

  it(
    'is not drained when it ends while its last words are read',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.host.process(101).exit(failure);
      stage.pool.ready(1, 102);
      await restarted;
      assert.equal(stage.pool.drains.size, 0);
      assert.deepEqual(stage.events.slice(2), [
        'ready 1',
        'exited 1: code 1',
        'replaced 1: 102 for 101, 1 of 1',
        'restarted 1',
      ]);
    }),
  );
});

describe('a rolling restart whose new process fails', () => {
  it(
    'names it with its last words, and leaves the old one and the other slots as they are',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const restarted = stage.supervisor.restart();
      stage.pool.join(1, 103);
      stage.pool.say(103, 'ReferenceError: x is not defined');
      stage.host.process(103).exit(failure);
      stage.pool.leave(103);
      await assert.rejects(
        restarted,
        failsWith(
          'ERR_WORKER_FAILED',
          /0 of 2 .*worker 1 \(process 103\) ended with code 1; its last words: ReferenceError: x is not defined$/,
        ),
      );
      assert.deepEqual(stage.events.slice(2), ['exited 1: code 1', 'restartFailed ERR_WORKER_FAILED']);
      stage.host.pass(60_000);
      assert.deepEqual(pids(stage), [101, 102, 103]);
      assert.deepEqual([stage.signals(101), stage.pool.drains.size], [[], 0]);
    }),
  );

  it(
    'keeps what is replaced already, and can be tried again',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 103);
      await leave(stage, 101);
      stage.host.process(104).exit(failure);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /1 of 2 .*worker 2/));
      assert.deepEqual([stage.signals(103), stage.signals(102)], [[], []]);
      const again = stage.supervisor.restart();
      stage.pool.ready(1, 105);
      await leave(stage, 103);
      stage.pool.ready(2, 106);
      await leave(stage, 102);
      await again;
    }),
  );

  it(
    'kills one that is not ready in time',
    onStage({ readyTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.pool.join(1, 102);
      stage.pool.say(102, 'connecting to the database');
      stage.host.pass(4_999);
      assert.deepEqual(stage.signals(102), []);
      stage.host.pass(1);
      assert.deepEqual([stage.signals(101), stage.signals(102)], [[], ['SIGKILL']]);
      await assert.rejects(
        restarted,
        failsWith(
          'ERR_WORKER_FAILED',
          /process 102\) was not ready within 5000 ms, .*: connecting to the database$/,
        ),
      );
      stage.pool.ready(1, 102);
      stage.host.process(102).exit(killed);
      stage.host.pass(60_000);
      assert.equal(stage.pool.drains.size, 0);
      assert.deepEqual(stage.events.slice(2), [
        'killed 1',
        'restartFailed ERR_WORKER_FAILED',
        'exited 1: SIGKILL',
      ]);
    }),
  );

  it(
    'names what one that is not ready in time has started by itself, and what to do',
    onStage({ readyTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.host.launched.set(102, 'process 103 (node app.ts)');
      stage.host.pass(5_000);
      await assert.rejects(
        restarted,
        failsWith(
          'ERR_WORKER_FAILED',
          /was killed. It has started process 103 \(node app.ts\), which is no worker: give passfd run the file/,
        ),
      );
    }),
  );

  it(
    'kills one that is not ready in time in a slot without an old one, and that gets another one as usual',
    onStage({ count: 2, readyTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 2);
      stage.pool.leave(101);
      stage.host.process(101).exit(failure);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(2, 104);
      await leave(stage, 102);
      stage.host.pass(5_000);
      assert.deepEqual(stage.signals(103), ['SIGKILL']);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /1 of 2 .*worker 1 /));
      stage.host.process(103).exit(killed);
      stage.host.pass(200);
      assert.equal(stage.events.at(-1), 'started 1 as 105');
    }),
  );

  it(
    'says why one cannot be started',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      stage.host.spawnError = new Error('spawn app ENOENT');
      await assert.rejects(
        stage.supervisor.restart(),
        failsWith('ERR_WORKER_FAILED', /the new worker 1 could not be started: spawn app ENOENT/),
      );
      assert.deepEqual([stage.signals(101), stage.pool.drains.size], [[], 0]);
    }),
  );

  it(
    'stays away from the next slots also when the new one dies behind its readiness, before the old one has ended',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 103);
      stage.pool.leave(103);
      stage.host.process(103).exit(failure);
      await assert.rejects(
        restarted,
        failsWith('ERR_WORKER_FAILED', /worker 1 \(process 103\) ended with code 1/),
      );
      await leave(stage, 101);
      stage.host.pass(100);
      assert.equal(stage.last.start?.env['PASSFD_WORKER_ID'], '1');
      assert.deepEqual(pids(stage), [101, 102, 103, 104]);
      assert.deepEqual(stage.signals(102), []);
    }),
  );

  it(
    'ends another new one that has no place yet, and lets an old one go that is leaving',
    onStage({ count: 3, maxExtra: 3 }, async (stage) => {
      startReady(stage, 3);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 104);
      stage.host.process(105).exit(failure);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /0 of 3 .*worker 2/));
      assert.deepEqual([stage.signals(106), stage.signals(103)], [['SIGTERM'], []]);
      await leave(stage, 101);
      stage.host.process(106).exit(terminated);
      stage.host.pass(60_000);
      assert.deepEqual(pids(stage), [101, 102, 103, 104, 105, 106]);
    }),
  );

  it(
    'takes for failed one that ends well, though it has a place: the old one is still needed',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.host.process(102).exit(success);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /ended with code 0/));
      assert.deepEqual(stage.signals(101), []);
    }),
  );
});

describe('a rolling restart that is refused', () => {
  it(
    'is a second one while one runs',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      await assert.rejects(stage.supervisor.restart(), failsWith('ERR_BUSY', /A restart is running already/));
      stage.pool.ready(1, 102);
      await leave(stage, 101);
      await restarted;
      stage.restart();
      assert.equal(stage.last.pid, 103);
    }),
  );

  it(
    'is one before the start, or behind the stop',
    onStage({}, async (stage) => {
      await assert.rejects(stage.supervisor.restart(), failsWith('ERR_BUSY', /not started yet/));
      startReady(stage, 1);
      const stopped = stage.supervisor.stop();
      await assert.rejects(stage.supervisor.restart(), failsWith('ERR_CLOSED'));
      stage.host.endAll();
      await stopped;
      await assert.rejects(stage.supervisor.restart(), failsWith('ERR_CLOSED'));
    }),
  );
});

describe('a stop during a rolling restart', () => {
  it(
    'ends the new one at once and drains the old one, and the restart says so',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const restarted = stage.supervisor.restart();
      const stopped = stage.supervisor.stop();
      await assert.rejects(restarted, failsWith('ERR_CLOSED'));
      assert.deepEqual(stage.signals(103), ['SIGTERM']);
      assert.deepEqual([...stage.pool.drains.keys()], [101, 102]);
      await leave(stage, 101);
      await leave(stage, 102);
      assert.equal(await isPending(stopped), true);
      stage.host.process(103).exit(terminated);
      await stopped;
      assert.equal(stage.host.processes.length, 3);
    }),
  );

  it(
    'drains the new one that is ready, and waits for the old one that is leaving',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 102);
      const stopped = stage.supervisor.stop();
      await assert.rejects(restarted, failsWith('ERR_CLOSED'));
      assert.deepEqual([...stage.pool.drains.keys()], [101, 102]);
      await leave(stage, 102);
      assert.equal(await isPending(stopped), true);
      await leave(stage, 101);
      await stopped;
    }),
  );

  it(
    'kills all of them when it is told a second time, in every phase',
    onStage({ count: 2, maxExtra: 2 }, async (stage) => {
      startReady(stage, 2);
      stage.restart();
      stage.pool.ready(1, 103);
      const ended = stage.supervisor.kill();
      assert.deepEqual(
        stage.host.processes.map(({ signals }) => signals),
        [['SIGKILL'], ['SIGKILL'], ['SIGKILL'], ['SIGTERM', 'SIGKILL']],
      );
      stage.host.endAll();
      await ended;
    }),
  );

  it(
    'ends while a new one cannot be started, or one was killed for being late',
    onStage({ count: 2, readyTimeoutMs: 1_000 }, async (stage) => {
      startReady(stage, 2);
      stage.restart();
      stage.host.pass(1_000);
      const stopped = stage.supervisor.stop();
      stage.host.process(101).exit(terminated);
      stage.host.process(102).exit(terminated);
      assert.equal(await isPending(stopped), true);
      stage.host.process(103).exit(killed);
      await stopped;
    }),
  );
});

describe('the new process in a rolling restart', () => {
  it(
    'takes the place when it serves every address that the old one serves, and not before',
    onStage({}, (stage) => {
      startReady(stage, 1);
      stage.pool.serve(101, 9090, 3000);
      stage.restart();
      stage.pool.ready(1, 102);
      stage.pool.serve(102, 9090);
      stage.pool.serve(102, 9090, 4000);
      assert.deepEqual([stage.pool.drains.size, stage.events.includes('ready 1')], [0, false]);
      stage.pool.serve(102, 9090, 4000, 3000);
      assert.deepEqual([...stage.pool.drains.keys()], [101]);
      assert.equal(stage.events.at(-1), 'ready 1');
    }),
  );

  it(
    'need not serve what the old one gives up meanwhile',
    onStage({}, (stage) => {
      startReady(stage, 1);
      stage.pool.serve(101, 9090, 3000);
      stage.restart();
      stage.pool.ready(1, 102);
      stage.pool.serve(102, 9090);
      stage.pool.serve(101, 9090);
      assert.deepEqual([...stage.pool.drains.keys()], [101]);
    }),
  );

  it(
    'is drained and ended when it lacks an address for too long, and the restart fails with that address',
    onStage({ count: 2, readyTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 2);
      for (const pid of [101, 102]) stage.pool.serve(pid, 9090, 3000);
      const restarted = stage.supervisor.restart();
      stage.host.pass(4_000);
      stage.pool.ready(1, 103);
      stage.pool.serve(103, 9090);
      stage.host.pass(1_000);
      await assert.rejects(
        restarted,
        failsWith(
          'ERR_WORKER_FAILED',
          /0 of 2 .*process 103\) did not listen at 127\.0\.0\.1:3000 within 5000 ms, .* --without 127\.0\.0\.1:3000$/,
        ),
      );
      assert.deepEqual([...stage.pool.drains.keys()], [103]);
      assert.deepEqual([stage.signals(103), stage.signals(101)], [[], []]);
      await leave(stage, 103);
      stage.host.pass(60_000);
      assert.deepEqual(stage.events.slice(2), ['restartFailed ERR_WORKER_FAILED', 'exited 1: SIGTERM']);
      assert.deepEqual(pids(stage), [101, 102, 103]);
    }),
  );

  for (const name of ['127.0.0.1:3000', '3000']) {
    it(
      `need not serve an address that is given up as ${name}, but every other one`,
      onStage({}, (stage) => {
        startReady(stage, 1);
        stage.pool.serve(101, 3000, 9090, 8443);
        stage.restart({ without: [name] });
        stage.pool.ready(1, 102);
        stage.pool.serve(102, 9090);
        assert.equal(stage.pool.drains.size, 0);
        stage.pool.serve(102, 9090, 8443);
        assert.deepEqual([...stage.pool.drains.keys()], [101]);
      }),
    );
  }

  it(
    'has to serve what the old one served that dies meanwhile; if it does not, it stays, and the restart fails',
    onStage({ readyTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 1);
      stage.pool.serve(101, 9090, 3000);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 102);
      stage.pool.serve(102, 9090);
      stage.pool.leave(101);
      stage.host.process(101).exit(failure);
      assert.equal(await isPending(restarted), true);
      stage.host.pass(5_000);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /127\.0\.0\.1:3000/));
      assert.deepEqual([stage.signals(102), stage.pool.drains.size], [[], 0]);
      assert.ok(stage.events.includes('ready 1'));
      // As a worker like any other from here on.
      stage.pool.leave(102);
      stage.host.process(102).exit(failure);
      assert.equal(stage.events.at(-1), 'died 1: code 1, again in 100 ms');
    }),
  );

  it(
    'has to serve what the last one served, where its slot had no process',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      stage.pool.serve(101, 9090, 3000);
      stage.pool.leave(101);
      stage.host.process(101).exit(failure);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 102);
      stage.pool.serve(102, 9090);
      assert.equal(await isPending(restarted), true);
      stage.pool.serve(102, 9090, 3000);
      await restarted;
    }),
  );

  it(
    'has to serve what the last one served that died, where the next one does not serve that yet',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      stage.pool.serve(101, 9090, 3000);
      stage.pool.leave(101);
      stage.host.process(101).exit(failure);
      stage.host.pass(100);
      stage.pool.ready(1, 102);
      stage.pool.serve(102, 9090);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 103);
      stage.pool.serve(103, 9090);
      assert.deepEqual([await isPending(restarted), stage.pool.drains.size], [true, 0]);
      stage.pool.serve(103, 9090, 3000);
      assert.deepEqual([...stage.pool.drains.keys()], [102]);
      await leave(stage, 102);
      await restarted;
    }),
  );

  it(
    'waits for an old one that is to come back: until then nobody knows what that serves',
    onStage({}, async (stage) => {
      const started = stage.supervisor.start([stage.host.earlier(1, 51, 'awaited')]);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 101);
      stage.pool.serve(101, 9090);
      assert.equal(await isPending(restarted), true);
      stage.pool.ready(1, 51, 9090, 3000);
      assert.equal(stage.pool.drains.size, 0);
      stage.pool.serve(101, 9090, 3000);
      await leave(stage, 51);
      await Promise.all([started, restarted]);
    }),
  );

  it(
    'stays with what it serves when another slot ends the restart and the old one has died',
    onStage({ count: 2, maxExtra: 2 }, async (stage) => {
      startReady(stage, 2);
      for (const pid of [101, 102]) stage.pool.serve(pid, 9090, 3000);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 103);
      stage.pool.serve(103, 9090);
      stage.pool.leave(101);
      stage.host.process(101).exit(failure);
      stage.host.process(104).exit(failure);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /worker 2/));
      assert.deepEqual([stage.signals(103), stage.pool.drains.size], [[], 0]);
      assert.ok(stage.events.includes('ready 1'));
    }),
  );
});
