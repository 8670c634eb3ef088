// What becomes of workers that accept by themselves when the dispatcher is replaced, by a takeover or after its death.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Dispatcher, type AcceptMode } from '../../../src/dispatcher/index.js';
import { awaitGo, handOver, takeOver, TakeoverChannel } from '../../../src/dispatcher/internal.js';
import { socketPair } from '../../../src/fd/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import type { FakeBoard, FakeWorker } from '../../support/fake-worker.js';
import { isPending, turns } from '../../support/loop.js';
import { ManualClock } from '../../support/manual-clock.js';

/** The longest time between two looks while something happens. */
const LOOK_MS = 50;

/** The stage's dispatcher hands over to the next one, and is gone. */
async function succeed(stage: Stage, next: Dispatcher): Promise<void> {
  const [here, there] = socketPair();
  using channel = new TakeoverChannel(here);
  using predecessor = new TakeoverChannel(there);
  const kill = (): void => {
    there.destroy();
  };
  const handingOver = handOver(stage.dispatcher, { channel, kill }, []);
  await takeOver(next, predecessor, {});
  await Promise.all([handingOver, awaitGo(predecessor)]);
  next.thaw();
  await stage.dispatcher.disown();
}

async function look(clock: ManualClock, count = 1): Promise<void> {
  for (let done = 0; done < count; done++) {
    await turns();
    clock.advance(LOOK_MS);
  }
  await turns();
}

/** A worker of the stage that watches, and the first board that it has. */
async function watching(
  stage: Stage,
  clock: ManualClock,
): Promise<{ readonly worker: FakeWorker; readonly board: FakeBoard }> {
  await stage.address();
  const worker = await stage.join({ direct: true });
  const board = await worker.board();
  await worker.entrusted();
  const serving = stage.next('serving');
  await worker.serve();
  await serving;
  await look(clock);
  assert.equal(await worker.told(), '0 on at 0');
  return { worker, board };
}

/** The body of a test with a stage of the first mode, and the next generation in the second. */
function generations(
  first: AcceptMode,
  second: AcceptMode,
  body: (stage: Stage, next: Dispatcher, clock: ManualClock) => Promise<void>,
): () => Promise<void> {
  const clock = new ManualClock();
  return onStage({ accept: first, clock }, async (stage) => {
    await using next = new Dispatcher({ accept: second }, clock);
    await body(stage, next, clock);
  });
}

describe('the next generation of a dispatcher whose workers accept by themselves', () => {
  it(
    'gives each worker another board, tells it who watches, and goes on with its counts',
    generations('direct', 'direct', async (stage, next, clock) => {
      const { worker, board } = await watching(stage, clock);
      board.show(0, 10, 4);
      await succeed(stage, next);
      assert.deepEqual([next.workers[0]?.adopted, next.workers[0]?.active], [10, 4]);
      board.show(0, 12, 5);
      const second = await worker.board();
      second.show(0, 12, 5);
      await look(clock);
      assert.equal(await worker.told(), '0 on at 0');
      const status = next.status();
      assert.deepEqual([next.workers[0]?.adopted, next.workers[0]?.active], [12, 5]);
      assert.deepEqual(
        [status.listeners[0]?.accepted, status.connections.accepted, status.connections.adopted],
        [12, 12, 12],
      );
    }),
  );

  it(
    'tells workers to stop if it hands off, and waits in a drain for what they had accepted',
    generations('direct', 'hand-off', async (stage, next, clock) => {
      const { worker, board } = await watching(stage, clock);
      board.show(0, 3, 1);
      await succeed(stage, next);
      const second = await worker.board();
      second.show(0, 3, 1);
      await look(clock);
      assert.equal(await worker.told(), '0 off at 0');
      await stage.client();
      await worker.handoffs(1);
      await worker.adopt();
      await worker.sayClosed(1);
      await stage.until(() => next.workers[0]?.active === 1);
      const drained = next.drainWorker(worker.id);
      await worker.next('drain');
      second.turn();
      await look(clock, 20);
      assert.ok(await isPending(drained));
      second.show(0, 3, 0);
      await look(clock, 20);
      await drained;
    }),
  );

  it(
    'gives boards to workers that were handed off to',
    generations('hand-off', 'direct', async (stage, next, clock) => {
      await stage.address();
      const worker = await stage.join({ direct: true });
      await worker.entrusted();
      const serving = stage.next('serving');
      await worker.serve();
      await serving;
      await succeed(stage, next);
      await worker.board();
      await look(clock);
      assert.equal(await worker.told(), '0 on at 0');
    }),
  );

  it(
    'lets workers accept while it is frozen, and goes on as before when the takeover fails',
    generations('direct', 'direct', async (stage, _next, clock) => {
      const { worker, board } = await watching(stage, clock);
      board.show(0, 2, 1);
      const frozen = await stage.dispatcher.freeze();
      board.show(0, 5, 3);
      await stage.client();
      await look(clock, 4);
      assert.equal(clock.pending, 0);
      assert.equal(frozen.snapshot.counts.adopted, 2);
      frozen[Symbol.dispose]();
      stage.dispatcher.thaw();
      await look(clock);
      const [view] = stage.dispatcher.workers;
      assert.deepEqual([view?.id, view?.adopted, view?.active], [worker.id, 5, 3]);
    }),
  );
});

describe('a worker that returns from a dispatcher that died', () => {
  for (const [accept, told] of [
    ['direct', '0 on at 0'],
    ['hand-off', '0 off at 0'],
  ] as const) {
    it(`gets a board, and is told whether it goes on accepting: ${told} where the dispatcher has accept ${accept}`, () => {
      const clock = new ManualClock();
      return onStage({ accept, clock }, async (stage) => {
        await stage.address();
        const worker = await stage.join({ direct: true, returns: { id: 1 } });
        assert.equal(worker.isDirect, accept === 'direct' ? true : undefined);
        const board = await worker.board();
        await worker.entrusted();
        await worker.next('release');
        const serving = stage.next('serving');
        await worker.serve();
        await serving;
        await look(clock);
        assert.equal(await worker.told(), told);
        board.show(0, 9, 2);
        assert.equal(stage.dispatcher.workers[0]?.active, 2);
      })();
    });
  }
});
