// Joining a dispatcher: the welcome, its failures, and the return to the next dispatcher.
import { once } from 'node:events';
import { connect, createServer, type Server } from 'node:net';
import assert from 'node:assert/strict';
import { join as joinPath } from 'node:path';
import { describe, it } from 'node:test';
import { inspect } from 'node:util';

import { listen, socketPair, type Acceptor } from '../../../src/fd/index.js';
import { encodeJson } from '../../../src/handoff/index.js';
import { Listener } from '../../../src/multiprocessing/index.js';
import { join, type JoinOptions } from '../../../src/worker/index.js';
import { Link } from '../../../src/worker/link.js';
import { Worker } from '../../../src/worker/worker.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { LISTENER, onStage, PlayedDispatcher } from './played-dispatcher.js';

describe('joining', () => {
  it(
    'gives the worker its id, and removes the variable with its channel',
    onStage(async ({ worker }) => {
      assert.equal(worker.id, 3);
      assert.equal(worker.serves, true);
      assert.equal(process.env['PASSFD_CHANNEL_FD'], undefined);
      await Promise.resolve();
    }),
  );

  it(
    'fails with the reason in the farewell of the dispatcher',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      process.env['PASSFD_CHANNEL_FD'] = String(there.release().release());
      const joining = join();
      await here.send(encodeJson({ type: 'farewell', code: 'ERR_HELLO', reason: 'another version' }));
      here.destroy();
      await assert.rejects(joining, failsWith('ERR_DISPATCHER', /another version/));
    }),
  );

  it(
    'fails when the dispatcher ends the channel without a farewell',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      process.env['PASSFD_CHANNEL_FD'] = String(there.release().release());
      const joining = join();
      here.destroy();
      await assert.rejects(joining, failsWith('ERR_PEER_GONE'));
    }),
  );

  it(
    'fails when the dispatcher does not answer in time',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      process.env['PASSFD_CHANNEL_FD'] = String(there.release().release());
      await assert.rejects(join({ handshakeTimeoutMs: 20 }), failsWith('ERR_HANDSHAKE_TIMEOUT'));
      here.destroy();
    }),
  );

  it('fails at once with an option that is out of range', async () => {
    const wrong: readonly JoinOptions[] = [
      { window: 0 },
      { capacity: -1 },
      { capacity: 1.5 },
      { capacity: '3' as unknown as number },
      { orphanTimeoutMs: Number.NaN },
      { orphanTimeoutMs: -1 },
      { handshakeTimeoutMs: Number.NaN },
    ];
    for (const options of wrong) {
      await assert.rejects(join({ control: '/nowhere', ...options }), TypeError, inspect(options));
    }
  });
});

interface Orphaned {
  readonly worker: Worker;
  readonly server: Server;
  readonly acceptor: Acceptor;
  /** The next dispatcher, which the worker has connected to. */
  readonly next: () => Promise<PlayedDispatcher>;
}

/** A test of a worker with a server, whose dispatcher has died. */
function onOrphan(body: (orphaned: Orphaned) => Promise<void>): () => Promise<void> {
  return keepsDescriptors(async () => {
    await using directory = await temporaryDirectory();
    const control = joinPath(directory.path, 'control');
    const listener = await Listener(control);
    const acceptor = await listen({ host: '127.0.0.1', port: 0 });
    const server = createServer((socket) => socket.end());
    const joining = join({ control });
    const first = new PlayedDispatcher((await listener.accept()).socket);
    const [worker] = await Promise.all([joining, first.welcome()]);
    await Promise.all([worker.serve(server), first.grant(acceptor)]);
    await first.hears('ready');
    const gone = once(worker, 'disconnected');
    first.socket.destroy();
    await gone;
    const dispatchers: PlayedDispatcher[] = [];
    try {
      await body({
        worker,
        server,
        acceptor,
        next: async () => {
          const dispatcher = new PlayedDispatcher((await listener.accept()).socket);
          dispatchers.push(dispatcher);
          return dispatcher;
        },
      });
    } finally {
      server.close();
      await worker.close();
      for (const { socket } of dispatchers) socket.destroy();
      await acceptor.close();
      await listener.close();
    }
  });
}

