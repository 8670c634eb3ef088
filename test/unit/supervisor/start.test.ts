// Starting children: what each gets, when the start resolves, and when it fails.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Supervisor } from '../../../src/supervisor/index.js';
import { failsWith } from '../../support/errors.js';
import { isPending } from '../../support/loop.js';
import { failure, FakeHost, FakePool, onStage, success } from './stage.js';

describe('a supervisor that starts', () => {
  it(
    'starts `count` processes, each with its own channel and number',
    onStage({ count: 2, command: ['node', 'app.js', '-v'], controlPath: '/run/c' }, (stage) => {
      stage.start();
      const { host, pool } = stage;
      assert.deepEqual(
        host.processes.map(({ start }) => [
          start?.program,
          ...(start?.args ?? []),
          start?.env['PASSFD_CHANNEL_FD'],
          start?.env['PASSFD_WORKER_ID'],
          start?.env['PASSFD_CONTROL'],
          start?.prefix,
        ]),
        [
          ['node', 'app.js', '-v', '3', '1', '/run/c', undefined],
          ['node', 'app.js', '-v', '3', '2', '/run/c', undefined],
        ],
      );
      assert.deepEqual(pool.children, [
        { id: 1, pid: 101 },
        { id: 2, pid: 102 },
      ]);
    }),
  );

  it(
    'puts a prefix before each line of output with the option for it',
    onStage({ count: 2, output: 'prefixed' }, (stage) => {
      stage.start();
      assert.deepEqual(
        stage.host.processes.map(({ start }) => start?.prefix),
        ['[1] ', '[2] '],
      );
    }),
  );

  it('reserves the ids of its children before it starts them', () => {
    const pool = new FakePool();
    new Supervisor(pool, { command: ['app'], count: 3 }, new FakeHost());
    assert.equal(pool.reserved, 3);
  });

  it(
    'reports a child that is not ready in time once, and goes on',
    onStage({ readyTimeoutMs: 5_000 }, async (stage) => {
      const started = stage.supervisor.start();
      const { host, pool, events } = stage;
      host.pass(4_999);
      assert.deepEqual(events.splice(0), ['started 1 as 101']);
      host.pass(1);
      assert.deepEqual(events.splice(0), ['overdue 1 as 101']);
      stage.dieAndRestart(failure);
      host.pass(60_000);
      assert.deepEqual(events.splice(0), ['died 1: code 1, again in 100 ms', 'started 1 as 102']);
      assert.equal(await isPending(started), true);
      pool.ready(1, 102);
      await started;
      stage.dieAndRestart(failure);
      host.pass(5_000);
      assert.equal(events.at(-1), 'overdue 1 as 103');
    }),
  );

  it(
    'resolves when every child was ready',
    onStage({ count: 2 }, async ({ pool, supervisor, events }) => {
      const started = supervisor.start();
      pool.ready(1, 101);
      assert.equal(await isPending(started), true);
      pool.ready(2, 102);
      await started;
      assert.deepEqual(events, ['started 1 as 101', 'started 2 as 102', 'ready 1', 'ready 2']);
    }),
  );

  it(
    'recognizes a child by its pid when it joins by the control socket',
    onStage({}, async ({ pool, supervisor, events }) => {
      const started = supervisor.start();
      pool.ready(7, 4_711);
      assert.equal(await isPending(started), true);
      pool.ready(8, 101);
      await started;
      assert.deepEqual(events, ['started 1 as 101', 'ready 1']);
    }),
  );

  it(
    'resolves when a child has finished before it was ready',
    onStage({}, async ({ host, supervisor, events }) => {
      const started = supervisor.start();
      host.process(101).exit(success);
      await started;
      assert.deepEqual(events, ['started 1 as 101', 'exited 1: code 0, finished', 'finished']);
    }),
  );

  it(
    'starts once',
    onStage({}, async ({ pool, supervisor }) => {
      const started = supervisor.start();
      pool.ready(1, 101);
      await started;
      assert.throws(() => supervisor.start(), TypeError);
    }),
  );

  it('refuses a count that is not an integer from 1', () => {
    for (const count of [0, -1, 1.5, Number.NaN]) {
      assert.throws(
        () => new Supervisor(new FakePool(), { command: ['app'], count }, new FakeHost()),
        TypeError,
      );
    }
  });
});

describe('a start that fails', () => {
  it(
    'reports how a child in a crash loop ended, if none was ever ready',
    onStage({}, async (stage) => {
      const failed = assert.rejects(
        stage.supervisor.start(),
        failsWith('ERR_WORKER_FAILED', /worker 1 exited with code 1/),
      );
      for (let death = 0; death < 5; death++) stage.dieAndRestart(failure);
      await failed;
      assert.deepEqual(stage.events.slice(-3), [
        'died 1: code 1, again in 1600 ms',
        'crashLooped 1',
        'exited 1: no process',
      ]);
      assert.equal(stage.host.processes.length, 5);
    }),
  );

  it(
    'has the error that the child reported, without the stack, which `died` has',
    onStage({}, async (stage) => {
      const failed = assert.rejects(
        stage.supervisor.start(),
        failsWith('ERR_WORKER_FAILED', /its last words: Error: one\ntwo$/),
      );
      for (let death = 0; death < 5; death++) {
        stage.pool.join(1, stage.last.pid);
        stage.pool.say(stage.last.pid, 'Error: one\ntwo\n    at app.js:1\n    at node:internal');
        stage.dieAndRestart(failure);
      }
      await failed;
    }),
  );

  it(
    'ends the other children before it rejects',
    onStage({ count: 2 }, async ({ host, supervisor }) => {
      const started = supervisor.start();
      const other = host.process(102);
      for (let death = 0; death < 5; death++) {
        const crashing = host.processes.findLast((process) => process !== other);
        crashing?.exit(failure);
        host.pass(2_000);
      }
      assert.equal(await isPending(started), true);
      assert.deepEqual(other.signals, ['SIGTERM']);
      other.exit(success);
      await assert.rejects(started, failsWith('ERR_WORKER_FAILED'));
    }),
  );

  it(
    'reports at once why no process can be started',
    onStage({}, async ({ host, supervisor, events }) => {
      host.spawnError = new Error('spawn app ENOENT');
      await assert.rejects(
        supervisor.start(),
        failsWith('ERR_WORKER_FAILED', /could not be started: spawn app ENOENT/),
      );
      assert.deepEqual(events, ['died 1: spawn app ENOENT, again in 100 ms', 'exited 1: no process']);
    }),
  );

  it(
    'no longer fails when one child was ready: starts are tried again',
    onStage({ count: 2 }, async ({ host, pool, supervisor, events }) => {
      const started = supervisor.start();
      pool.ready(1, 101);
      for (let death = 0; death < 6; death++) {
        host.processes.at(-1)?.exit(failure);
        host.pass(10_000);
      }
      assert.equal(await isPending(started), true);
      assert.equal(events.filter((event) => event === 'crashLooped 2').length, 1);
      pool.ready(2, 108);
      await started;
    }),
  );
});
