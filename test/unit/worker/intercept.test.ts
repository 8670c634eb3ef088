// An app's own `listen` under the preload: what the app sees of it, and which server gets the dispatcher's addresses.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, Server, type AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

import { listen } from '../../../src/fd/index.js';
import { interceptListen } from '../../../src/worker/intercept.js';
import type { Worker } from '../../../src/worker/index.js';
import { turns } from '../../support/loop.js';
import { LISTENER, onStage, type PlayedDispatcher, type Stage } from './played-dispatcher.js';

/** Until it is disposed of, servers listen through the worker. */
function intercepting(worker: Worker): Disposable {
  const prototype = Server.prototype as unknown as Record<string, unknown>;
  const { listen, _listen2 } = prototype;
  interceptListen(worker);
  return {
    [Symbol.dispose]: () => {
      Object.assign(prototype, { listen, _listen2 });
    },
  };
}

async function listening({ dispatcher, acceptor }: Stage, server: Server): Promise<void> {
  server.listen(8000, '127.0.0.1');
  await Promise.all([once(server, 'listening'), dispatcher.grant(acceptor)]);
}

/** A second address. */
async function grantOther(dispatcher: PlayedDispatcher, port: number): Promise<void> {
  const { request } = await dispatcher.hears('listen');
  const address = { host: '127.0.0.1', port };
  await dispatcher.say({ type: 'listening', request, listeners: [{ id: LISTENER + 1, address }] });
}

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
const knowsReusePort = major > 22 || (major === 22 && minor >= 12);

describe('a server for which the app asks for `reusePort`', () => {
  const skip = knowsReusePort ? false : 'this version of Node does not know it';

  it(
    "listens through the dispatcher like any other: it opens no socket beside the service's",
    { skip },
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const options = { port: 8000, host: '127.0.0.1', reusePort: true };
      const first = createServer().listen(options);
      await Promise.all([once(first, 'listening'), stage.dispatcher.grant(stage.acceptor)]);
      // Node has set `exclusive` in this object.
      const second = createServer().listen({ ...options, port: 8001 });
      await Promise.all([once(second, 'listening'), grantOther(stage.dispatcher, 8001)]);
      first.close();
      second.close();
    }),
  );
});

describe("the first server of an app, at the dispatcher's own addresses", () => {
  it(
    'has no listeners but those of the app: an unhandled error is thrown',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const server = createServer();
      server.listen(8000, '127.0.0.1');
      assert.equal(server.listenerCount('error'), 0);
      await Promise.all([once(server, 'listening'), stage.dispatcher.grant(stage.acceptor)]);
      assert.deepEqual(server.eventNames(), []);
      const mistake = new Error('of the app');
      assert.throws(() => server.emit('error', mistake), mistake);
      server.close();
    }),
  );

  it(
    'keeps them when it has handled an error: the next server listens where it asks',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const first = createServer().on('error', () => undefined);
      await listening(stage, first);
      first.emit('error', new Error('handled'));
      const second = createServer().listen(8001, '127.0.0.1');
      await Promise.all([once(second, 'listening'), grantOther(stage.dispatcher, 8001)]);
      assert.deepEqual(second.address(), { address: '127.0.0.1', port: 8001, family: 'IPv4' });
      first.close();
      second.close();
    }),
  );

  it(
    'leaves them to the next server when it is closed, also while it has connections',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const first = createServer((socket) => socket.resume());
      await listening(stage, first);
      const { connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      await stage.dispatcher.hears('adopted');
      connection.close();
      first.close();
      const second = createServer();
      await listening(stage, second);
      second.close();
      await turns();
    }),
  );

  it(
    'leaves them to the next server when it could not listen',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const { dispatcher } = stage;
      const first = createServer().listen(8000, '127.0.0.1');
      const failed = once(first, 'error');
      const { request } = await dispatcher.hears('serve');
      await dispatcher.say({ type: 'listen-failed', request, code: 'EACCES', reason: 'not today' });
      await failed;
      const second = createServer();
      await listening(stage, second);
      second.close();
    }),
  );

  it(
    'keeps them when it is closed and listens again before it had an answer',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const { dispatcher, acceptor } = stage;
      // Without a name to look up, the dispatcher is asked at once.
      const server = createServer().listen(8000);
      server.close();
      server.listen(8000);
      await dispatcher.grant(acceptor);
      await Promise.all([once(server, 'listening'), dispatcher.grant(acceptor)]);
      const other = createServer().listen(8001, '127.0.0.1');
      await Promise.all([once(other, 'listening'), grantOther(dispatcher, 8001)]);
      server.close();
      other.close();
    }),
  );
});

