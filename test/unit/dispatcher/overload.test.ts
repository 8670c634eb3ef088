// The overload rule `refuse`: which connections are closed and when, and which wait because a worker is full for a moment only.
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';

import { PATIENCE_MS } from '../../../src/dispatcher/patience.js';
import type { StreamSocket } from '../../../src/fd/index.js';
import { backlogOf, onStage, type Stage } from '../../support/dispatcher-stage.js';
import { isPending, turns } from '../../support/loop.js';
import { receivedText } from '../../support/stream.js';

/** The body of a test whose clock moves only when the test says so. */
function withClock(
  body: (stage: Stage, pass: (milliseconds: number) => Promise<void>) => Promise<void>,
): () => Promise<void> {
  return onStage({ overload: 'refuse', backlog: 400 }, async (stage) => {
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      await body(stage, async (milliseconds) => {
        mock.timers.tick(milliseconds);
        await turns();
      });
    } finally {
      mock.timers.reset();
    }
  });
}

function refused({ dispatcher }: Stage): number {
  return dispatcher.status().connections.refused;
}

async function end(clients: readonly StreamSocket[]): Promise<void> {
  for (const client of clients) assert.equal(await receivedText(client), null);
}

describe('overload: refuse', () => {
  it(
    'closes a connection at once when every worker is at its capacity, and counts it',
    onStage({ overload: 'refuse' }, async (stage) => {
      const workers = [await stage.joinServing({ capacity: 1 }), await stage.joinServing({ capacity: 1 })];
      const refusal = stage.next('refused');
      const [first, second, unlucky] = await stage.clients(3);
      assert.ok(first && second && unlucky);
      await end([unlucky]);
      assert.deepEqual(await refusal, [{ count: 1, reason: 'no worker has room' }]);
      for (const worker of workers) await worker.handoffs(1);
      assert.equal(await isPending(Promise.race([first.receive(), second.receive()])), true);
      assert.equal(refused(stage), 1);
    }),
  );

  it(
    'closes nothing of a burst to a worker without a capacity: clients wait for its window',
    // The clock stands still, so no client waits too long on a busy machine.
    withClock(async (stage) => {
      const worker = await stage.joinServing({ window: 16 });
      const clients = await stage.clients(300);
      for (let served = 0; served < clients.length;) {
        served += (await worker.handoff()).descriptors.length;
        await worker.adopt();
      }
      assert.equal(refused(stage), 0);
    }),
  );

  it(
    'closes all clients that have found no room for a second',
    withClock(async (stage, pass) => {
      const worker = await stage.joinServing({ window: 1 });
      await stage.client();
      await worker.handoffs(1);
      const early = await stage.clients(200);
      await turns();
      await pass(PATIENCE_MS - 1);
      assert.equal(refused(stage), 0);
      assert.equal(backlogOf(await stage.address()), 200);
      await pass(1);
      await stage.until(() => refused(stage) === 200);
      await end(early);
      // A client that comes later waits for a second of its own.
      await stage.client();
      await pass(PATIENCE_MS - 1);
      assert.equal(refused(stage), 200);
      await worker.adopt();
      await worker.handoffs(1);
      await pass(PATIENCE_MS);
      assert.equal(refused(stage), 200);
    }),
  );

  it(
    'closes the rest of a queue that has not been empty for a second, even if a worker takes some of it',
    withClock(async (stage, pass) => {
      const worker = await stage.joinServing({ window: 1 });
      await stage.clients(9);
      await worker.handoffs(1);
      await turns();
      await pass(PATIENCE_MS - 1);
      await worker.adopt();
      await worker.handoffs(1);
      await pass(1);
      await stage.until(() => refused(stage) === 7);
      await worker.adopt();
      await stage.client();
      await worker.handoffs(1);
    }),
  );

  it(
    'lets clients wait while there is no worker, and gives them the usual second when one has joined',
    withClock(async (stage, pass) => {
      const address = await stage.address();
      await stage.clients(3);
      await turns();
      await pass(2 * PATIENCE_MS);
      assert.equal(backlogOf(address), 3);
      const worker = await stage.joinServing({ window: 1 });
      await worker.handoffs(1);
      await pass(PATIENCE_MS - 1);
      assert.equal(backlogOf(address), 2);
      await pass(1);
      await stage.until(() => refused(stage) === 2);
    }),
  );

  it(
    'closes nothing because of a long failed takeover: the second begins after it',
    withClock(async (stage, pass) => {
      const worker = await stage.joinServing({ window: 1 });
      await stage.client();
      await worker.handoffs(1);
      await stage.client();
      await turns();
      await pass(PATIENCE_MS - 1);
      const frozen = await stage.dispatcher.freeze();
      await stage.clients(2);
      await turns();
      await pass(2 * PATIENCE_MS);
      frozen[Symbol.dispose]();
      stage.dispatcher.thaw();
      await turns();
      assert.equal(refused(stage), 0);
      await worker.adopt();
      await worker.handoffs(1);
      await turns();
      await pass(PATIENCE_MS - 1);
      assert.equal(refused(stage), 0);
      await pass(1);
      await stage.until(() => refused(stage) === 2);
    }),
  );

  it(
    'closes nothing that came during a takeover if the worker takes it afterwards',
    withClock(async (stage, pass) => {
      const worker = await stage.joinServing({ window: 4 });
      const frozen = await stage.dispatcher.freeze();
      await stage.clients(9);
      await turns();
      await pass(2 * PATIENCE_MS);
      frozen[Symbol.dispose]();
      stage.dispatcher.thaw();
      for (let served = 0; served < 9;) {
        served += (await worker.handoff()).descriptors.length;
        await worker.adopt();
      }
      assert.equal(refused(stage), 0);
    }),
  );
});
