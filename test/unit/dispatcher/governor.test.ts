// Governor: which worker is told to watch, and what the dispatcher knows of connections that it has not seen.
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';

import type { WorkerView } from '../../../src/dispatcher/index.js';
import { encodeJson } from '../../../src/handoff/index.js';
import type { Stage } from '../../support/dispatcher-stage.js';
import type { FakeWorker } from '../../support/fake-worker.js';
import { governed, viewOf, waitingClient, watching, type Scene } from '../../support/governed.js';
import { isPending, turns } from '../../support/loop.js';

describe('a worker that can accept by itself', () => {
  it(
    'gets a board and the socket, and is told to watch when it is ready',
    governed(async ({ stage, look }) => {
      await stage.address();
      const worker = await stage.join();
      const direct = await stage.join({ direct: true });
      await direct.board();
      await direct.entrusted();
      await direct.say(encodeJson({ type: 'serve', request: 1 }));
      await direct.next('listening');
      await look(3);
      assert.equal(viewOf(stage, direct).isWatching, false);
      const serving = stage.next('serving');
      await direct.ready();
      await serving;
      await look();
      assert.equal(await direct.told(), '0 on at 0');
      const status = stage.dispatcher.status();
      assert.deepEqual(
        status.workers.map((each) => [each.watching, each.loopDelayMs]),
        [
          [null, null],
          [true, 0],
        ],
      );
      assert.equal(worker.id, 1);
    }),
  );

  it(
    'is told in its welcome that it will hear where it may, and a worker without custody is not',
    governed(async ({ stage }) => {
      const { welcomes } = await welcomesOf(stage);
      assert.deepEqual(welcomes, [true, undefined, undefined]);
    }),
  );

  it(
    'gets no board and is told nothing where the dispatcher hands off',
    governed(
      async ({ stage, look, clock }) => {
        await stage.address();
        const worker = await stage.join({ direct: true });
        assert.equal(worker.isDirect, undefined);
        await worker.entrusted();
        await worker.serve();
        await look(3);
        await stage.client();
        await worker.handoffs(1);
        assert.equal(clock.pending, 0);
        assert.equal(viewOf(stage, worker).isWatching, undefined);
      },
      { accept: 'hand-off' },
    ),
  );

  it(
    'has in its counts, in those of the listener and in the totals what it accepted by itself',
    governed(async (scene) => {
      const { stage } = scene;
      const { worker, board } = await watching(scene);
      board.show(0, 7, 3);
      const { adopted, active } = viewOf(stage, worker);
      assert.deepEqual([adopted, active], [7, 3]);
      const { listeners, connections } = stage.dispatcher.status();
      assert.deepEqual([listeners[0]?.accepted, connections.accepted, connections.adopted], [7, 7, 7]);
    }),
  );

  it(
    'has each connection counted once when the count goes round, and when it begins anew',
    governed(async (scene) => {
      const { stage } = scene;
      const { worker, board } = await watching(scene);
      const adopted = (): number => viewOf(stage, worker).adopted;
      board.show(0, 2 ** 31 - 1, 0);
      const before = adopted();
      board.show(0, 2 ** 32 - 2, 0);
      assert.equal(adopted() - before, 2 ** 31 - 1);
      board.show(0, 3, 0);
      assert.equal(adopted() - before, 2 ** 31 - 1 + 5);
      board.show(0, 2, 0);
      assert.equal(adopted() - before, 2 ** 31 - 1 + 5 + 2);
    }),
  );

  it(
    'harms only itself with what its board says',
    governed(async (scene) => {
      const { stage, look } = scene;
      const liar = await watching(scene);
      const { worker, board } = await watching(scene);
      for (const value of [-1, 2 ** 31 - 1, -(2 ** 31), 12]) {
        for (let index = 0; index < 32; index++) liar.board.set(index, value);
        board.turn();
        await look(2);
        assert.equal(viewOf(stage, worker).isStalled, false);
        assert.ok((viewOf(stage, liar.worker).active ?? -1) >= 0);
      }
      board.show(0, 5, 5);
      await look();
      assert.equal(viewOf(stage, worker).active, 5);
    }),
  );

  it(
    'is counted until its end',
    governed(async (scene) => {
      const { stage } = scene;
      const { worker, board } = await watching(scene);
      board.show(0, 4, 1);
      const left = stage.next('left');
      worker.die();
      const [view] = await left;
      assert.deepEqual([view.adopted, stage.dispatcher.status().connections.adopted], [4, 4]);
    }),
  );

  it(
    'takes connections within its capacity, however it got them',
    governed(async (scene) => {
      const { stage } = scene;
      const { worker, board } = await watching(scene, { capacity: 4 });
      board.show(0, 3, 3);
      const [view] = stage.dispatcher.workers as readonly { isFull?: boolean }[];
      assert.equal(view?.isFull, false);
      board.show(0, 4, 4);
      assert.equal(view.isFull, true);
      assert.equal(worker.id, 1);
    }),
  );
});

