// Stopping children: a drain first, then SIGTERM, then SIGKILL.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { failsWith } from '../../support/errors.js';
import { isPending, turns } from '../../support/loop.js';
import { failure, killed, onStage, success, type Stage } from './stage.js';

const terminated = { is: 'signal', signal: 'SIGTERM' } as const;

/** Starts the children, and makes them ready. */
function startReady(stage: Stage, count: number): void {
  stage.start();
  for (let id = 1; id <= count; id++) stage.pool.ready(id, 100 + id);
}

function signals({ host }: Stage): string[][] {
  return host.processes.map((process) => process.signals);
}

describe('a supervisor that stops', () => {
  it(
    'drains all workers at the same time, and ends each when it is drained',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const stopped = stage.supervisor.stop();
      assert.deepEqual([...stage.pool.drains.keys()], [101, 102]);
      await turns();
      assert.deepEqual(signals(stage), [[], []]);
      stage.pool.drains.get(102)?.();
      await turns();
      assert.deepEqual(signals(stage), [[], ['SIGTERM']]);
      stage.host.process(102).exit(terminated);
      assert.equal(await isPending(stopped), true);
      stage.pool.drains.get(101)?.();
      await turns();
      stage.host.process(101).exit(success);
      await stopped;
      assert.deepEqual(stage.events.slice(-2), ['exited 2: SIGTERM', 'exited 1: code 0']);
    }),
  );

  it(
    'drains a worker that joined by the control socket, whatever its id is there',
    onStage({}, (stage) => {
      stage.start();
      stage.pool.ready(9, 101);
      stage.supervisor.stop().catch(() => undefined);
      assert.deepEqual([...stage.pool.drains.keys()], [101]);
    }),
  );

  it(
    'sends no signal to a worker that exits by itself when it is drained, or dies before',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const stopped = stage.supervisor.stop();
      stage.host.process(101).exit(success);
      stage.host.process(102).exit(failure);
      await stopped;
      for (const drained of stage.pool.drains.values()) drained();
      await turns();
      assert.deepEqual(signals(stage), [[], []]);
      assert.deepEqual(stage.events.slice(-2), ['exited 1: code 0', 'exited 2: code 1']);
    }),
  );

  it(
    'ends a process that has left the dispatcher but is alive',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      stage.pool.leave(101);
      const stopped = stage.supervisor.stop();
      await turns();
      assert.deepEqual(signals(stage), [['SIGTERM']]);
      stage.host.process(101).exit(terminated);
      await stopped;
    }),
  );

  it(
    'kills a process that ignores SIGTERM at the drain timeout',
    onStage({ drainTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 1);
      const stopped = stage.supervisor.stop();
      await stage.drained(101);
      stage.host.pass(4_999);
      assert.deepEqual(signals(stage), [['SIGTERM']]);
      stage.host.pass(1);
      assert.deepEqual(signals(stage), [['SIGTERM', 'SIGKILL']]);
      assert.equal(await isPending(stopped), true);
      stage.host.process(101).exit(killed);
      await stopped;
      assert.deepEqual(stage.events.slice(-2), ['killed 1', 'exited 1: SIGKILL']);
    }),
  );

  it(
    'sends SIGTERM at the drain timeout to a worker that is not drained, and SIGKILL two seconds later',
    onStage({ count: 2, drainTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 2);
      const stopped = stage.supervisor.stop();
      stage.host.pass(4_999);
      assert.deepEqual(signals(stage), [[], []]);
      stage.host.pass(1);
      assert.deepEqual(signals(stage), [['SIGTERM'], ['SIGTERM']]);
      stage.host.process(101).exit(terminated);
      stage.host.pass(1_999);
      assert.deepEqual(signals(stage), [['SIGTERM'], ['SIGTERM']]);
      stage.host.pass(1);
      assert.deepEqual(signals(stage), [['SIGTERM'], ['SIGTERM', 'SIGKILL']]);
      await stage.drained(102);
      stage.host.process(102).exit(killed);
      await stopped;
      assert.deepEqual(stage.events.slice(-3), ['exited 1: SIGTERM', 'killed 2', 'exited 2: SIGKILL']);
    }),
  );

  it(
    'gives two seconds to a worker that was drained just before the drain timeout',
    onStage({ drainTimeoutMs: 5_000 }, async (stage) => {
      startReady(stage, 1);
      const stopped = stage.supervisor.stop();
      stage.host.pass(4_000);
      await stage.drained(101);
      stage.host.pass(1_999);
      assert.deepEqual(signals(stage), [['SIGTERM']]);
      stage.host.pass(1);
      assert.deepEqual(signals(stage), [['SIGTERM', 'SIGKILL']]);
      stage.host.process(101).exit(killed);
      await stopped;
    }),
  );

  it(
    'kills the remaining processes at the second request; a third one changes nothing',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      const stopped = stage.supervisor.stop();
      stage.host.process(101).exit(success);
      const again = [stage.supervisor.stop(), stage.supervisor.stop()];
      assert.deepEqual(signals(stage), [[], ['SIGKILL']]);
      stage.host.process(102).exit(killed);
      await Promise.all([stopped, ...again]);
      assert.equal(stage.events.filter((event) => event === 'killed 2').length, 1);
    }),
  );

  it(
    'drains the last connection of a worker that had left and joined again',
    onStage({}, async (stage) => {
      startReady(stage, 1);
      stage.pool.leave(101);
      stage.pool.ready(7, 101);
      const drained: number[] = [];
      stage.pool.drain = ({ id }) => {
        drained.push(id);
        return Promise.resolve();
      };
      const stopped = stage.supervisor.stop();
      assert.deepEqual(drained, [7]);
      stage.host.process(101).exit(terminated);
      await stopped;
    }),
  );

  it(
    'during the start, ends processes that are not ready at once, and rejects the start',
    onStage({ count: 2 }, async (stage) => {
      const started = stage.supervisor.start();
      stage.pool.ready(1, 101);
      const stopped = stage.supervisor.stop();
      assert.deepEqual(signals(stage), [[], ['SIGTERM']]);
      stage.host.process(101).exit(terminated);
      stage.host.process(102).exit(terminated);
      await stopped;
      await assert.rejects(started, failsWith('ERR_CLOSED'));
    }),
  );

  it(
    'starts no process again: neither after a pause nor after a death that is not handled yet',
    onStage({ count: 2 }, async (stage) => {
      startReady(stage, 2);
      stage.pool.leave(101);
      stage.host.process(101).exit(killed);
      stage.host.process(102).exit(killed);
      await stage.supervisor.stop();
      stage.host.pass(60_000);
      assert.equal(stage.host.processes.length, 2);
      assert.deepEqual(stage.events.slice(-2), ['exited 1: no process', 'exited 2: SIGKILL']);
    }),
  );

  it(
    'resolves while a process cannot be started',
    onStage({}, async (stage) => {
      stage.host.spawnError = new Error('spawn app ENOENT');
      stage.start();
      await stage.supervisor.stop();
      assert.deepEqual(stage.events, ['exited 1: spawn app ENOENT']);
    }),
  );

  it(
    'resolves at once when every child has finished, or none was ever started',
    onStage({}, async (stage) => {
      stage.start();
      stage.host.process(101).exit(success);
      await stage.supervisor.stop();
      await stage.supervisor.stop();
      assert.equal(stage.events.at(-1), 'finished');
    }),
  );
});

describe('kill', () => {
  it(
    'kills every child at once, without a drain',
    onStage({ count: 2 }, async (stage) => {
      stage.start();
      stage.pool.ready(1, 101);
      const ended = stage.supervisor.kill();
      assert.deepEqual(signals(stage), [['SIGKILL'], ['SIGTERM', 'SIGKILL']]);
      stage.host.process(101).exit(killed);
      stage.host.process(102).exit(killed);
      await ended;
    }),
  );
});
