// A worker that accepts connections by itself, where its dispatcher says so.
import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it, mock } from 'node:test';
import { promisify } from 'node:util';

import { boardClock } from '../../../src/fd/internal.js';
import { failing } from '../../support/failing-calls.js';
import { isPending, turns, until } from '../../support/loop.js';
import {
  GREETING,
  greeter,
  waitsInBacklog,
  countsOf,
  directly,
  type DirectStage,
  heardBy,
  holdersOf,
  notLinux,
  serving,
  watching,
} from './direct-stage.js';

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
        // Also when it begins to accept again, and more than one client waits. No pause helps it on.
        mock.timers.enable({ apis: ['setTimeout'] });
        stage.worker.capacity = 2;
        await stage.visitor();
        await stage.visitor();
        await turns();
        stage.worker.capacity = 4;
        await until(() => thrown.length === 4);
      } finally {
        mock.timers.reset();
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

describe('a loop over the connections that waits for one', { skip: notLinux }, () => {
  /** The loop has one connection open, and has asked for a second one, which a capacity of one does not allow. */
  function atCapacity(
    body: (stage: DirectStage, first: Socket, second: Promise<Socket>) => Promise<void>,
    isHandedOff: boolean,
  ): () => Promise<void> {
    return directly(
      async (stage) => {
        const { dispatcher } = stage;
        const loop = stage.worker.connections();
        const first = loop.next();
        await dispatcher.grant(stage.acceptor);
        await dispatcher.hears('ready');
        if (isHandedOff) {
          const { connection } = await stage.client();
          await dispatcher.handOff([connection]);
          connection.close();
        } else {
          await dispatcher.watch(true);
          await stage.visitor();
        }
        const { value: socket } = (await first) as { value: Socket };
        const second = loop.next().then(({ value }) => value as Socket);
        await dispatcher.watch(true);
        await stage.visitor();
        assert.ok(await isPending(second));
        await body(stage, socket, second);
        socket.destroy();
        (await second).destroy();
        await loop.return();
      },
      { capacity: 1 },
    );
  }

  for (const isHandedOff of [true, false]) {
    it(
      `gets it when one that was ${isHandedOff ? 'handed off' : 'accepted by the worker'} is closed`,
      atCapacity(async (_stage, socket, second) => {
        socket.destroy();
        await second;
      }, isHandedOff),
    );
  }

  it(
    'gets it when the capacity is raised',
    atCapacity(async ({ worker }, _socket, second) => {
      worker.capacity = 2;
      await second;
    }, false),
  );

  it(
    'gets it also when it asks long after the last one was closed',
    directly(async (stage) => {
      const loop = stage.worker.connections();
      const first = loop.next();
      await stage.dispatcher.grant(stage.acceptor);
      await stage.dispatcher.hears('ready');
      await stage.dispatcher.watch(true);
      await stage.visitor();
      ((await first).value as Socket).destroy();
      const waiting = await stage.visitor();
      await turns();
      const { value: socket } = (await loop.next()) as { value: Socket };
      assert.equal(socket.remotePort, waiting.localPort);
      socket.destroy();
      await loop.return();
    }),
  );

  it(
    'holds the socket only in custody when the worker drains while the body of the loop is busy',
    directly(async (stage) => {
      const loop = stage.worker.connections();
      const first = loop.next();
      await stage.dispatcher.grant(stage.acceptor);
      await stage.dispatcher.hears('ready');
      await stage.dispatcher.watch(true);
      await stage.visitor();
      const { value: socket } = (await first) as { value: Socket };
      const { inode } = stage.acceptor;
      assert.equal(holdersOf(inode), 3);
      const drained = stage.worker.drain();
      assert.equal(holdersOf(inode), 2);
      socket.destroy();
      await drained;
      await loop.return();
    }),
  );
});