/** Of a worker that may accept by itself, of one without custody, and of one that cannot. */
async function welcomesOf(stage: Stage): Promise<{ readonly welcomes: (boolean | undefined)[] }> {
  const welcomes: (boolean | undefined)[] = [];
  for (const options of [{ direct: true }, { direct: true, custody: false }, { custody: true }]) {
    const worker = await stage.join(options);
    welcomes.push(worker.isDirect);
  }
  return { welcomes };
}

describe('who watches', () => {
  it(
    'changes when a worker has more connections than the others, and changes back',
    governed(async (scene) => {
      const { look } = scene;
      const full = await watching(scene);
      const empty = await watching(scene);
      await waitingClient(scene);
      assert.equal(full.accept(), 1);
      full.board.show(0, 100, 100);
      await look();
      assert.equal(await full.worker.told(), '0 off at 0');
      await waitingClient(scene);
      assert.equal(empty.accept(), 1);
      empty.board.show(0, 95, 95);
      await look();
      assert.equal(await full.worker.told(), '0 on at 0');
    }),
  );

  it(
    'includes all workers when a client waits and those that watch take nothing',
    governed(async (scene) => {
      const { look } = scene;
      const full = await watching(scene);
      await watching(scene);
      await waitingClient(scene);
      assert.equal(full.accept(), 1);
      full.board.show(0, 100, 100);
      await look();
      assert.equal(await full.worker.told(), '0 off at 0');
      await waitingClient(scene);
      await look(3);
      assert.equal(await full.worker.told(), '0 on at 0');
    }),
  );

  it(
    'is decided for each listener, at a place of its own',
    governed(async (scene) => {
      const { stage, look } = scene;
      const { worker } = await watching(scene);
      const second = await stage.dispatcher.listen({ host: '127.0.0.1', port: 0 });
      assert.ok('port' in second);
      assert.equal((await worker.entrusted()).listener, 1);
      await worker.serve();
      await look();
      assert.equal(await worker.told(), '1 on at 1');
    }),
  );

  it(
    'is decided for many listeners with one reading of what each worker has open',
    governed(async (scene) => {
      await watchingMany(scene, 40);
      await waitingClient(scene);
      const reads = await readsDuring(() => scene.look());
      assert.ok(reads > 0 && reads < 20 * 40, `${reads} reads for 40 listeners`);
    }),
  );

  it(
    'is nobody where the dispatcher stops accepting: workers are told so before they give the socket back',
    governed(async (scene) => {
      const { stage } = scene;
      const { worker } = await watching(scene);
      const stopped = stage.dispatcher.stopAccepting({ isKept: true });
      assert.equal(await worker.told(), '0 off at 0');
      assert.deepEqual((await worker.next('release')).listeners, [0]);
      await stopped;
    }),
  );

  it(
    'has no look while nothing happens, and one when a client comes',
    governed(async (scene) => {
      const { clock, look } = scene;
      const { board } = await watching(scene);
      await look(8);
      assert.equal(clock.pending, 0);
      await waitingClient(scene);
      assert.equal(clock.pending, 1);
      await look(8);
      assert.equal(clock.pending, 1);
      board.show(0, 1, 1);
      assert.equal(clock.pending, 1);
    }),
  );

  it(
    'is not looked at while clients wait at an address that nobody serves, until somebody does',
    governed(async (scene) => {
      const { clock, look } = scene;
      await waitingClient(scene);
      await look(8);
      assert.equal(clock.pending, 0);
      await watching(scene);
      assert.equal(clock.pending, 1);
    }),
  );
});

describe('the drain of a worker that watched', () => {
  it(
    'ends when the worker has read that it drains and its board shows no open connection',
    governed(async (scene) => {
      const { stage, look } = scene;
      const { worker, board } = await watching(scene);
      const drained = stage.dispatcher.drainWorker(worker.id);
      await look(20);
      assert.ok(await isPending(drained));
      await worker.next('drain');
      board.show(0, 1, 1);
      board.turn();
      await look(20);
      assert.ok(await isPending(drained));
      board.show(0, 1, 0);
      await look(20);
      await drained;
    }),
  );

  it(
    'ends at once when the worker says itself that it takes nothing new',
    governed(async (scene) => {
      const { stage, look } = scene;
      const { worker } = await watching(scene);
      const draining = stage.next('draining');
      await worker.say(encodeJson({ type: 'draining' }));
      await draining;
      await stage.dispatcher.drainWorker(worker.id);
      await look(20);
    }),
  );
});

