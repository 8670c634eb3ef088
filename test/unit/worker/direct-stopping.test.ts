// When a worker accepts nothing by itself any more, or cannot, and what its board shows then.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type AddressInfo } from 'node:net';
import { describe, it } from 'node:test';

import { listen } from '../../../src/fd/index.js';
import { counting, failing, losingDescriptors } from '../../support/failing-calls.js';
import { temporaryDirectory } from '../../support/files.js';
import { isPending, turns, until } from '../../support/loop.js';
import {
  GREETING,
  greeter,
  waitsInBacklog,
  countsOf,
  directly,
  entrust,
  heardBy,
  holdersOf,
  notLinux,
  serving,
  visit,
  watching,
} from './direct-stage.js';
import { LISTENER, onStage } from './played-dispatcher.js';

describe('a worker that is to accept no more', { skip: notLinux }, () => {
  it(
    'accepts nothing after the call that closes its server, and holds the socket only in custody',
    directly(async (stage) => {
      const server = greeter();
      await watching(stage, server);
      using socket = stage.acceptor.duplicate();
      const before = holdersOf(socket.inode);
      const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
      // In this turn of the event loop: it waits in the backlog, and nobody has seen it.
      await new Promise<void>((resolve) => {
        process.nextTick(resolve);
      });
      server.close();
      assert.equal(holdersOf(socket.inode), before - 1);
      await waitsInBacklog(stage, client);
      assert.deepEqual(countsOf(stage.board), [0, 0]);
      client.destroy();
    }),
  );

  it(
    'still counts what is open when its server is closed, and a drain waits for it',
    directly(async (stage) => {
      const { worker, dispatcher, board } = stage;
      const server = greeter();
      await watching(stage, server);
      const client = await stage.visitor();
      await heardBy(client);
      server.close();
      await dispatcher.hears('unlisten');
      assert.deepEqual(countsOf(board), [1, 1]);
      await dispatcher.say({ type: 'drain' });
      const drained = once(worker, 'drained');
      assert.ok(await isPending(drained));
      client.end();
      await drained;
      assert.deepEqual(countsOf(board), [1, 0]);
    }),
  );

  it(
    'accepts nothing in a drain, and reports what is open to a dispatcher that reads no board',
    directly(async (stage) => {
      const { worker, dispatcher } = stage;
      await watching(stage, greeter());
      const client = await stage.visitor();
      await heardBy(client);
      const drained = worker.drain();
      assert.deepEqual(await dispatcher.hears('holding'), { type: 'holding', on: true });
      await dispatcher.watch(true);
      await waitsInBacklog(stage, await stage.visitor());
      client.end();
      await drained;
      assert.deepEqual(await dispatcher.hears('holding'), { type: 'holding', on: false });
    }),
  );

  it(
    'leaves the socket when it is released: the address is free',
    directly(async (stage) => {
      await watching(stage, greeter());
      const { address, inode } = stage.acceptor;
      await stage.dispatcher.say({ type: 'release', listeners: [LISTENER] });
      await stage.acceptor.close();
      await until(() => holdersOf(inode) === 0);
      await using again = await listen(address);
      assert.deepEqual(again.address, address);
    }),
  );

  it(
    'notices that another process has ended a TCP socket for all, and leaves it',
    directly(async (stage) => {
      const own = await listen({ host: '127.0.0.1', port: 0 });
      const { inode } = own;
      await entrust(stage, own);
      await watching({ ...stage, acceptor: own }, greeter());
      const visitor = await visit(own);
      assert.equal(await heardBy(visitor), GREETING);
      assert.equal(holdersOf(inode), 3);
      await own.shutdown();
      await until(() => holdersOf(inode) === 1);
      await stage.dispatcher.watch(true);
      assert.equal((await stage.dispatcher.hears('unwatched')).listener, LISTENER);
      visitor.destroy();
    }),
  );

  it(
    'pauses at a Unix socket that another process has ended for all: accept(2) does not say so',
    directly(async (stage) => {
      await using directory = await temporaryDirectory();
      const own = await listen({ path: `${directory.path}/socket` });
      await entrust(stage, own);
      await watching({ ...stage, acceptor: own }, greeter());
      const visitor = await visit(own);
      assert.equal(await heardBy(visitor), GREETING);
      using calls = counting('accept');
      await own.shutdown();
      await until(() => calls.count > 0);
      await turns(1000);
      assert.ok(calls.count < 500, String(calls.count));
      visitor.destroy();
    }),
  );

  it(
    'accepts at the socket that replaces the one in custody',
    directly(async (stage) => {
      await watching(stage, greeter());
      await using next = await listen({ host: '127.0.0.1', port: 0 });
      await entrust(stage, next);
      const client = await visit(next);
      assert.equal(await heardBy(client), GREETING);
      await waitsInBacklog(stage, await stage.visitor());
      client.destroy();
    }),
  );
});

