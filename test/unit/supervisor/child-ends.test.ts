// Children that end by themselves: which of them are started again, and when.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { failure, killed, onStage, success } from './stage.js';

describe('a child that dies', () => {
  it(
    'is started again after the pause that `died` reports, with the same number',
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
    'is started again when it exits with code 0 while it listens',
    onStage({}, (stage) => {
      stage.start();
      stage.pool.ready(1, 101);
      stage.pool.leave(101);
      stage.host.process(101).exit(success);
      assert.equal(stage.events.at(-1), 'died 1: code 0, again in 100 ms');
    }),
  );

  it(
    'is started again when it fails before it listens',
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
    'is started again after starts that failed',
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
    'in a crash loop is reported once, and still started again',
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

describe('a child that has served and ends well by itself', () => {
  it(
    'is replaced at once, and `died` is not emitted',
    onStage({ count: 2 }, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      pool.ready(1, 101);
      pool.ready(2, 102);
      host.pass(1_000);
      pool.unlisten(101);
      pool.leave(101);
      host.process(101).exit(success);
      assert.deepEqual(events.slice(-2), ['recycled 1: code 0', 'started 1 as 103']);
      assert.equal(host.process(103).start?.env['PASSFD_WORKER_ID'], '1');
    }),
  );

  it(
    'is replaced at once when it left its servers open',
    onStage({}, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      pool.ready(1, 101);
      host.pass(1_000);
      pool.leave(101);
      host.process(101).exit(success);
      assert.deepEqual(events.slice(-2), ['recycled 1: code 0', 'started 1 as 102']);
    }),
  );

  it(
    'is not in a crash loop, however often it ends, and resets the count of deaths',
    onStage({}, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      for (let life = 0; life < 12; life++) {
        pool.ready(1, 101 + life);
        host.pass(life === 0 ? 0 : 1_000);
        stage.dieAndRestart(life === 0 ? failure : success);
      }
      assert.deepEqual(
        events.filter((event) => !/^(started|ready)/.test(event)),
        ['died 1: code 1, again in 100 ms', ...Array.from({ length: 11 }, () => 'recycled 1: code 0')],
      );
      pool.ready(1, 113);
      stage.dieAndRestart(failure);
      assert.equal(events.at(-2), 'died 1: code 1, again in 100 ms');
    }),
  );

  it(
    'is started again after a pause when it was ready for less than a second',
    onStage({}, (stage) => {
      const { pool, events } = stage;
      stage.start();
      for (let life = 0; life < 5; life++) {
        pool.ready(1, 101 + life);
        stage.dieAndRestart(success);
      }
      assert.deepEqual(
        events.filter((event) => !/^(started|ready)/.test(event)),
        [
          ...[100, 200, 400, 800, 1_600].map((pause) => `died 1: code 0, again in ${pause} ms`),
          'crashLooped 1',
        ],
      );
    }),
  );

  it(
    'does not finish the supervisor, even when all children end at the same moment',
    onStage({ count: 2 }, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      for (const pid of [101, 102]) pool.ready(pid - 100, pid);
      host.pass(1_000);
      for (const pid of [101, 102]) {
        pool.unlisten(pid);
        pool.leave(pid);
        host.process(pid).exit(success);
      }
      assert.equal(events.includes('finished'), false);
      assert.equal(host.processes.length, 4);
    }),
  );

  it(
    'is started again after a pause when the next process exits with code 0 before it listens',
    onStage({}, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      pool.ready(1, 101);
      host.pass(1_000);
      stage.dieAndRestart(success);
      host.process(102).exit(success);
      assert.deepEqual(events.slice(-2), ['started 1 as 102', 'died 1: code 0, again in 100 ms']);
      host.pass(100);
      assert.equal(events.at(-1), 'started 1 as 103');
    }),
  );

  it(
    'is judged by its last known state when its channel stays open for a second',
    onStage({}, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      pool.ready(1, 101);
      host.pass(1_000);
      host.process(101).exit(success);
      host.pass(999);
      assert.equal(events.at(-1), 'ready 1');
      host.pass(1);
      assert.deepEqual(events.slice(-2), ['recycled 1: code 0', 'started 1 as 102']);
      pool.leave(101);
      host.pass(60_000);
      assert.equal(host.processes.length, 2);
    }),
  );

  it(
    'is not followed by another one when its end makes a listener stop all children',
    onStage({}, async (stage) => {
      const { host, pool, supervisor, events } = stage;
      let stopped: Promise<void> | undefined;
      supervisor.on('recycled', () => {
        stopped = supervisor.stop();
      });
      stage.start();
      pool.ready(1, 101);
      host.pass(1_000);
      stage.dieAndRestart(success);
      await stopped;
      assert.equal(host.processes.length, 1);
      assert.deepEqual(events.slice(-2), ['recycled 1: code 0', 'exited 1: no process']);
    }),
  );
});

