// Workers of a killed dispatcher that return unexpectedly: they get their slot, or are ended.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { isPending } from '../../support/loop.js';
import { killed, onStage } from './stage.js';

describe('an unexpected process', () => {
  it(
    'gets its slot back when another process is only starting there, which is ended',
    onStage({ count: 2 }, async (stage) => {
      const { host, pool, supervisor, events } = stage;
      const started = supervisor.start();
      pool.join(1, 51);
      supervisor.adopt(host.earlier(1, 51, 'awaited'), true);
      assert.deepEqual(stage.signals(101), ['SIGTERM']);
      host.process(101).exit(killed);
      pool.ready(1, 51);
      pool.ready(2, 102);
      await started;
      assert.deepEqual(events.slice(2), ['takenOver 1 as 51', 'exited 1: SIGKILL', 'ready 1', 'ready 2']);
      pool.leave(51);
      host.process(51).exit(killed);
      host.pass(100);
      assert.equal(events.at(-1), 'started 1 as 103');
    }),
  );

  it(
    'gets its slot back during the pause before the next start',
    onStage({}, (stage) => {
      const { host, pool, supervisor } = stage;
      stage.start();
      pool.ready(1, 101);
      pool.leave(101);
      host.process(101).exit(killed);
      supervisor.adopt(host.earlier(1, 51, 'awaited'), true);
      pool.ready(1, 51);
      host.pass(60_000);
      assert.equal(host.processes.length, 1);
    }),
  );

  const placeless = [
    ['whose slot has another one that is ready', 1, true, ''],
    ['whose slot is beyond the number', 2, true, ''],
    ['of another service', 1, false, ', of another service'],
  ] as const;
  for (const [which, id, isOurs, why] of placeless) {
    it(
      `${which} is drained and ended, and the others stay as they are`,
      onStage({}, async (stage) => {
        const { host, pool, supervisor, events } = stage;
        stage.start();
        pool.ready(1, 101);
        pool.join(id, 51);
        supervisor.adopt(host.earlier(id, 51, 'awaited'), isOurs);
        assert.equal(events.at(-1), `unexpected ${id} as 51${why}`);
        pool.ready(id, 51);
        assert.deepEqual(stage.signals(51), []);
        await stage.drained(51);
        assert.deepEqual([stage.signals(51), stage.signals(101)], [['SIGTERM'], []]);
        host.process(51).exit(killed);
        host.pass(60_000);
        assert.equal(host.processes.length, 1);
      }),
    );
  }

  it(
    'of another service does not replace a process that is starting',
    onStage({}, (stage) => {
      stage.start();
      stage.supervisor.adopt(stage.host.earlier(1, 51, 'awaited'), false);
      assert.deepEqual(stage.signals(101), []);
    }),
  );

  it(
    'is ignored when it has the slot already',
    onStage({}, (stage) => {
      const { host, supervisor, events } = stage;
      supervisor.start([host.earlier(1, 51, 'awaited')]).catch(() => undefined);
      supervisor.adopt(host.earlier(1, 51, 'awaited'), true);
      assert.deepEqual(events, ['takenOver 1 as 51']);
    }),
  );

  it(
    'is ended when a restart replaces the process of its slot',
    onStage({}, (stage) => {
      const { host, pool, supervisor, events } = stage;
      stage.start();
      pool.ready(1, 101);
      stage.restart();
      supervisor.adopt(host.earlier(1, 51, 'awaited'), true);
      assert.equal(events.at(-1), 'unexpected 1 as 51');
      assert.equal(host.processes.length, 2);
    }),
  );

  it(
    'that returns during a takeover gets its slot if the takeover fails, and is left alone otherwise',
    onStage({}, async (stage) => {
      const { host, supervisor, events } = stage;
      stage.start();
      await supervisor.freeze();
      supervisor.adopt(host.earlier(1, 51, 'awaited'), true);
      assert.deepEqual(events, ['started 1 as 101']);
      supervisor.thaw();
      assert.equal(events.at(-1), 'takenOver 1 as 51');
      await supervisor.freeze();
      supervisor.adopt(host.earlier(1, 52, 'awaited'), true);
      await supervisor.disown();
      assert.equal(events.at(-1), 'takenOver 1 as 51');
    }),
  );

  it(
    'is waited for in a stop',
    onStage({}, async (stage) => {
      const { host, supervisor } = stage;
      stage.start();
      const stopped = supervisor.stop();
      supervisor.adopt(host.earlier(1, 51, 'awaited'), true);
      host.process(101).exit(killed);
      assert.equal(await isPending(stopped), true);
      host.process(51).exit(killed);
      await stopped;
    }),
  );
});