describe('a worker that cannot accept by itself', { skip: notLinux }, () => {
  it(
    'says so when it keeps no socket of the listener',
    directly(async (stage) => {
      await stage.dispatcher.watch(true, { listener: 9 });
      assert.deepEqual(await stage.dispatcher.hears('unwatched'), { type: 'unwatched', listener: 9 });
      await stage.dispatcher.watch(false, { listener: 9 });
      await turns();
      assert.deepEqual(stage.dispatcher.heard, []);
    }),
  );

  it(
    'says so when it has no board',
    onStage(
      async (stage) => {
        await entrust(stage, stage.acceptor);
        await serving(stage, greeter());
        await stage.dispatcher.watch(true);
        assert.equal((await stage.dispatcher.hears('unwatched')).listener, LISTENER);
      },
      {},
      true,
    ),
  );

  it(
    'says so when it has no descriptor for the socket, and accepts when it is told again',
    directly(async (stage) => {
      await serving(stage, greeter());
      {
        using limit = failing('duplicate', 'any', 'EMFILE', 1);
        assert.ok(limit);
        await stage.dispatcher.watch(true);
        assert.equal((await stage.dispatcher.hears('unwatched')).listener, LISTENER);
      }
      const client = await stage.visitor();
      await stage.dispatcher.watch(true);
      assert.equal(await heardBy(client), GREETING);
    }),
  );

  for (const lost of ['board', 'socket'] as const) {
    it(
      `stops and says so when the next ${lost} does not arrive, and accepts when it gets it and is told again`,
      directly(async (stage) => {
        const { dispatcher } = stage;
        await watching(stage, greeter());
        await using next = await listen({ host: '127.0.0.1', port: 0 });
        const give = async (): Promise<void> => {
          if (lost === 'board') await dispatcher.giveBoard();
          else await entrust(stage, next);
        };
        {
          using loss = losingDescriptors();
          assert.ok(loss);
          await give();
          assert.equal((await dispatcher.hears('unwatched')).listener, LISTENER);
        }
        await waitsInBacklog(stage, await stage.visitor());
        await dispatcher.watch(true);
        assert.equal((await dispatcher.hears('unwatched')).listener, LISTENER);
        await give();
        await dispatcher.watch(true);
        const client = await visit(lost === 'board' ? stage.acceptor : next);
        assert.equal(await heardBy(client), GREETING);
        client.destroy();
      }),
    );
  }

  it(
    'says so when what came as its board is none',
    directly(async (stage) => {
      await watching(stage, greeter());
      const warned = once(process, 'warning') as Promise<[Error]>;
      await stage.dispatcher.giveBoard(stage.acceptor.duplicate());
      assert.equal((await stage.dispatcher.hears('unwatched')).listener, LISTENER);
      assert.match((await warned)[0].message, /board cannot be used/);
    }),
  );

  it(
    'since its server was closed says nothing, and accepts for the next server that listens there',
    directly(async (stage) => {
      const { dispatcher } = stage;
      const server = greeter();
      await serving(stage, server);
      server.close();
      await dispatcher.hears('unlisten');
      await dispatcher.watch(true);
      await waitsInBacklog(stage, await stage.visitor());
      assert.deepEqual(dispatcher.heard, []);
      const next = greeter();
      await serving(stage, next);
      assert.equal(await heardBy(await stage.visitor()), GREETING);
      next.close();
      await dispatcher.hears('unlisten');
      await dispatcher.watch(false);
      await serving(stage, greeter());
      await waitsInBacklog(stage, await stage.visitor());
    }),
  );
});

describe('the board of a worker', { skip: notLinux }, () => {
  it(
    'is replaced by the next one, with the counts as they are',
    directly(async (stage) => {
      const { dispatcher, board } = stage;
      await watching(stage, greeter());
      await heardBy(await stage.visitor());
      const next = await dispatcher.giveBoard();
      await heardBy(await stage.visitor());
      assert.deepEqual(
        [countsOf(board), countsOf(next)],
        [
          [1, 1],
          [2, 2],
        ],
      );
    }),
  );

  it(
    'has the counts of a listener at its place, also when that changes',
    directly(async (stage) => {
      const { dispatcher, board } = stage;
      await watching(stage, greeter());
      await heardBy(await stage.visitor());
      await dispatcher.watch(true, { place: 251 });
      await heardBy(await stage.visitor());
      assert.deepEqual(countsOf(board, 251), [2, 2]);
      assert.equal(countsOf(board)[1], 0, 'nothing counts twice');
      await dispatcher.watch(false, { place: 3 });
      await until(() => countsOf(board, 3)[1] === 2);
    }),
  );
});
