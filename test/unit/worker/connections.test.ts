// A loop over the connections of a worker: it gets the connections that it asks for, and no more.
import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { join as joinPath } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it, mock } from 'node:test';

import { Dispatcher } from '../../../src/dispatcher/index.js';
import { join } from '../../../src/worker/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';
import { STUCK_AFTER_MS } from '../../support/deadline.js';
import { isPending, turns } from '../../support/loop.js';
import { onStage, type Stage } from './played-dispatcher.js';

const CLIENTS = 12;
const CHANGES = 50;

type Connections = AsyncGenerator<Socket, void, undefined>;

/** A loop over the connections that waits for its first one. */
async function looping(stage: Stage): Promise<{ loop: Connections; first: Promise<Socket> }> {
  const { loop, next } = await waiting(stage);
  return { loop, first: socketOf(next) };
}

/** The same, but the loop may be over. */
async function waiting(stage: Stage): Promise<{ loop: Connections; next: ReturnType<Connections['next']> }> {
  const loop = stage.worker.connections();
  const next = loop.next();
  await stage.dispatcher.grant(stage.acceptor);
  await stage.dispatcher.hears('ready');
  return { loop, next };
}

function nextOf(loop: Connections): Promise<Socket> {
  return socketOf(loop.next());
}

async function socketOf(next: ReturnType<Connections['next']>): Promise<Socket> {
  const { value } = await next;
  assert.ok(value, 'the loop is over');
  return value;
}

/** Hands off the connection of a new client. */
async function come(stage: Stage): Promise<Socket> {
  const { client, connection } = await stage.client();
  await stage.dispatcher.handOff([connection]);
  connection.close();
  return client;
}

