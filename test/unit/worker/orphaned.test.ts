// A worker whose dispatcher has died: what the last will sends to it, and what it brings to the next dispatcher.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join as joinPath } from 'node:path';
import { describe, it } from 'node:test';

import { listen, socketPair, type Acceptor, type Descriptor } from '../../../src/fd/index.js';
import { Listener } from '../../../src/multiprocessing/index.js';
import { join } from '../../../src/worker/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { temporaryDirectory } from '../../support/files.js';
import { turns, until } from '../../support/loop.js';
import { atPath, echo } from './at-path.js';
import { LISTENER, onStage, PlayedDispatcher, type Stage } from './played-dispatcher.js';

async function serving({ worker, dispatcher, acceptor }: Stage): Promise<void> {
  await Promise.all([worker.serve(echo()), dispatcher.grant(acceptor)]);
}

async function hears(client: Socket, word: string): Promise<void> {
  client.write(word);
  const [answer] = (await once(client, 'data')) as [Buffer];
  assert.equal(answer.toString(), word);
}

describe('a worker after the message that its dispatcher has died', () => {
  it(
    'takes a new connection without an answer, which no process would read',
    onStage(async (stage) => {
      const { dispatcher } = stage;
      await serving(stage);
      const { client, connection } = await stage.client();
      await dispatcher.say({ type: 'orphaned' });
      await dispatcher.handOff([connection]);
      connection.close();
      await hears(client, 'hello');
      assert.deepEqual(
        dispatcher.heard.filter(({ type }) => type === 'adopted'),
        [],
      );
      assert.equal(stage.worker.active, 1);
    }),
  );

  it(
    'closes a connection of a listener that it does not serve: the client sees the end',
    onStage(async (stage) => {
      await serving(stage);
      const { client, connection } = await stage.client();
      await stage.dispatcher.say({ type: 'orphaned' });
      await stage.dispatcher.handOff([connection], LISTENER + 1);
      connection.close();
      client.resume();
      await once(client, 'end');
    }),
  );

  it(
    'closes the duplicate of a connection that it has received, and the connection stays open',
    onStage(async (stage) => {
      const { dispatcher, worker } = stage;
      await serving(stage);
      const [first, second] = [await stage.client(), await stage.client()];
      const connections = [first.connection, second.connection];
      await dispatcher.handOff(connections);
      assert.equal((await dispatcher.hears('adopted')).position, 2);
      await dispatcher.say({ type: 'orphaned' });
      await dispatcher.handOffAgain(1, connections);
      for (const connection of connections) connection.close();
      const third = await stage.client();
      // This connection comes after the others. When it is served, the others were handled.
      await dispatcher.handOff([third.connection]);
      await hears(third.client, 'third');
      await hears(first.client, 'first');
      assert.equal(worker.active, 3);
      // If a duplicate stayed open here, the client would never see the end.
      second.client.end();
      second.client.resume();
      await once(second.client, 'end');
    }),
  );

  it(
    'takes a connection that is sent again and that it has not received',
    onStage(async (stage) => {
      const { dispatcher } = stage;
      await serving(stage);
      const [first, second] = [await stage.client(), await stage.client()];
      await dispatcher.handOff([first.connection]);
      await dispatcher.hears('adopted');
      await dispatcher.say({ type: 'orphaned' });
      await dispatcher.handOffAgain(2, [second.connection]);
      second.connection.close();
      await hears(second.client, 'hello');
    }),
  );
});

/** A listening socket that only the worker keeps. */
async function entrust(dispatcher: PlayedDispatcher, listener: number, key: string): Promise<number> {
  const acceptor = await listen({ host: '127.0.0.1', port: 0 });
  const { address } = acceptor;
  using descriptor: Descriptor = acceptor.release();
  await dispatcher.entrust(listener, key, descriptor);
  assert.ok('port' in address);
  return address.port;
}

async function isOpen(port: number): Promise<void> {
  const client = connect(port, '127.0.0.1');
  await once(client, 'connect');
  client.destroy();
}

async function isRefused(port: number): Promise<void> {
  const client = connect(port, '127.0.0.1');
  const [error] = (await once(client, 'error')) as [NodeJS.ErrnoException];
  assert.equal(error.code, 'ECONNREFUSED');
}

