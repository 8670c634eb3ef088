// A system call on a worker's channel fails in the dispatcher: the worker is disconnected, and nothing is served twice.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { PassfdWorker } from '../../../src/dispatcher/workers/passfd-worker.js';
import { encodeJson } from '../../../src/handoff/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import { failing } from '../../support/failing-calls.js';
import type { FakeWorker } from '../../support/fake-worker.js';
import { turns } from '../../support/loop.js';

function handleOf(stage: Stage, { id }: FakeWorker): PassfdWorker {
  return stage.dispatcher.workers.find((worker) => worker.id === id) as PassfdWorker;
}

/** The dispatcher's end of a worker's channel. */
function channelOf(stage: Stage, worker: FakeWorker): number {
  return handleOf(stage, worker).socket.fd;
}

/** Takes the warnings that the test has expected. */
function takeWarnings(stage: Stage): unknown[] {
  return stage.warnings.splice(0).map((error) => (error as Error).message);
}

/** The worker gets a farewell, and nothing else. */
async function hearsFarewell(worker: FakeWorker): Promise<void> {
  assert.equal((await worker.next('farewell')).code, 'ERR_DISPATCHER');
  assert.equal(await worker.message(), null);
}

describe('a hand-off that fails for good', () => {
  it(
    'goes to another worker, with everything in flight to the first, after a farewell to that one',
    onStage({}, async (stage) => {
      const first = await stage.joinServing();
      const clients = await stage.clients(1);
      await first.handoffs(1);
      const second = await stage.joinServing();
      clients.push(...(await stage.clients(1)));
      await second.handoffs(1);
      stage.own(failing('sendHandoff', channelOf(stage, first), 'EACCES'));
      const left = stage.next('left');
      clients.push(...(await stage.clients(1)));

      await hearsFarewell(first);
      await assert.rejects(first.adopt(), { code: 'ERR_PEER_GONE' });
      const moved = await second.handoffs(2);
      assert.deepEqual(
        new Set(moved.map(({ remoteAddress }) => JSON.stringify(remoteAddress))),
        new Set([clients[0], clients[2]].map((client) => JSON.stringify(client?.localAddress))),
      );
      const [worker, { reason }] = await left;
      assert.equal(worker.id, first.id);
      assert.match(reason, /EACCES/);
      assert.deepEqual(takeWarnings(stage), [reason]);
      assert.equal(stage.dispatcher.status().peers.refused, 0);
    }),
  );

  it(
    'leaves the worker what it had adopted before the farewell',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.clients(2);
      await worker.handoffs(2);
      stage.own(failing('sendHandoff', channelOf(stage, worker), 'EACCES'));
      const left = stage.next('left');
      await worker.adopt(1);
      await stage.client();
      const [handle, { redelivered }] = await left;
      assert.deepEqual([handle.adopted, redelivered], [1, 1]);
      assert.equal(takeWarnings(stage).length, 1);
    }),
  );

  it(
    'is followed by no other, whose position would be wrong',
    onStage({}, async (stage) => {
      const elsewhere = await stage.dispatcher.listen({ host: '127.0.0.1', port: 0 });
      const first = await stage.joinServing();
      await stage.clients(1);
      await stage.clients(1, elsewhere);
      await first.handoffs(2);
      const second = await stage.joinServing();
      stage.own(failing('sendHandoff', channelOf(stage, second), 'EACCES', 1));
      // Two batches at once, because a batch has connections of one address only.
      first.die();
      await hearsFarewell(second);
      const third = await stage.joinServing();
      await third.handoffs(2);
      assert.equal(takeWarnings(stage).length, 1);
    }),
  );
});

describe('a channel that cannot be read', () => {
  it(
    'ends with a farewell, and only then other workers get what was in flight',
    onStage({}, async (stage) => {
      const first = await stage.joinServing();
      await stage.clients(1);
      await first.handoffs(1);
      const second = await stage.joinServing();
      stage.own(failing('receive', channelOf(stage, first), 'ENOMEM', 1));
      await first.say(encodeJson({ type: 'ready' }));
      await hearsFarewell(first);
      await second.handoffs(1);
      assert.equal(takeWarnings(stage).length, 1);
    }),
  );
});

describe('a worker that is being disconnected and reads nothing', () => {
  const mistakes: readonly [name: string, make: (worker: FakeWorker, last: number) => Promise<void>][] = [
    ['adopts what was not sent', (worker, last) => worker.adopt(last)],
    ['refuses what was not sent', (worker, last) => worker.refuse('capacity', last)],
    ['says garbage', (worker) => worker.say(Buffer.from('00000000', 'hex'))],
  ];
  for (const [name, make] of mistakes) {
    it(
      `keeps what it was sent until it can read the farewell, and nothing else: ${name}`,
      onStage({}, async (stage) => {
        const { dispatcher } = stage;
        const culprit = await stage.joinServing({ window: 4096 });
        const handle = handleOf(stage, culprit);
        // One message for each connection, until the channel is full.
        while (handle.inFlight < handle.handedOut.length + 3) {
          await stage.client();
          await stage.until(() => dispatcher.status().connections.waiting === 0);
        }
        const sent = handle.handedOut.length;
        const unsent = handle.inFlight - sent;
        const other = await stage.joinServing({ window: 4096 });
        await make(culprit, sent + 1);

        await other.handoffs(unsent);
        await turns();
        assert.deepEqual([handle.state, handle.inFlight, handle.adopted], ['draining', sent, 0]);
        await culprit.handoffs(sent);
        assert.equal((await culprit.next('farewell')).code, 'ERR_PROTOCOL');
        await other.handoffs(sent);
        assert.equal(dispatcher.status().peers.refused, 1);
      }),
    );
  }
});
