// A worker whose dispatcher has died accepts by itself everywhere, until the next dispatcher says otherwise.
import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { describe, it } from 'node:test';

import type { Acceptor } from '../../../src/fd/index.js';
import type { Board } from '../../../src/fd/internal.js';
import { isPending, turns, until } from '../../support/loop.js';
import { atPath, type Scene } from './at-path.js';
import { countsOf, entrust, heardBy, notLinux, recordSteps, visit } from './direct-stage.js';
import { LISTENER, type PlayedDispatcher } from './played-dispatcher.js';

interface DirectScene extends Scene {
  readonly board: Board;
  /** A client whose bytes come back when the worker has accepted it. */
  readonly visitor: () => Promise<Socket>;
}

/** A test of a worker whose first dispatcher governs who accepts, and has told it nothing yet. */
function directly(body: (scene: DirectScene) => Promise<void>): () => Promise<void> {
  return atPath(
    async (scene) => {
      const { dispatcher, acceptor } = scene;
      const board = await dispatcher.giveBoard();
      await entrust(scene, acceptor);
      while (!(await dispatcher.hears('ready')).listeners);
      // When it has adopted this connection, it has read all of that.
      (await scene.client()).destroy();
      await until(() => scene.worker.active === 0);
      const visitors: Socket[] = [];
      try {
        await body({
          ...scene,
          board,
          visitor: async () => {
            const client = await visit(acceptor);
            visitors.push(client);
            client.write('hello');
            return client;
          },
        });
      } finally {
        for (const client of visitors) client.destroy();
      }
    },
    {},
    true,
  );
}

const NEXT_LISTENER = LISTENER + 4;

/** The next dispatcher welcomes the worker, gives it a board, and then the socket under another id. */
async function welcomes(
  next: PlayedDispatcher,
  acceptor: Acceptor,
  { isDirect = true } = {},
): Promise<{ board: Board | undefined; open: number | undefined }> {
  next.isDirect = isDirect;
  const { direct, returns } = await next.welcome();
  assert.equal(direct, true, 'the hello says what the worker can');
  const board = isDirect ? await next.giveBoard() : undefined;
  await entrust({ dispatcher: next }, acceptor, NEXT_LISTENER);
  await next.grant(acceptor, NEXT_LISTENER);
  await next.hears('ready');
  return { board, open: returns?.open };
}

describe('a worker without a dispatcher', { skip: notLinux }, () => {
  it(
    'accepts where it serves, also where it was not told to',
    directly(async ({ visitor, next, worker }) => {
      const waiting = await visitor();
      assert.ok(await isPending(heardBy(waiting)));
      await next();
      assert.equal(await heardBy(await visitor()), 'hello');
      assert.equal(worker.active, 2);
    }),
  );

  it(
    'accepts as soon as the last will says that the dispatcher has died',
    directly(async ({ dispatcher, visitor }) => {
      await dispatcher.say({ type: 'orphaned' });
      assert.equal(await heardBy(await visitor()), 'hello');
    }),
  );

  it(
    'goes on when the next dispatcher governs, until that one tells it to stop',
    directly(async ({ visitor, next, acceptor }) => {
      const second = await next();
      await welcomes(second, acceptor);
      assert.equal(await heardBy(await visitor()), 'hello');
      await second.watch(false, { listener: NEXT_LISTENER });
      await turns();
      const waiting = heardBy(await visitor());
      assert.ok(await isPending(waiting));
      await second.watch(true, { listener: NEXT_LISTENER });
      assert.equal(await waiting, 'hello');
    }),
  );

  it(
    'stops when the next dispatcher hands every connection off',
    directly(async ({ visitor, next, acceptor }) => {
      const second = await next();
      await welcomes(second, acceptor, { isDirect: false });
      const client = await visitor();
      const heard = heardBy(client);
      assert.ok(await isPending(heard));
      using connection = await acceptor.accept();
      await second.handOff([connection], NEXT_LISTENER);
      assert.equal(await heard, 'hello');
    }),
  );

  it(
    'accepts again when the next dispatcher dies before it has answered',
    directly(async ({ visitor, next }) => {
      const second = await next();
      second.isDirect = true;
      await second.welcome();
      await second.hears('serve');
      await next();
      assert.equal(await heardBy(await visitor()), 'hello');
    }),
  );

  it(
    'accepts again also where that one has told it to stop before it died',
    directly(async ({ worker, visitor, next, acceptor, dispatcher }) => {
      const other = createServer();
      const wanted = { host: '127.0.0.1', port: 1, ipv6Only: false, index: 0 };
      const listen = { address: null, port: 1, addressType: 4, backlog: 1, fd: undefined, flags: undefined };
      const listening = worker.listenWith(other, wanted, listen);
      const { request } = await dispatcher.hears('listen');
      const address = { host: '127.0.0.1', port: 1 };
      await dispatcher.say({ type: 'listening', request, listeners: [{ id: 1, address }] });
      await listening;

      const second = await next();
      second.isDirect = true;
      await second.welcome();
      await second.giveBoard();
      await entrust({ dispatcher: second }, acceptor, NEXT_LISTENER);
      await second.grant(acceptor, NEXT_LISTENER);
      await second.hears('listen');
      await second.watch(false, { listener: NEXT_LISTENER });
      const waiting = heardBy(await visitor());
      assert.ok(await isPending(waiting));
      await next();
      assert.equal(await waiting, 'hello');
      other.close();
    }),
  );

  it(
    'stops when the next dispatcher releases the socket',
    directly(async ({ visitor, next, acceptor }) => {
      const second = await next();
      second.isDirect = true;
      await second.welcome();
      await second.grant(acceptor);
      await second.hears('ready');
      await second.say({ type: 'release', listeners: [], stale: true });
      await turns();
      assert.ok(await isPending(heardBy(await visitor())));
    }),
  );

  for (const isDirect of [true, false]) {
    it(
      `accepts nothing when the dispatcher gave it no board, since that one handed everything off${isDirect ? '' : ', or was of an earlier release'}`,
      atPath(
        async (scene) => {
          await entrust(scene, scene.acceptor);
          (await scene.client()).destroy();
          await scene.next();
          const client = await visit(scene.acceptor);
          client.write('hello');
          assert.ok(await isPending(heardBy(client)));
          client.destroy();
        },
        {},
        isDirect,
      ),
    );
  }

  it(
    'accepts nothing when it drains',
    directly(async ({ worker, visitor, dispatcher }) => {
      await worker.drain();
      dispatcher.socket.destroy();
      await turns();
      assert.ok(await isPending(heardBy(await visitor())));
    }),
  );
});

