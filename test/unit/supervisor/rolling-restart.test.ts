// Replacing the processes one by one: a new one is ready before its old one is drained. If the new one fails, the old one
// stays.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Supervisor } from '../../../src/supervisor/index.js';
import { failsWith } from '../../support/errors.js';
import { isPending, turns } from '../../support/loop.js';
import { failure, FakeHost, FakePool, killed, onStage, success, type Stage } from './stage.js';

const terminated = { is: 'signal', signal: 'SIGTERM' } as const;

/** Starts the children, makes them ready, and clears the events. */
function startReady(stage: Stage, count: number): void {
  stage.start();
  for (let id = 1; id <= count; id++) stage.pool.ready(id, 100 + id);
  stage.events.splice(0);
}

/** The old process is drained, gets SIGTERM, and ends. */
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
    'starts the new worker before it drains the old one, and goes on when the old one has ended',
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
    'kills an old worker that does not end, as a stop does',
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
    'runs at most `maxExtra` extra processes: the next one starts when an old one has ended',
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
    'counts an old worker that has not ended since the last restart',
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
    'gives a slot that waits for its next process one at once, in addition to `maxExtra`',
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
    'starts the new process at once when the old one dies before its turn',
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
    'starts a process at once in a slot that has finished',
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
    'does not fail when a slot that had finished finishes again, and does not count it',
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
    'fails when a new process exits with code 0 before it listens, and the old one keeps serving',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.host.process(102).exit(success);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /exited with code 0/));
      stage.host.pass(60_000);
      assert.deepEqual([stage.host.processes.length, stage.signals(101)], [2, []]);
    }),
  );

  it(
    'fails when a new process exits with code 0 before it listens in a slot that waited, which is tried again',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      stage.pool.leave(101);
      stage.host.process(101).exit(failure);
      const restarted = stage.supervisor.restart();
      stage.host.process(102).exit(success);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /exited with code 0/));
      stage.host.pass(60_000);
      assert.equal(stage.last.pid, 103);
    }),
  );

  it(
    'starts one new process when the old one exits with code 0 before its turn',
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
    'goes on when an old process exits with code 0 while its new one starts, or a new one does later',
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
    'waits for the last messages of a process that ended before its turn',
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
    'replaces a process that is not ready yet, and the start resolves when the new one is ready',
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
    'gives the new process the place of an awaited one that does not return',
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
    'resets the pauses of the slot',
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

  it('refuses a `maxExtra` that is not an integer from 1', () => {
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
    'leaves its place to the new one, whose time limit stays',
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
    'is followed by another process when the new one dies too',
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
    'is not drained when it ends while its last messages are read',
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
    'names it with the error that it reported, and leaves the old one and the other slots as they are',
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
          /0 of 2 .*worker 1 \(process 103\) exited with code 1; its last words: ReferenceError: x is not defined$/,
        ),
      );
      assert.deepEqual(stage.events.slice(2), ['exited 1: code 1', 'restartFailed ERR_WORKER_FAILED']);
      stage.host.pass(60_000);
      assert.deepEqual(pids(stage), [101, 102, 103]);
      assert.deepEqual([stage.signals(101), stage.pool.drains.size], [[], 0]);
    }),
  );

  it(
    'keeps the workers that were replaced before, and can be tried again',
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
    'kills a process that is not ready in time',
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
    'names the process that a launcher has started, and reports what to do',
    onStage({ readyTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.host.launched.set(102, 'process 103 (node app.ts)');
      stage.host.pass(5_000);
      await assert.rejects(
        restarted,
        failsWith(
          'ERR_WORKER_FAILED',
          /was killed. It has started process 103 \(node app.ts\), which is not a worker: give passfd run the file/,
        ),
      );
    }),
  );

  it(
    'kills a process that is not ready in time in an empty slot, which then gets another one after a pause',
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
    'reports why a process cannot be started',
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
    'leaves the next slots as they are when the new one dies after it was ready, before the old one has ended',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const restarted = stage.supervisor.restart();
      stage.pool.ready(1, 103);
      stage.pool.leave(103);
      stage.host.process(103).exit(failure);
      await assert.rejects(
        restarted,
        failsWith('ERR_WORKER_FAILED', /worker 1 \(process 103\) exited with code 1/),
      );
      await leave(stage, 101);
      stage.host.pass(100);
      assert.equal(stage.last.start?.env['PASSFD_WORKER_ID'], '1');
      assert.deepEqual(pids(stage), [101, 102, 103, 104]);
      assert.deepEqual(stage.signals(102), []);
    }),
  );

  it(
    'ends another new process that has no place yet, and lets an old one that is leaving drain',
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
    'counts a new process that exits with code 0 as failed when it already has the place',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      const restarted = stage.supervisor.restart();
      stage.host.process(102).exit(success);
      await assert.rejects(restarted, failsWith('ERR_WORKER_FAILED', /exited with code 0/));
      assert.deepEqual(stage.signals(101), []);
    }),
  );
});

describe('a rolling restart that is refused', () => {
  it(
    'comes while another one runs',
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
    'comes before the start, or after the stop',
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
    'ends the new process at once, drains the old one, and rejects the restart',
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
    'drains a new process that is ready, and waits for the old one that is leaving',
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
    'kills all processes at the second request, in every phase',
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
    'resolves while a new process cannot be started, or was killed for being late',
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
    'gets the place as soon as it serves every address of the old one',
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
    'need not serve an address that the old one closes meanwhile',
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
    'is drained and ended when it misses an address for too long, and the error names that address',
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
    'must serve the addresses of an old one that dies meanwhile; if it does not, it stays, and the restart fails',
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
      // From here on it is treated like any other worker.
      stage.pool.leave(102);
      stage.host.process(102).exit(failure);
      assert.equal(stage.events.at(-1), 'died 1: code 1, again in 100 ms');
    }),
  );

  it(
    'must serve the addresses of the last process, when its slot was empty',
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
    'must serve the addresses of the last process that died, when the next one does not serve them yet',
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
    'waits for an old one that has still to return: until then its addresses are unknown',
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
    'stays with its addresses when another slot fails the restart and the old one has died',
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
