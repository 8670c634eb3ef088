// The overload rule `refuse`: who is closed unserved, and when; and who is not, since a worker has only no room just now.
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';

import { PATIENCE_MS } from '../../../src/dispatcher/patience.js';
import type { StreamSocket } from '../../../src/fd/index.js';
import { backlogOf, onStage, type Stage } from '../../support/dispatcher-stage.js';
import { isPending, turns } from '../../support/loop.js';
import { receivedText } from '../../support/stream.js';

/** The body of a test whose clock stands still until it is told to go on. */
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
    'closes a connection at once when every worker has as many as it takes, and counts it',
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
    'closes nobody who comes in a burst to a worker that takes any number: they wait for its window',
    // However long a busy machine takes, nobody has waited for too long.
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
    'closes who finds no room for a second, however many wait',
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
      // Who comes then waits anew.
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
    'closes the rest of a queue that has not been empty for a second, though a worker takes one now and then',
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
    'lets clients wait while there is no worker at all, and then as long as any others',
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
    'closes nobody for a takeover that took long and failed; the time that they wait begins behind it',
    withClock(async (stage, pass) => {
      const worker = await stage.joinServing({ window: 1 });
      await stage.client();
      await worker.handoffs(1);
      await stage.client();
      await turns();
      await pass(PATIENCE_MS - 1);
      const { release } = await stage.dispatcher.freeze();
      await stage.clients(2);
      await turns();
      await pass(2 * PATIENCE_MS);
      release();
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
    'closes nobody who came first during that, and whom the worker takes behind it',
    withClock(async (stage, pass) => {
      const worker = await stage.joinServing({ window: 4 });
      const { release } = await stage.dispatcher.freeze();
      await stage.clients(9);
      await turns();
      await pass(2 * PATIENCE_MS);
      release();
      stage.dispatcher.thaw();
      for (let served = 0; served < 9;) {
        served += (await worker.handoff()).descriptors.length;
        await worker.adopt();
      }
      assert.equal(refused(stage), 0);
    }),
  );
});