describe('a worker that joins the next dispatcher', () => {
  it(
    'sends its former id and its number of open connections, and brings the sockets in its custody',
    atPath(async ({ dispatcher, acceptor, next, client }) => {
      await client();
      using descriptor = acceptor.duplicate();
      const more = { file: '9:4711', backlog: 16 };
      await dispatcher.entrust(1, 'a', descriptor, more);
      await entrust(dispatcher, 2, 'b');
      await dispatcher.say({ type: 'release', listeners: [2] });
      // When it has adopted this connection, it has read all of that.
      await client();
      const second = await next();
      const { returns } = await second.welcome();
      assert.deepEqual(returns, { id: 3, open: 2, custody: 1 });
      await second.grant(acceptor);
      await second.hears('ready');
      assert.deepEqual(second.brought, [['a', descriptor.inode]]);
      assert.deepEqual(second.labels, [{ key: 'a', ...more }]);
    }),
  );

  it(
    'sends its slot and its service when a supervisor has started it',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const control = joinPath(directory.path, 'control');
      const listener = await Listener(control);
      const [here, there] = socketPair();
      const dispatcher = new PlayedDispatcher(here);
      Object.assign(process.env, {
        PASSFD_CHANNEL_FD: String(there.release().release()),
        PASSFD_CONTROL: control,
        PASSFD_SERVICE: 'site',
      });
      const [worker] = await Promise.all([join(), dispatcher.welcome()]);
      delete process.env['PASSFD_CONTROL'];
      assert.equal(process.env['PASSFD_SERVICE'], undefined, 'what it starts is not the supervisor');
      here.destroy();
      const next = new PlayedDispatcher((await listener.accept()).socket);
      const { returns } = await next.welcome();
      assert.deepEqual(returns, { id: 3, open: 0, custody: 0, child: { slot: 3, service: 'site' } });
      await worker.close();
      next.socket.destroy();
      await listener.close();
    }),
  );

  it(
    'reports connections as closed that it had reported as open, also those that closed during the hello',
    atPath(async ({ worker, acceptor, next, client }) => {
      const [early, between, late] = [await client(), await client(), await client()];
      early.end();
      await until(() => worker.active === 2);
      const second = await next();
      assert.equal((await second.hello()).returns?.open, 2);
      between.end();
      await until(() => worker.active === 1);
      await second.welcomeNow();
      await second.grant(acceptor);
      assert.equal((await second.hears('closed')).total, 1);
      late.end();
      assert.equal((await second.hears('closed')).total, 2);
    }),
  );

  it(
    'closes the sockets that this dispatcher has not given, when they are released as stale',
    atPath(async ({ dispatcher, acceptor, next, client }) => {
      const ports = [await entrust(dispatcher, 1, 'a'), await entrust(dispatcher, 2, 'b')] as const;
      await client();
      const second = await next();
      await second.welcome();
      await second.grant(acceptor);
      await second.hears('ready');
      assert.equal(second.brought.length, 2);
      // These are ids of the last dispatcher, and are unknown to this one.
      await second.say({ type: 'release', listeners: [1, 2] });
      using first = await connected(acceptor);
      await second.handOff([first]);
      await second.hears('adopted');
      for (const port of ports) await isOpen(port);
      using kept = acceptor.duplicate();
      await second.entrust(1, 'b', kept);
      await second.say({ type: 'release', listeners: [], stale: true });
      using last = await connected(acceptor);
      await second.handOff([last]);
      await second.hears('adopted');
      for (const port of ports) await isRefused(port);
    }),
  );

  it(
    'does not return when the last dispatcher has disconnected it, and keeps nothing',
    atPath(async ({ dispatcher, worker }) => {
      const port = await entrust(dispatcher, 1, 'a');
      const abandoned = once(worker, 'abandoned');
      await dispatcher.say({ type: 'farewell', code: 'ERR_PROTOCOL', reason: 'for the test' });
      dispatcher.socket.destroy();
      await abandoned;
      await isRefused(port);
    }),
  );

  it(
    'does not return after its orphan timeout, and keeps nothing',
    atPath(
      async ({ dispatcher, worker }) => {
        const port = await entrust(dispatcher, 1, 'a');
        const abandoned = once(worker, 'abandoned');
        dispatcher.socket.destroy();
        await abandoned;
        await isRefused(port);
      },
      { orphanTimeoutMs: 0 },
    ),
  );
});

/** Checks that the worker does not connect any more. */
async function staysAway(listener: Listener): Promise<void> {
  const calm = new AbortController();
  const stays = assert.rejects(listener.accept({ signal: calm.signal }), { name: 'AbortError' });
  await turns(100);
  calm.abort();
  await stays;
}

describe('a worker that is closed while it joins the next dispatcher', () => {
  it(
    'leaves a dispatcher that welcomes it too late, and joins no other',
    atPath(async ({ worker, listener, next }) => {
      const second = await next();
      await second.hello();
      await worker.close();
      await second.welcomeNow();
      await second.ended;
      assert.deepEqual(second.heard, []);
      await staysAway(listener);
    }),
  );

  it(
    'leaves a dispatcher that has not answered its requests yet, and joins no other',
    atPath(async ({ worker, listener, next }) => {
      const second = await next();
      await second.welcome();
      await second.hears('serve');
      await worker.close();
      await second.ended;
      await staysAway(listener);
    }),
  );
});

/** A connection as the dispatcher has accepted it, whose client has closed its end. */
async function connected(acceptor: Acceptor): Promise<Descriptor> {
  assert.ok('port' in acceptor.address);
  const client = connect(acceptor.address.port, '127.0.0.1');
  const connection = await acceptor.accept();
  client.destroy();
  return connection;
}