describe('the counts of a worker that comes to the next dispatcher', { skip: notLinux }, () => {
  it(
    'are no part of what it returns with, and are on the next board when the listener has a place there',
    directly(async ({ board, dispatcher, visitor, next, acceptor, worker, client }) => {
      const steps = recordSteps('watching');
      await dispatcher.watch(true, { place: 2 });
      await steps.next();
      await heardBy(await visitor());
      await dispatcher.watch(false, { place: 2 });
      await turns();
      await client();
      const second = await next();
      await heardBy(await visitor());
      assert.deepEqual(countsOf(board, 2), [1, 1], 'nobody reads the old one');
      const { board: nextBoard, open } = await welcomes(second, acceptor);
      assert.ok(nextBoard);
      assert.equal(open, 1, 'only what was handed off');
      await second.watch(true, { listener: NEXT_LISTENER, place: 0 });
      await heardBy(await visitor());
      assert.deepEqual([countsOf(nextBoard), worker.active], [[3, 3], 4]);

      // The one after that counts what is open, and nothing that was closed before it came.
      (await visitor()).destroy();
      await until(() => countsOf(nextBoard).join() === '4,3');
      const third = await next();
      const { board: lastBoard } = await welcomes(third, acceptor);
      assert.ok(lastBoard);
      await third.watch(false, { listener: NEXT_LISTENER, place: 0 });
      await until(() => countsOf(lastBoard).join() === '3,3');
    }),
  );

  it(
    'are reported as held until a board shows them, and for as long as they are open to a dispatcher that has none',
    directly(async ({ visitor, next, acceptor }) => {
      const second = await next();
      const client = await visitor();
      await heardBy(client);
      second.isDirect = true;
      await second.welcome();
      assert.equal((await second.hears('holding')).on, true);
      const board = await second.giveBoard();
      await entrust({ dispatcher: second }, acceptor, NEXT_LISTENER);
      await second.grant(acceptor, NEXT_LISTENER);
      await second.watch(true, { listener: NEXT_LISTENER });
      assert.equal((await second.hears('holding')).on, false);
      assert.deepEqual(countsOf(board), [1, 1]);

      const third = await next();
      await welcomes(third, acceptor, { isDirect: false });
      await until(() => third.heard.length === 0);
      client.end();
      assert.equal((await third.hears('holding')).on, false);
    }),
  );
});