describe('a child that ends and is followed by another one', () => {
  for (const [how, exit] of [
    ['well', success],
    ['badly', failure],
  ] as const) {
    it(
      `${how} has opened again what it had served, and its next process is expected until it is ready`,
      onStage({ count: 2 }, (stage) => {
        const { host, pool } = stage;
        stage.start();
        // No other process has served there before.
        assert.equal(pool.expected, 0);
        for (const pid of [101, 102]) pool.ready(pid - 100, pid);
        pool.unlisten(101);
        pool.leave(101);
        assert.equal(pool.expected, 1);
        host.process(101).exit(exit);
        assert.deepEqual([pool.reopened, pool.expected], [[101], 1]);
        host.pass(100);
        assert.equal(pool.expected, 1);
        pool.ready(1, 103);
        assert.equal(pool.expected, 0);
      }),
    );
  }

  for (const [how, exit, reopened] of [
    ['has opened again what it had closed, when it ends well', success, [101]],
    ['has not, when it dies: what it had closed, it had given up for good', killed, []],
  ] as const) {
    it(
      `while it still serves an address, ${how}`,
      onStage({}, (stage) => {
        const { host, pool } = stage;
        stage.start();
        pool.ready(1, 101);
        pool.leave(101);
        host.process(101).exit(exit);
        assert.deepEqual(pool.reopened, reopened);
      }),
    );
  }

  it(
    'by a signal during a restart, does not get its closed addresses opened again',
    onStage({}, (stage) => {
      const { host, pool } = stage;
      stage.start();
      pool.ready(1, 101);
      stage.restart();
      pool.leave(101);
      host.process(101).exit(killed);
      assert.deepEqual(pool.reopened, []);
    }),
  );

  it(
    'is expected during the pause of a crash loop, and no longer after a stop',
    onStage({}, async (stage) => {
      const { pool } = stage;
      stage.start();
      pool.ready(1, 101);
      for (let death = 0; death < 9; death++) stage.dieAndRestart(failure);
      stage.last.exit(failure);
      assert.equal(stage.events.at(-1), 'died 1: code 1, again in 30000 ms');
      assert.equal(pool.expected, 1);
      await stage.supervisor.stop();
      assert.equal(pool.expected, 0);
    }),
  );

  it(
    'is expected while a restart replaces it',
    onStage({}, (stage) => {
      const { pool } = stage;
      stage.start();
      pool.ready(1, 101);
      stage.restart();
      assert.equal(pool.expected, 1);
      pool.ready(1, 102);
      assert.equal(pool.expected, 0);
    }),
  );
});

describe('a child that was drained by hand', () => {
  for (const [how, exit] of [
    ['well', success],
    ['by a signal', killed],
  ] as const) {
    it(
      `and ends ${how} leaves its slot empty until a restart`,
      onStage({ count: 2 }, async (stage) => {
        const { host, pool, supervisor, events } = stage;
        stage.start();
        for (const pid of [101, 102]) pool.ready(pid - 100, pid);
        host.pass(1_000);
        for (const pid of [101, 102]) {
          pool.takeOut(pid);
          pool.leave(pid);
          host.process(pid).exit(exit);
          host.pass(60_000);
          assert.match(events.at(-1) ?? '', /^exited \d: .*, drained$/);
        }
        assert.equal(host.processes.length, 2);
        assert.deepEqual([pool.expected, pool.reopened], [0, []]);
        const restarted = supervisor.restart();
        for (const pid of [103, 104]) pool.ready(pid - 102, pid);
        assert.equal(await restarted, 2);
      }),
    );
  }
});

describe('a child that has no more to do', () => {
  it(
    'is not started again when it exits with code 0 and never listened',
    onStage({ count: 2 }, (stage) => {
      const { host, pool, events } = stage;
      stage.start();
      pool.join(1, 101);
      pool.ready(2, 102);
      pool.leave(101);
      host.process(101).exit(success);
      host.pass(60_000);
      assert.equal(events.at(-1), 'exited 1: code 0, finished');
      assert.equal(host.processes.length, 2);
      pool.leave(102);
      host.process(102).exit(success);
      assert.equal(events.at(-1), 'started 2 as 103');
    }),
  );

  it(
    'finishes the supervisor when it is the last one',
    onStage({ count: 2 }, ({ host, events, supervisor }) => {
      supervisor.start().catch(() => undefined);
      host.process(101).exit(success);
      assert.equal(events.includes('finished'), false);
      host.process(102).exit(success);
      assert.equal(events.at(-1), 'finished');
    }),
  );
});
