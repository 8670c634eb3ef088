// A worker that accepts connections by itself, where its dispatcher says so.
import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';

import { listen } from '../../../src/fd/index.js';
import { boardClock } from '../../../src/fd/internal.js';
import { counting, failing, losingDescriptors } from '../../support/failing-calls.js';
import { temporaryDirectory } from '../../support/files.js';
import { isPending, turns, until } from '../../support/loop.js';
import {
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
import { LISTENER, onStage, type Stage } from './played-dispatcher.js';

const GREETING = 'hello';

/** A server that greets, and keeps what it gets. */
function greeter(sockets: Socket[] = []) {
  return createServer((socket) => {
    sockets.push(socket.on('error', () => undefined));
    socket.resume();
    socket.write(GREETING);
  });
}

/** Nothing is accepted here, so a client stays in the backlog, where another holder of the socket finds it. */
async function waitsInBacklog(stage: Stage, client: Socket): Promise<void> {
  await turns();
  using connection = await stage.acceptor.accept();
  const { remoteAddress: address } = connection;
  assert.ok('port' in address);
  assert.equal(address.port, client.localPort);
}

describe('a worker that accepts by itself', { skip: notLinux }, () => {
  it(
    'does so when it is told to, counts on the board, and says nothing of it',
    directly(async (stage) => {
      const { dispatcher, board, worker } = stage;
      const sockets: Socket[] = [];
      await watching(stage, greeter(sockets));
      const client = await stage.visitor();
      assert.equal(await heardBy(client), GREETING);
      assert.deepEqual([countsOf(board), worker.active], [[1, 1], 1]);
      assert.equal(await heardBy(await stage.visitor()), GREETING);
      assert.deepEqual(countsOf(board), [2, 2]);
      client.destroy();
      await until(() => worker.active === 1);
      assert.deepEqual(countsOf(board), [2, 1]);
      await turns();
      assert.deepEqual(dispatcher.heard, []);
    }),
  );

  it(
    'stops when it is told to: a client waits for another holder of the socket',
    directly(async (stage) => {
      await watching(stage, greeter());
      await stage.dispatcher.watch(false);
      await turns();
      await waitsInBacklog(stage, await stage.visitor());
      await stage.dispatcher.watch(true);
      assert.equal(await heardBy(await stage.visitor()), GREETING);
    }),
  );

  it(
    'accepts nothing that it was not told to',
    directly(async (stage) => {
      await serving(stage, greeter());
      await waitsInBacklog(stage, await stage.visitor());
    }),
  );

  it(
    'takes at most one connection in a turn of the event loop',
    directly(async (stage) => {
      const CLIENTS = 6;
      let turn = 0;
      const accepted: number[] = [];
      const onStep = (step: unknown): void => {
        if (step === 'accepted') accepted.push(turn);
      };
      subscribe('passfd:step', onStep);
      const next = (): void => {
        turn++;
        immediate = setImmediate(next);
      };
      let immediate = setImmediate(next);
      const sockets: Socket[] = [];
      await serving(stage, greeter(sockets));
      for (let count = 0; count < CLIENTS; count++) await stage.visitor();
      await stage.dispatcher.watch(true);
      await until(() => accepted.length === CLIENTS);
      assert.equal(new Set(accepted).size, CLIENTS, accepted.join());

      // With a capacity too, where several are closed in one turn.
      stage.worker.capacity = CLIENTS;
      for (let count = 0; count < CLIENTS; count++) await stage.visitor();
      await turns();
      assert.equal(accepted.length, CLIENTS);
      for (const socket of sockets.splice(0)) socket.destroy();
      // What is accepted because of that is accepted before the turn is counted.
      clearImmediate(immediate);
      immediate = setImmediate(next);
      await until(() => accepted.length === 2 * CLIENTS);
      assert.equal(new Set(accepted).size, 2 * CLIENTS, accepted.join());
      clearImmediate(immediate);
      unsubscribe('passfd:step', onStep);
    }),
  );

  it(
    'reports as closed only what was handed off, and adds both up',
    directly(async (stage) => {
      const { dispatcher, worker, board } = stage;
      const sockets: Socket[] = [];
      await serving(stage, greeter(sockets));
      const { connection } = await stage.client();
      await dispatcher.handOff([connection]);
      connection.close();
      await dispatcher.hears('adopted');
      await dispatcher.watch(true);
      await heardBy(await stage.visitor());
      assert.deepEqual([worker.active, countsOf(board)], [2, [1, 1]]);
      for (const socket of sockets) socket.destroy();
      assert.equal((await dispatcher.hears('closed')).total, 1);
      assert.deepEqual([worker.active, countsOf(board)], [0, [1, 0]]);
      await turns();
      assert.deepEqual(dispatcher.heard, []);
    }),
  );

  it(
    'shows when its event loop woke up, and how many turns it made',
    directly(async ({ board: { words }, worker }) => {
      assert.ok(worker.id > 0);
      await turns();
      const before = boardClock();
      const [awakeSince, turn] = [Atomics.load(words, 0), Atomics.load(words, 1)];
      assert.ok(awakeSince > 0 && awakeSince <= before, `${awakeSince} ${before}`);
      await turns(3);
      assert.ok(Atomics.load(words, 1) >= turn + 3);
    }),
  );

  it(
    'serves http as it is',
    directly(async (stage) => {
      const server = createHttpServer((_request, response) => response.end(GREETING));
      await watching(stage, server);
      const client = await stage.visitor();
      client.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
      assert.match(await text(client), /^HTTP\/1.1 200 .*hello$/s);
    }),
  );

  it(
    'accepts in the context of the listen, and never in that of another client',
    directly(async (stage) => {
      const storage = new AsyncLocalStorage<string>();
      const contexts: (string | undefined)[] = [];
      const sockets: Socket[] = [];
      const server = storage.run('listen', () =>
        createServer((socket) => {
          contexts.push(storage.getStore());
          sockets.push(socket);
          socket.on('data', () => contexts.push(storage.getStore()));
          socket.write(GREETING);
        }),
      );
      await storage.run('listen', () => watching(stage, server));
      stage.worker.capacity = 1;
      const first = await stage.visitor();
      await heardBy(first);
      const second = await stage.visitor();
      second.write('data');
      await turns();
      assert.equal(sockets.length, 1);
      storage.run('first client', () => sockets[0]?.destroy());
      await heardBy(second);
      await until(() => contexts.length === 3);
      assert.deepEqual(contexts.slice(0, 2), ['listen', 'listen']);
      assert.notEqual(contexts[2], 'first client');
    }),
  );

  it(
    'goes on after an exception of the app, which is an ordinary one',
    directly(async (stage) => {
      const thrown: unknown[] = [];
      const mistake = new Error('of the app');
      const sockets: Socket[] = [];
      const server = createServer((socket) => {
        sockets.push(socket);
        throw mistake;
      });
      process.setUncaughtExceptionCaptureCallback((error) => thrown.push(error));
      try {
        await watching(stage, server);
        await stage.visitor();
        await stage.visitor();
        await until(() => thrown.length === 2);
        assert.deepEqual(thrown, [mistake, mistake]);
        assert.deepEqual(countsOf(stage.board), [2, 2]);
        // Also when it begins to accept again because another connection was closed.
        stage.worker.capacity = 2;
        await stage.visitor();
        await turns();
        sockets[0]?.destroy();
        await until(() => thrown.length === 3);
        sockets[1]?.destroy();
        await stage.visitor();
        await until(() => thrown.length === 4);
      } finally {
        process.setUncaughtExceptionCaptureCallback(null);
        for (const socket of sockets) socket.destroy();
      }
    }),
  );

  it(
    'warns when it has no free descriptor, and accepts the client when there is one',
    directly(async (stage) => {
      await watching(stage, greeter());
      const warned = once(process, 'warning') as Promise<[Error & { code?: string }]>;
      using limit = failing('accept', 'any', 'EMFILE', 1);
      assert.ok(limit);
      const client = await stage.visitor();
      const [warning] = await warned;
      assert.equal(warning.code, 'ERR_DESCRIPTOR_LIMIT');
      assert.equal(await heardBy(client), GREETING);
    }),
  );
});

describe('a worker without room', { skip: notLinux }, () => {
  it(
    'leaves clients to others at its capacity, and accepts when one is closed or the capacity is raised',
    directly(
      async (stage) => {
        const { worker, board } = stage;
        const sockets: Socket[] = [];
        await watching(stage, greeter(sockets));
        await heardBy(await stage.visitor());
        await waitsInBacklog(stage, await stage.visitor());
        const waiting = await stage.visitor();
        sockets[0]?.destroy();
        assert.equal(await heardBy(waiting), GREETING);
        const next = await stage.visitor();
        const heard = heardBy(next);
        assert.ok(await isPending(heard));
        worker.capacity = 2;
        assert.equal(await heard, GREETING);
        assert.deepEqual(countsOf(board), [3, 2]);
      },
      { capacity: 1 },
    ),
  );

  it(
    'counts what was handed off in its capacity',
    directly(
      async (stage) => {
        const sockets: Socket[] = [];
        await serving(stage, greeter(sockets));
        const { connection } = await stage.client();
        await stage.dispatcher.handOff([connection]);
        connection.close();
        await stage.dispatcher.hears('adopted');
        await stage.dispatcher.watch(true);
        const waiting = await stage.visitor();
        const heard = heardBy(waiting);
        assert.ok(await isPending(heard));
        sockets[0]?.destroy();
        assert.equal(await heard, GREETING);
      },
      { capacity: 1 },
    ),
  );

  it(
    'leaves clients to others at `maxConnections`, drops none, and accepts when that is raised or one is closed',
    directly(async (stage) => {
      const sockets: Socket[] = [];
      const server = greeter(sockets);
      server.maxConnections = 1;
      let dropped = 0;
      server.on('drop', () => dropped++);
      await watching(stage, server);
      await heardBy(await stage.visitor());
      await waitsInBacklog(stage, await stage.visitor());
      const waiting = await stage.visitor();
      server.maxConnections = 2;
      assert.equal(await heardBy(waiting), GREETING);
      const last = await stage.visitor();
      await turns();
      sockets[0]?.destroy();
      assert.equal(await heardBy(last), GREETING);
      assert.equal(dropped, 0);
      assert.equal(await promisify(server.getConnections.bind(server))(), 2);
    }),
  );

  it(
    'takes one connection for a loop each time that the loop asks, and tells its capacity no oftener than that changes',
    directly(async (stage) => {
      const { dispatcher, worker, board } = stage;
      const loop = worker.connections();
      const first = loop.next();
      await dispatcher.grant(stage.acceptor);
      await dispatcher.hears('ready');
      await dispatcher.watch(true);
      assert.equal((await dispatcher.hears('capacity')).capacity, 1);
      const clients = [await stage.visitor(), await stage.visitor(), await stage.visitor()];
      let { value: socket } = await first;
      for (const [index, client] of clients.entries()) {
        assert.equal((socket as Socket).remotePort, client.localPort);
        await turns();
        assert.deepEqual(countsOf(board), [index + 1, 1]);
        (socket as Socket).destroy();
        // In the same turn, so that one client at a time is served without a word to the dispatcher.
        const next = loop.next();
        if (index === clients.length - 1) break;
        ({ value: socket } = await next);
      }
      assert.deepEqual(
        dispatcher.heard.filter(({ type }) => type === 'capacity'),
        [],
      );
      await loop.return();
    }),
  );
});

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