describe('a loop over the connections', () => {
  it(
    'gets each connection paused, with no byte read',
    onStage(async (stage) => {
      const { loop, first } = await looping(stage);
      const { client, connection } = await stage.client();
      client.write('hello');
      await stage.dispatcher.handOff([connection]);
      connection.close();
      const socket = await first;
      assert.equal(socket.remotePort, client.localPort);
      assert.equal((await stage.dispatcher.hears('adopted')).position, 1);
      socket.resume();
      const [words] = (await once(socket, 'data')) as [Buffer];
      assert.equal(words.toString(), 'hello');
      socket.destroy();
      await loop.return();
    }),
  );

  it(
    'gets a connection when it waits for one, and none while its body is busy',
    onStage(async (stage) => {
      const { dispatcher } = stage;
      const { loop, first } = await looping(stage);
      assert.equal((await dispatcher.hears('capacity')).capacity, 1);
      await come(stage);
      const socket = await first;
      await turns();
      // One connection is open in the body of the loop, and one more may come.
      assert.deepEqual(
        dispatcher.heard.filter(({ type }) => type === 'capacity'),
        [],
      );
      const second = nextOf(loop);
      assert.equal((await dispatcher.hears('capacity')).capacity, 2);
      socket.destroy();
      assert.equal((await dispatcher.hears('capacity')).capacity, 1);
      assert.equal((await dispatcher.hears('closed')).total, 1);
      await come(stage);
      (await second).destroy();
      assert.equal((await dispatcher.hears('capacity')).capacity, 0);
      assert.equal((await dispatcher.hears('closed')).total, 2);
      await loop.return();
    }),
  );

  it(
    'reports its room before it asks for connections: none comes in between',
    onStage(async (stage) => {
      const loop = stage.worker.connections();
      const first = loop.next();
      assert.equal((await stage.dispatcher.hears('capacity')).capacity, 0);
      await stage.dispatcher.grant(stage.acceptor);
      assert.equal((await stage.dispatcher.hears('capacity')).capacity, 1);
      await stage.worker.close();
      await first;
    }),
  );

  it(
    'asks for no more connections than the capacity allows',
    onStage(
      async (stage) => {
        const { loop, first } = await looping(stage);
        assert.equal((await stage.dispatcher.hears('capacity')).capacity, 1);
        await come(stage);
        const socket = await first;
        const second = loop.next();
        await turns();
        assert.deepEqual(
          stage.dispatcher.heard.filter(({ type }) => type === 'capacity'),
          [],
        );
        stage.worker.capacity = null;
        assert.equal((await stage.dispatcher.hears('capacity')).capacity, 2);
        socket.destroy();
        await stage.worker.close();
        await second;
      },
      { capacity: 1 },
    ),
  );

  it(
    'refuses a connection that it has not asked for',
    onStage(async (stage) => {
      const { dispatcher } = stage;
      const { loop, first } = await looping(stage);
      const connections = [(await stage.client()).connection, (await stage.client()).connection];
      await dispatcher.handOff(connections);
      assert.equal((await dispatcher.hears('adopted')).position, 1);
      assert.deepEqual(await dispatcher.hears('refused'), {
        type: 'refused',
        position: 2,
        reason: 'capacity',
      });
      const socket = await first;
      await dispatcher.handOff(connections.slice(1));
      assert.deepEqual(await dispatcher.hears('refused'), {
        type: 'refused',
        position: 3,
        reason: 'capacity',
      });
      socket.destroy();
      await loop.return();
    }),
  );

  it(
    'gives the listener back when it is left, and restores the capacity',
    onStage(async (stage) => {
      const { dispatcher, worker } = stage;
      const { loop, first } = await looping(stage);
      const client = await come(stage);
      const socket = await first;
      await Promise.all([loop.return(), dispatcher.hears('unlisten')]);
      assert.equal((await dispatcher.hears('capacity')).capacity, null);
      const { connection } = await stage.client();
      await dispatcher.handOff([connection]);
      assert.equal((await dispatcher.hears('refused')).reason, 'not-listening');
      assert.equal(worker.active, 1);
      const closed = once(socket, 'close');
      socket.end('still here');
      socket.resume();
      const [words] = (await once(client, 'data')) as [Buffer];
      assert.equal(words.toString(), 'still here');
      await closed;
    }),
  );

  it(
    'no longer reports each closed connection at once when it is left',
    onStage(async (stage) => {
      const { dispatcher } = stage;
      const { loop, first } = await looping(stage);
      await come(stage);
      const socket = await first;
      await loop.return();
      while ((await dispatcher.hears('capacity')).capacity !== null);
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        socket.destroy();
        await once(socket, 'close');
        await turns();
        assert.deepEqual(dispatcher.heard, []);
        mock.timers.runAll();
      } finally {
        mock.timers.reset();
      }
      assert.equal((await dispatcher.hears('closed')).total, 1);
    }),
  );

  for (const way of ['return', 'throw'] as const) {
    it(
      `that is left by ${way}() while it waits ends at once, and the next taker is let in`,
      onStage(async (stage) => {
        const { dispatcher, worker } = stage;
        const { loop, next: last } = await waiting(stage);
        const left = way === 'return' ? loop.return() : loop.throw(new Error('enough'));
        left.catch(() => undefined);
        await dispatcher.hears('unlisten');
        assert.equal((await last).done, true);
        if (way === 'return') assert.equal((await left).done, true);
        else await assert.rejects(left, /enough/);
        const server = createServer();
        await Promise.all([worker.serve(server), dispatcher.grant(stage.acceptor)]);
        server.close();
        await dispatcher.hears('unlisten');
      }),
    );
  }

  it(
    'still gets the connection that was adopted for it when it is left while it waits',
    onStage(async (stage) => {
      const { loop, first } = await looping(stage);
      const { connection } = await stage.client();
      const left = new Promise<IteratorResult<Socket, void>>((resolve) => {
        // The connection is delivered right after this.
        const onStep = (step: unknown): void => {
          if (step !== 'adopted') return;
          unsubscribe('passfd:step', onStep);
          resolve(loop.return());
        };
        subscribe('passfd:step', onStep);
      });
      await stage.dispatcher.handOff([connection]);
      connection.close();
      (await first).destroy();
      assert.equal((await left).done, true);
    }),
  );

  it(
    'gets what was adopted before a drain, and then ends',
    onStage(async (stage) => {
      const { dispatcher } = stage;
      const { loop, first } = await looping(stage);
      const { connection } = await stage.client();
      await Promise.all([dispatcher.handOff([connection]), dispatcher.say({ type: 'drain' })]);
      const socket = await first;
      assert.equal((await loop.next()).done, true);
      socket.destroy();
    }),
  );

  it(
    'ends when the worker is closed',
    onStage(async (stage) => {
      const next = stage.worker.connections().next();
      await stage.dispatcher.grant(stage.acceptor);
      await stage.dispatcher.hears('ready');
      await stage.worker.close();
      assert.ok(!(await isPending(next)), 'the loop waits for ever');
    }),
  );

  it(
    'ends at once when the worker drains already',
    onStage(async (stage) => {
      await stage.worker.drain();
      const next = stage.worker.connections().next();
      assert.ok(!(await isPending(next)), 'the loop waits for ever');
      assert.equal((await next).done, true);
    }),
  );

  it(
    'fails when the dispatcher has no address of its own',
    onStage(async (stage) => {
      const next = stage.worker.connections().next();
      const { request } = await stage.dispatcher.hears('serve');
      await stage.dispatcher.say({ type: 'listening', request, listeners: [] });
      assert.ok(!(await isPending(next)), 'the loop waits for ever');
      await assert.rejects(next, failsWith('ERR_NO_ADDRESS', /--listen/));
    }),
  );
});

