// Children that end on their own: which of them are started again, and when.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { failure, killed, onStage, success } from './stage.js';

describe('a child that dies', () => {
  it(
    'is started again after the pause that its death tells, with its number',
    onStage({ count: 2 }, ({ host, pool, events, ...stage }) => {
      stage.supervisor.start().catch(() => undefined);
      pool.ready(1, 101);
      pool.ready(2, 102);
      pool.leave(102);
      host.process(102).exit(killed);
      host.pass(99);
      assert.equal(host.processes.length, 2);
      host.pass(1);
      assert.equal(host.process(103).start?.env['PASSFD_WORKER_ID'], '2');
      assert.deepEqual(events.slice(-2), ['died 2: SIGKILL, again in 100 ms', 'started 2 as 103']);
    }),
  );

  it(
    'is started again also when it ends well while it listens',
    onStage({}, (stage) => {
      stage.start();
      stage.pool.ready(1, 101);
      stage.pool.leave(101);
      stage.host.process(101).exit(success);
      assert.equal(stage.events.at(-1), 'died 1: code 0, again in 100 ms');
    }),
  );

  it(
    'is started again when it fails, though it does not listen',
    onStage({}, (stage) => {
      stage.start();
      stage.host.process(101).exit(failure);
      assert.equal(stage.events.at(-1), 'died 1: code 1, again in 100 ms');
    }),
  );

  it(
    'waits longer with each death, until it was ready for a second',
    onStage({}, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      for (const [index, readyForMs] of [0, 0, 999, 1_000].entries()) {
        pool.ready(1, 101 + index);
        host.pass(readyForMs);
        stage.dieAndRestart(failure);
      }
      assert.deepEqual(
        events.filter((event) => event.startsWith('died')).map((event) => event.replace(/.*again in /, '')),
        ['100 ms', '200 ms', '400 ms', '100 ms'],
      );
    }),
  );

  it(
    'is tried again when it cannot be started for a while',
    onStage({}, async (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      pool.ready(1, 101);
      host.spawnError = new Error('spawn app EAGAIN');
      stage.dieAndRestart(failure);
      await Promise.resolve();
      assert.equal(events.at(-1), 'died 1: spawn app EAGAIN, again in 200 ms');
      host.spawnError = undefined;
      host.pass(200);
      assert.equal(events.at(-1), 'started 1 as 102');
    }),
  );

  it(
    'in a crash loop is told so once, and started again all the same',
    onStage({}, (stage) => {
      stage.start();
      stage.pool.ready(1, 101);
      for (let death = 0; death < 8; death++) stage.dieAndRestart(failure);
      assert.deepEqual(
        stage.events.filter((event) => event.startsWith('crashLooped')),
        ['crashLooped 1'],
      );
      assert.equal(stage.host.processes.length, 9);
    }),
  );
});

describe('a child that has no more to do', () => {
  it(
    'is not started again when it ends well behind its closed server',
    onStage({ count: 2 }, ({ host, pool, events, supervisor }) => {
      supervisor.start().catch(() => undefined);
      pool.ready(1, 101);
      pool.ready(2, 102);
      pool.unlisten(101);
      pool.leave(101);
      host.process(101).exit(success);
      host.pass(60_000);
      assert.deepEqual(events.slice(-1), ['exited 1: code 0']);
      assert.equal(host.processes.length, 2);
    }),
  );

  it(
    'is known when its end is seen before its last words: they are waited for',
    onStage({}, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      pool.ready(1, 101);
      host.process(101).exit(success);
      assert.equal(events.at(-1), 'ready 1');
      pool.unlisten(101);
      pool.leave(101);
      assert.deepEqual(events.slice(-2), ['exited 1: code 0', 'finished']);
    }),
  );

  it(
    'is taken as it was known last when nothing is heard for a second',
    onStage({}, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      pool.ready(1, 101);
      host.process(101).exit(success);
      host.pass(999);
      assert.equal(events.at(-1), 'ready 1');
      host.pass(1);
      assert.equal(events.at(-1), 'died 1: code 0, again in 100 ms');
      pool.leave(101);
      host.pass(100);
      assert.equal(events.at(-1), 'started 1 as 102');
    }),
  );

  it(
    'is the end of the supervisor when it is the last',
    onStage({ count: 2 }, ({ host, events, supervisor }) => {
      supervisor.start().catch(() => undefined);
      host.process(101).exit(success);
      assert.equal(events.includes('finished'), false);
      host.process(102).exit(success);
      assert.equal(events.at(-1), 'finished');
    }),
  );
});
