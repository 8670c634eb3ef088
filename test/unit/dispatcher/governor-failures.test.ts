// Governor: what it does when something fails, so that no client waits for it.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { connect, PassfdError } from '../../../src/fd/index.js';
import { LastWill } from '../../../src/fd/internal.js';
import { encodeJson } from '../../../src/handoff/index.js';
import { failing, withoutBoards } from '../../support/failing-calls.js';
import { governed, viewOf, waitingClient, watching } from '../../support/governed.js';
import { turns } from '../../support/loop.js';
import { withoutWill } from '../../support/will.js';

describe('a worker that can accept by itself', () => {
  it(
    'is handed its connections while no board can be made, with one warning, and gets a board later',
    governed(async ({ stage, clock, look }) => {
      const worker = await during(withoutBoards('EMFILE'), async () => {
        await stage.address();
        const joined = await stage.join({ direct: true });
        await joined.entrusted();
        const serving = stage.next('serving');
        await joined.serve();
        await serving;
        await look(40);
        await stage.client();
        await look();
        await joined.handoffs(1);
        return joined;
      });
      const codes = stage.warnings.splice(0).map((error) => error instanceof PassfdError && error.code);
      assert.deepEqual(codes, ['ERR_DESCRIPTOR_LIMIT']);
      assert.equal(viewOf(stage, worker).isWatching, undefined);
      clock.advance(1_000);
      await stage.client();
      await look(3);
      const messages: (string | undefined)[] = [];
      while (!messages.includes('watch')) {
        const message = await worker.message();
        messages.push(message?.type);
        if (message?.type === 'handoff') worker.take(message.count);
        if (message?.type === 'board') worker.take(1);
      }
      assert.ok(messages.includes('board'), messages.join());
    }),
  );

  it(
    'is handed its connections when no descriptor was free for its duplicate of the socket',
    governed(async ({ stage, look }) => {
      const address = await stage.address();
      const worker = await during(failing('duplicate', 'any', 'EMFILE'), () => stage.join({ direct: true }));
      await worker.board();
      const serving = stage.next('serving');
      await worker.serve();
      await serving;
      await look(3);
      stage.own(await connect(address));
      await look(3);
      await worker.handoffs(1);
      assert.equal(stage.warnings.splice(0).length, 1);
    }),
  );

  it(
    'that has no board after all is given another one when it is asked again',
    governed(async ({ stage, clock, look }) => {
      await stage.address();
      const worker = await stage.join({ direct: true });
      await worker.next('board');
      worker.take(1);
      await worker.entrusted();
      const serving = stage.next('serving');
      await worker.serve();
      await serving;
      await look();
      assert.equal(await worker.told(), '0 on at 0');
      await worker.say(encodeJson({ type: 'unwatched', listener: 0 }));
      await stage.until(() => viewOf(stage, worker).isWatching === false);
      clock.advance(10_000);
      await stage.client();
      await look(3);
      const messages: (string | undefined)[] = [];
      while (!messages.includes('watch')) {
        const message = await worker.message();
        messages.push(message?.type);
        if (message?.type !== 'watch') worker.take(message?.type === 'handoff' ? message.count : 1);
      }
      const others = messages.filter((type) => type !== 'handoff');
      assert.deepEqual(others.sort(), ['board', 'custody', 'watch']);
    }),
  );
});

/** Does something while calls fail. */
async function during<T>(failure: Disposable, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } finally {
    failure[Symbol.dispose]();
  }
}

describe('workers are governed', () => {
  it(
    'although a listener of an event throws in a look',
    governed(async (scene) => {
      const { stage, look } = scene;
      const stalled = await watching(scene);
      const other = await watching(scene);
      stage.dispatcher.once('stalled', () => {
        throw new Error('from a listener');
      });
      stalled.board.wake();
      await waitingClient(scene);
      for (let count = 0; count < 26; count++) {
        other.board.turn();
        await look();
      }
      assert.deepEqual(stage.warnings.splice(0).map(String), ['Error: from a listener']);
      const resumed = stage.next('resumed');
      stalled.board.turn();
      await look(12);
      await resumed;
    }),
  );
});

describe('a dispatcher whose workers accept by themselves', { skip: withoutWill() }, () => {
  it(
    'has a last will only when it has accepted a connection itself',
    governed(
      async (scene) => {
        const { stage, look } = scene;
        const { worker } = await watching(scene);
        await look();
        // There is one in a process.
        LastWill.open()?.[Symbol.dispose]();
        const other = await stage.joinServing();
        await look();
        await stage.client();
        await look();
        await other.handoffs(1);
        assert.throws(() => LastWill.open(), { code: 'ERR_SYSTEM' });
        worker.die();
        await turns();
      },
      { accept: 'direct', lastWill: true },
    ),
  );
});