describe('an intercepted listen', () => {
  it(
    'fails with EINVAL for a number that is no descriptor, as Node does',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const first = createServer();
      await listening(stage, first);
      const server = createServer();
      const failed = once(server, 'error') as Promise<[NodeJS.ErrnoException]>;
      server.listen({ fd: 1000 });
      const { request } = await stage.dispatcher.hears('listen');
      await stage.dispatcher.say({
        type: 'listen-failed',
        request,
        code: 'EBADF',
        reason: 'no such descriptor',
      });
      const [{ code, syscall }] = await failed;
      assert.deepEqual({ code, syscall }, { code: 'EINVAL', syscall: 'listen' });
      first.close();
    }),
  );

  it(
    'listens by itself when the answer comes after the drain has begun',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const { dispatcher } = stage;
      const first = createServer();
      await listening(stage, first);
      const server = createServer((socket) => socket.end('here')).listen(0, '127.0.0.1');
      const { request } = await dispatcher.hears('listen');
      await dispatcher.say({ type: 'drain' });
      const address = { host: '127.0.0.1', port: 1 };
      await dispatcher.say({ type: 'listening', request, listeners: [{ id: LISTENER + 1, address }] });
      await once(server, 'listening');
      const { port } = server.address() as AddressInfo;
      assert.equal(await text(connect(port, '127.0.0.1')), 'here');
      assert.ok(dispatcher.unlistened.includes(LISTENER + 1));
      server.close();
      await once(server, 'close');
    }),
  );

  it(
    'listens at its port when the answer comes then and the dispatcher has left that port',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const { dispatcher } = stage;
      await listening(stage, createServer());
      // The socket of the dispatcher, which closes it when the worker gives the listener back.
      await using other = await listen({ host: '127.0.0.1', port: 0 });
      const { address } = other;
      assert.ok('port' in address);
      dispatcher.onUnlisten = () => other.close();
      const server = createServer((socket) => socket.end('here')).listen(address.port, '127.0.0.1');
      const { request } = await dispatcher.hears('listen');
      await dispatcher.say({ type: 'drain' });
      await dispatcher.say({ type: 'listening', request, listeners: [{ id: LISTENER + 1, address }] });
      await once(server, 'listening');
      assert.equal(await text(connect(address.port, '127.0.0.1')), 'here');
      server.close();
      await once(server, 'close');
    }),
  );

  it(
    'seems to listen when the answer comes then and other workers have the address, and gets no connections',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const { dispatcher, acceptor } = stage;
      await listening(stage, createServer());
      dispatcher.openElsewhere.push(LISTENER + 1);
      const { address } = acceptor;
      assert.ok('port' in address);
      const server = createServer().listen(address.port, '127.0.0.1');
      const { request } = await dispatcher.hears('listen');
      await dispatcher.say({ type: 'drain' });
      await dispatcher.say({ type: 'listening', request, listeners: [{ id: LISTENER + 1, address }] });
      await once(server, 'listening');
      assert.deepEqual(server.address(), { address: '127.0.0.1', port: address.port, family: 'IPv4' });
      assert.ok(dispatcher.unlistened.includes(LISTENER + 1));
      await turns();
      assert.equal(server.listening, true);
      server.close();
      await once(server, 'close');
    }),
  );

  it(
    'does not listen when the server is closed before such an answer',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      const { dispatcher } = stage;
      const first = createServer();
      await listening(stage, first);
      const server = createServer().listen(0, '127.0.0.1');
      const { request } = await dispatcher.hears('listen');
      await dispatcher.say({ type: 'drain' });
      server.close();
      const address = { host: '127.0.0.1', port: 1 };
      await dispatcher.say({ type: 'listening', request, listeners: [{ id: LISTENER + 1, address }] });
      await dispatcher.hears('unlisten');
      await turns();
      assert.equal(server.listening, false);
    }),
  );

  it(
    'during a drain listens, and the drain closes the server at once',
    onStage(async (stage) => {
      using intercepted = intercepting(stage.worker);
      assert.ok(intercepted);
      await stage.worker.drain();
      const events: string[] = [];
      const server = createServer();
      for (const event of ['listening', 'close']) server.on(event, () => events.push(event));
      server.listen(8000, '127.0.0.1');
      await stage.dispatcher.grant(stage.acceptor);
      await stage.dispatcher.hears('unlisten');
      await turns();
      assert.deepEqual(events, ['listening', 'close']);
    }),
  );

  it(
    'has the name that it has in Node',
    onStage(async ({ worker }) => {
      const nameBefore = Server.prototype.listen.name;
      using intercepted = intercepting(worker);
      assert.ok(intercepted);
      assert.equal(Server.prototype.listen.name, nameBefore);
      await Promise.resolve();
    }),
  );
});