describe('a worker that cannot accept by itself', () => {
  it(
    'is handed all that come between two looks where it is alone: there is nobody to be even with',
    governed(async ({ stage, look }) => {
      const worker = await stage.joinServing({ window: 64 });
      await look();
      await stage.clients(40);
      await stage.until(() => viewOf(stage, worker).inFlight === 40);
    }),
  );

  it(
    'is handed what comes without a reading of its board for each address',
    governed(async (scene) => {
      const { stage, look } = scene;
      const worker = await watchingMany(scene, 40);
      for (let listener = 0; listener < 40; listener++) {
        await worker.say(encodeJson({ type: 'unwatched', listener }));
      }
      await stage.until(() => viewOf(stage, worker).isWatching === false);
      await look();
      await stage.client();
      await worker.handoffs(1);
      const reads = await readsDuring(async () => {
        await worker.adopt();
        await turns();
      });
      assert.equal(viewOf(stage, worker).adopted, 1);
      assert.ok(reads < 20 * 40, `${reads} reads for 40 listeners`);
    }),
  );

  it(
    'gets its share from the dispatcher, and the others accept by themselves',
    governed(async (scene) => {
      const { stage, look } = scene;
      const direct = await watching(scene);
      const other = await stage.joinServing();
      await look();
      let accepted = 0;
      for (let count = 0; count < 80; count++) {
        await stage.client();
        await turns();
        // What the dispatcher has left.
        accepted += direct.accept();
        direct.board.show(0, accepted, accepted);
        direct.board.turn();
        await look();
      }
      const { inFlight } = viewOf(stage, other);
      assert.equal(accepted + inFlight, 80);
      assert.ok(Math.abs(accepted - inFlight) <= 20, `${accepted} and ${inFlight}`);
    }),
  );

  it(
    'gets no more than its share between two looks, however many clients come',
    governed(async (scene) => {
      const { stage, look } = scene;
      await watching(scene);
      const other = await stage.joinServing();
      await look();
      await stage.clients(60);
      await turns(100);
      assert.equal(viewOf(stage, other).inFlight, 16);
    }),
  );

  it(
    'although it had said that it could, is handed what comes, and asked again later with the socket',
    governed(async (scene) => {
      const { stage, clock, look } = scene;
      const { worker } = await watching(scene);
      await worker.say(encodeJson({ type: 'unwatched', listener: 0 }));
      await stage.until(() => viewOf(stage, worker).isWatching === false);
      await look();
      await stage.client();
      await look();
      await worker.handoffs(1);
      await worker.adopt();
      clock.advance(10_000);
      await stage.client();
      await look(3);
      for (;;) {
        const message = await worker.message();
        worker.take(message?.type === 'handoff' ? message.count : 1);
        if (message?.type === 'custody') break;
        assert.equal(message?.type, 'handoff');
      }
      assert.equal(await worker.told(), '0 on at 0');
    }),
  );
});

describe('a worker whose event loop stands still', () => {
  it(
    'is reported once, gets no hand-off, and is reported again when its loop goes round',
    governed(async (scene) => {
      const { stage, look } = scene;
      const { worker, board } = await watching(scene);
      const other = await watching(scene);
      const reports: string[] = [];
      for (const name of ['stalled', 'resumed'] as const) {
        stage.dispatcher.on(name, ({ id }: WorkerView) => reports.push(`${id} ${name}`));
      }
      board.wake();
      await waitingClient(scene);
      for (let count = 0; count < 26; count++) {
        other.board.turn();
        await look();
      }
      assert.deepEqual(reports, [`${worker.id} stalled`]);
      assert.equal(stage.dispatcher.status().workers[0]?.state, 'stalled');
      board.turn();
      await look(12);
      assert.deepEqual(reports, [`${worker.id} stalled`, `${worker.id} resumed`]);
    }),
  );

  it(
    'because its process is stopped while it waits is called first',
    governed(async (scene) => {
      const { stage, look } = scene;
      const { worker } = await watching(scene);
      const other = await watching(scene);
      await waitingClient(scene);
      for (let count = 0; count < 7; count++) {
        other.board.turn();
        await look();
      }
      assert.equal(await worker.told(), '0 on at 0');
      const stalled = stage.next('stalled');
      for (let count = 0; count < 22; count++) {
        other.board.turn();
        await look();
      }
      assert.equal((await stalled)[0].id, worker.id);
    }),
  );
});

/** A worker that was told to watch so many addresses. */
async function watchingMany(scene: Scene, count: number): Promise<FakeWorker> {
  const { stage, look } = scene;
  const { worker } = await watching(scene);
  for (let more = 1; more < count; more++) {
    await stage.dispatcher.listen({ host: '127.0.0.1', port: 0 });
    await worker.entrusted();
  }
  await worker.serve();
  await look();
  for (let more = 1; more < count; more++) assert.equal(await worker.told(), `${more} on at ${more}`);
  return worker;
}

/** How often boards are read meanwhile. */
async function readsDuring(body: () => Promise<void>): Promise<number> {
  const load = mock.method(Atomics, 'load');
  try {
    await body();
    return load.mock.callCount();
  } finally {
    load.mock.restore();
  }
}
