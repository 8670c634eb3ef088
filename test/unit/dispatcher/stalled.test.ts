// A worker that does not answer: it is reported and gets no new connections; those in flight stay with it.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { WorkerView } from '../../../src/dispatcher/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import type { FakeWorker } from '../../support/fake-worker.js';
import { turns } from '../../support/loop.js';

/** These events, in order. */
function reportsOf(stage: Stage, ...names: readonly ('stalled' | 'resumed' | 'draining')[]): string[] {
  const reports: string[] = [];
  for (const name of names) {
    stage.dispatcher.on(name, ({ id }: WorkerView) => {
      reports.push(`${id} ${name}`);
    });
  }
  return reports;
}

/** Adopts everything, or everything up to a position, and waits until the dispatcher has counted that. */
async function adopt(stage: Stage, worker: FakeWorker, position = worker.received): Promise<void> {
  await worker.adopt(position);
  await stage.until(() =>
    stage.dispatcher.workers.some(({ id, adopted }) => id === worker.id && adopted === position),
  );
}

describe('a worker that answers nothing for four looks', () => {
  it(
    'is reported as stalled, and gets nothing new until it answers',
    onStage({}, async (stage) => {
      const reports = reportsOf(stage, 'stalled', 'resumed');
      const first = await stage.joinServing();
      const second = await stage.joinServing();
      await stage.clients(2);
      await first.handoffs(1);
      await second.handoffs(1);
      await adopt(stage, second);
      await stage.looks.pass(4);
      assert.deepEqual(reports, ['1 stalled']);
      assert.deepEqual(
        stage.dispatcher.status().workers.map(({ state, inFlight }) => [state, inFlight]),
        [
          ['stalled', 1],
          ['ready', 0],
        ],
      );

      await stage.clients(4);
      await second.handoffs(4);
      await adopt(stage, second);
      await stage.looks.pass(20);
      assert.deepEqual(reports, ['1 stalled']);

      await first.adopt();
      await stage.next('resumed');
      assert.equal(stage.dispatcher.status().workers[0]?.state, 'ready');
      await stage.clients(2);
      await first.handoffs(1);
      await second.handoffs(1);
      assert.equal(stage.dispatcher.status().connections.redelivered, 0);
    }),
  );

  it(
    'keeps clients waiting if no other worker has room',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      await stage.looks.pass(4);
      await stage.client();
      await turns();
      assert.equal(stage.dispatcher.status().connections.accepted, 1);
      await worker.adopt();
      await stage.next('resumed');
      await worker.handoffs(1);
    }),
  );

  it(
    'is reported once, even if the dispatcher was frozen meanwhile',
    onStage({}, async (stage) => {
      const reports = reportsOf(stage, 'stalled');
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      await stage.looks.pass(4);
      const frozen = await stage.dispatcher.freeze();
      frozen[Symbol.dispose]();
      stage.dispatcher.thaw();
      await stage.looks.pass(8);
      assert.deepEqual(reports, ['1 stalled']);
    }),
  );

  it(
    'is also reported while it drains',
    onStage({}, async (stage) => {
      const reports = reportsOf(stage, 'stalled', 'draining');
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      const drained = stage.dispatcher.drainWorker(worker.id);
      await stage.looks.pass(4);
      assert.deepEqual(reports, ['1 draining', '1 stalled']);
      assert.equal(stage.dispatcher.status().workers[0]?.state, 'draining');
      worker.die();
      await drained;
    }),
  );
});

describe('a worker that answers again', () => {
  it(
    'gets no more than its capacity',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing({ window: 32, capacity: 4 });
      await stage.clients(4);
      await worker.handoffs(4);
      await stage.looks.pass(4);
      await stage.clients(4);
      const resumed = stage.next('resumed');
      await worker.adopt();
      await resumed;
      await turns();
      const [view] = stage.dispatcher.workers;
      assert.deepEqual([view?.active, view?.inFlight], [4, 0]);
    }),
  );

  it(
    'gets nothing at once if its answer is that it has no descriptors',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.clients(2);
      await worker.handoffs(2);
      await stage.looks.pass(4);
      await stage.clients(4);
      const resumed = stage.next('resumed');
      await worker.refuse('descriptors');
      await resumed;
      assert.equal(stage.dispatcher.workers[0]?.inFlight, 0);
    }),
  );

  it(
    'keeps what it has adopted if a listener of the event throws',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.clients(2);
      await worker.handoffs(2);
      await stage.looks.pass(4);
      stage.dispatcher.once('resumed', () => {
        throw new Error('from a listener');
      });
      const left = stage.next('left');
      await worker.adopt();
      const [view, { redelivered }] = await left;
      assert.deepEqual([view.adopted, redelivered], [2, 0]);
      assert.deepEqual(stage.warnings.splice(0).map(String), ['Error: from a listener']);
    }),
  );
});

describe('a worker that answers', () => {
  it(
    'is not stalled, even if something is in flight all the time',
    onStage({}, async (stage) => {
      const reports = reportsOf(stage, 'stalled');
      const worker = await stage.joinServing();
      await stage.clients(10);
      await worker.handoffs(10);
      for (let position = 1; position < 10; position++) {
        await adopt(stage, worker, position);
        await stage.looks.pass(3);
      }
      assert.deepEqual(reports, []);
    }),
  );

  it(
    'is not stalled while nothing is in flight',
    onStage({}, async (stage) => {
      const reports = reportsOf(stage, 'stalled');
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      await adopt(stage, worker);
      await stage.looks.pass(8);
      await stage.client();
      await worker.handoffs(1);
      await stage.looks.pass(3);
      assert.deepEqual(reports, []);
      await stage.looks.pass(1);
      assert.deepEqual(reports, ['1 stalled']);
    }),
  );
});