describe('a loop that serves one client at a time', () => {
  it(
    'makes no client wait while another worker is free, and loses none when it is left',
    { timeout: STUCK_AFTER_MS },
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const control = joinPath(directory.path, 'control');
      await using dispatcher = new Dispatcher();
      const address = await dispatcher.listen({ host: '127.0.0.1', port: 0 });
      assert.ok('port' in address);
      await dispatcher.openControl(control);
      const answers: string[] = [];
      const visit = async (): Promise<void> => {
        answers.push(await text(connect(address.port, '127.0.0.1')));
      };
      await using alone = await join({ control });
      const loop = alone.connections();
      const clients = [visit()];
      const socket = await nextOf(loop);
      await using other = await join({ control });
      const server = createServer((connection) => connection.end('server'));
      await other.serve(server);
      while (clients.length < CLIENTS) clients.push(visit());
      // The body of the loop is busy with one connection.
      while (answers.length < CLIENTS - 1) await turns(1);
      await loop.return();
      socket.resume();
      socket.end('loop');
      await Promise.all(clients);
      assert.deepEqual(answers, [...Array<string>(CLIENTS - 1).fill('server'), 'loop']);
      server.close();
    }),
  );
});

describe('the connections of a dispatcher', () => {
  it(
    'go to one server or loop of a worker: a second one fails',
    onStage(async (stage) => {
      const { loop, first } = await looping(stage);
      const second = stage.worker.connections().next();
      assert.ok(!(await isPending(second)), 'the second loop waits for ever');
      await assert.rejects(second, failsWith('ERR_ADDRESS_IN_USE'));
      await come(stage);
      (await first).destroy();
      await loop.return();
    }),
  );

  it(
    'go to the next server or loop when the first is over',
    onStage(async (stage) => {
      const { loop, first } = await looping(stage);
      await come(stage);
      (await first).destroy();
      await loop.return();
      const again = stage.worker.connections();
      const other = nextOf(again);
      await stage.dispatcher.grant(stage.acceptor);
      await stage.dispatcher.hears('capacity');
      await come(stage);
      (await other).destroy();
      await again.return();
    }),
  );
});

describe('the capacity of a worker', () => {
  it(
    'is reported once for several changes, with the last value',
    onStage(async ({ worker, dispatcher }) => {
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        for (let capacity = 0; capacity <= CHANGES; capacity++) {
          worker.capacity = capacity;
          assert.equal(worker.capacity, capacity);
          await turns(1);
        }
        mock.timers.runAll();
      } finally {
        mock.timers.reset();
      }
      assert.equal((await dispatcher.hears('capacity')).capacity, CHANGES);
      worker.capacity = null;
      assert.equal((await dispatcher.hears('capacity')).capacity, null);
    }),
  );

  it(
    'is reported before connections that closed after the change',
    onStage(
      async (stage) => {
        const { dispatcher, worker } = stage;
        const server = createServer();
        const came = once(server, 'connection') as Promise<[Socket]>;
        await Promise.all([worker.serve(server), dispatcher.grant(stage.acceptor)]);
        await come(stage);
        const [socket] = await came;
        await dispatcher.hears('adopted');
        worker.capacity = 0;
        socket.destroy();
        await once(socket, 'close');
        await turns();
        assert.deepEqual(dispatcher.heard, [
          { type: 'capacity', capacity: 0 },
          { type: 'closed', total: 1 },
        ]);
        server.close();
      },
      { capacity: 1 },
    ),
  );
});