describe('a worker whose dispatcher died', () => {
  it(
    'joins the next dispatcher at the same path, and asks for its connections again from position 1',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const control = joinPath(directory.path, 'control');
      const listener = await Listener(control);
      const acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const server = createServer((socket) => socket.end());
      const joining = join({ control });
      const first = new PlayedDispatcher((await listener.accept()).socket);
      const [worker] = await Promise.all([joining, first.welcome()]);
      await Promise.all([worker.serve(server), first.grant(acceptor)]);
      const gone = once(worker, 'disconnected');
      const back = once(worker, 'reconnected');
      first.socket.destroy();
      await gone;
      assert.ok(server.listening);

      const second = new PlayedDispatcher((await listener.accept()).socket);
      await second.welcome();
      await second.grant(acceptor);
      await Promise.all([back, second.hears('ready')]);
      const client = connect('port' in acceptor.address ? acceptor.address.port : 0, '127.0.0.1');
      using connection = await acceptor.accept();
      await second.handOff([connection], LISTENER);
      assert.equal((await second.hears('adopted')).position, 1);
      connection.close();
      client.resume();
      await once(client, 'close');

      server.close();
      await worker.close();
      second.socket.destroy();
      await acceptor.close();
      await listener.close();
    }),
  );

  it(
    'reports a drain to the next dispatcher when it began before the welcome',
    onOrphan(async ({ worker, next }) => {
      const dispatcher = await next();
      const back = once(worker, 'reconnected');
      await worker.drain();
      await Promise.all([back, dispatcher.welcome()]);
      await dispatcher.hears('draining');
      await worker.close();
      await dispatcher.ended;
      assert.deepEqual(dispatcher.heard, []);
    }),
  );

  it(
    'joins the next dispatcher once when one died before it had answered every request',
    onOrphan(async ({ acceptor, worker, next }) => {
      const second = await next();
      await second.welcome();
      await second.hears('serve');
      second.socket.destroy();
      const third = await next();
      const back = once(worker, 'reconnected');
      await Promise.all([back, third.welcome(), third.grant(acceptor)]);
      const fourth = next();
      assert.ok(await isPending(fourth));
      await worker.close();
      await third.ended;
    }),
  );

  it(
    'takes nothing for a server that was closed while it asked the next dispatcher',
    onOrphan(async ({ acceptor, server, next }) => {
      const dispatcher = await next();
      await dispatcher.welcome();
      const { request } = await dispatcher.hears('serve');
      server.close();
      const listeners = [{ id: LISTENER, address: acceptor.address }];
      await dispatcher.say({ type: 'listening', request, listeners });
      await dispatcher.hears('ready');
      assert.ok(dispatcher.unlistened.includes(LISTENER));
    }),
  );

  it(
    'lets a new server wait for the next dispatcher',
    onOrphan(async ({ acceptor, server, worker, next }) => {
      server.close();
      const late = createServer();
      const serving = worker.serve(late);
      const dispatcher = await next();
      await Promise.all([dispatcher.welcome(), dispatcher.grant(acceptor), serving]);
      assert.ok(late.listening);
      late.close();
    }),
  );

  it(
    'warns once why the next dispatcher does not take it back, and tries again',
    onOrphan(async ({ acceptor, worker, next }) => {
      const warned = once(process, 'warning') as Promise<[Error]>;
      let warnings = 0;
      const count = (): void => {
        warnings++;
      };
      process.on('warning', count);
      const refuse = async (): Promise<void> => {
        const dispatcher = await next();
        await dispatcher.welcome();
        const { request } = await dispatcher.hears('serve');
        const reason = 'no such address';
        await dispatcher.say({ type: 'listen-failed', request, code: 'EADDRINUSE', reason });
      };
      await refuse();
      assert.match((await warned)[0].message, /no such address/);
      await refuse();
      const third = await next();
      const back = once(worker, 'reconnected');
      await Promise.all([back, third.welcome(), third.grant(acceptor)]);
      process.off('warning', count);
      assert.equal(warnings, 1);
    }),
  );

  it(
    'asks the next dispatcher again for what this one did not answer',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const control = joinPath(directory.path, 'control');
      const listener = await Listener(control);
      const acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const joining = join({ control });
      const first = new PlayedDispatcher((await listener.accept()).socket);
      const [worker] = await Promise.all([joining, first.welcome()]);
      const server = createServer();
      const serving = worker.serve(server);
      await first.hears('serve');
      first.socket.destroy();
      const second = new PlayedDispatcher((await listener.accept()).socket);
      await Promise.all([serving, second.welcome(), second.grant(acceptor)]);
      assert.ok(server.listening);

      server.close();
      await worker.close();
      second.socket.destroy();
      await acceptor.close();
      await listener.close();
    }),
  );

  it('drains when an unexpected error keeps it from the next dispatcher', async () => {
    const [here, there] = socketPair();
    const dispatcher = new PlayedDispatcher(here);
    const mistake = new TypeError('not expected');
    let opened = 0;
    const worker = new Worker(
      (events) => {
        if (opened++ > 0) return Promise.reject(mistake);
        return Link.open(there, { window: 1, capacity: null, handshakeTimeoutMs: 10_000 }, events);
      },
      {
        reconnect: { timeoutMs: 60_000, untilChanged: () => Promise.resolve(), close: () => undefined },
        capacity: null,
      },
    );
    await Promise.all([worker.connect(), dispatcher.welcome()]);
    const abandoned = once(worker, 'abandoned');
    const failed = new Promise((resolve) => worker.once('error', resolve));
    here.destroy();
    // Nothing else keeps this process alive.
    await turns();
    await abandoned;
    assert.equal(await failed, mistake);
  });
});
