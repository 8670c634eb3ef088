// A server that a worker serves: it behaves like a server that listens and accepts by itself, also when it closes.
import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';

import { failsWith } from '../../support/errors.js';
import { isPending, turns } from '../../support/loop.js';
import { onStage, type Stage } from './played-dispatcher.js';

async function serving({ worker, dispatcher, acceptor }: Stage, server: Server): Promise<void> {
  await Promise.all([worker.serve(server), dispatcher.grant(acceptor)]);
}

const REQUEST = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n';

/** What the client reads until the other end closes. */
async function untilEnd(client: Socket): Promise<string> {
  let heard = '';
  for await (const chunk of client) heard += String(chunk);
  return heard;
}

describe('a server that is served', () => {
  it(
    'has the address of the dispatcher, and reports ready when it listens',
    onStage(async (stage) => {
      const server = createServer();
      await serving(stage, server);
      await stage.dispatcher.hears('ready');
      const { address, port } = server.address() as AddressInfo;
      assert.deepEqual({ host: address, port }, stage.acceptor.address);
      assert.ok(server.listening);
    }),
  );

  it(
    'sees a connection as if it had accepted it: its addresses, its server, its count',
    onStage(async (stage) => {
      const server = createServer();
      await serving(stage, server);
      const { client, connection } = await stage.client();
      const came = once(server, 'connection');
      await stage.dispatcher.handOff([connection]);
      const [socket] = (await came) as [Socket & { server: Server }];
      assert.deepEqual([socket.remotePort, socket.localPort], [client.localPort, client.remotePort]);
      assert.equal(socket.server, server);
      const { _handle: handle } = socket as unknown as { _handle: object };
      assert.equal(handle.constructor.name, 'TCP');
      assert.equal(await promisify(server.getConnections.bind(server))(), 1);
      socket.destroy();
      await once(socket, 'close');
      assert.equal(await promisify(server.getConnections.bind(server))(), 0);
    }),
  );

  it(
    'emits close only when its last connection is closed',
    onStage(async (stage) => {
      const server = createServer();
      await serving(stage, server);
      const { client, connection } = await stage.client();
      const came = once(server, 'connection');
      await stage.dispatcher.handOff([connection]);
      const [socket] = (await came) as [Socket];
      socket.resume();
      const closed = once(server, 'close');
      server.close();
      assert.ok(await isPending(closed));
      client.end();
      await closed;
    }),
  );

  it(
    'stays closed when it was closed before the answer came',
    onStage(async (stage) => {
      const server = createServer();
      const served = stage.worker.serve(server).catch(() => undefined);
      const { request } = await stage.dispatcher.hears('serve');
      server.close();
      const { address } = stage.acceptor;
      await stage.dispatcher.say({ type: 'listening', request, listeners: [{ id: 1, address }] });
      await turns();
      const isListening = server.listening;
      if (isListening) server.close();
      await Promise.race([served, turns()]);
      assert.equal(isListening, false);
    }),
  );

  it(
    'gets connections that follow the answer at once',
    onStage(async (stage) => {
      const server = createServer((socket) => socket.end('hello'));
      const served = stage.worker.serve(server);
      const { request } = await stage.dispatcher.hears('serve');
      const { connection } = await stage.client();
      const { address } = stage.acceptor;
      const answered = stage.dispatcher.say({ type: 'listening', request, listeners: [{ id: 7, address }] });
      await Promise.all([answered, stage.dispatcher.handOff([connection]), served]);
      await turns();
      const answers = stage.dispatcher.heard.map(({ type }) => type);
      assert.ok(answers.includes('adopted') && !answers.includes('refused'), answers.join());
    }),
  );
});

describe('a server that is closed', () => {
  it(
    'emits close for it also when it listens again in the same tick',
    onStage(async (stage) => {
      const server = createServer();
      await serving(stage, server);
      const closed = new Promise((resolve) => server.close(resolve));
      await serving(stage, server);
      assert.ok(server.listening);
      assert.ok(!(await isPending(closed)), 'the close is lost');
      server.close();
    }),
  );

  it(
    'waits for its connections to emit close when it listens again meanwhile, as in Node: until it is closed again',
    onStage(async (stage) => {
      const server = createServer((socket) => socket.resume());
      await serving(stage, server);
      const { client, connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      await stage.dispatcher.hears('adopted');
      connection.close();
      const closed = new Promise((resolve) => server.close(resolve));
      await serving(stage, server);
      client.end();
      await stage.dispatcher.hears('closed');
      assert.ok(await isPending(closed));
      server.close();
      await closed;
    }),
  );

  it(
    'emits close once for each call, as Node does',
    onStage(async (stage) => {
      const server = createServer();
      await serving(stage, server);
      let closes = 0;
      server.on('close', () => closes++);
      server.close();
      const again = new Promise((resolve) => server.close(resolve));
      assert.equal(((await again) as NodeJS.ErrnoException).code, 'ERR_SERVER_NOT_RUNNING');
      await turns();
      assert.equal(closes, 2);
    }),
  );
});

describe('a connection that was adopted when its server is closed', () => {
  it(
    'is served, and close comes once after it, also when the app destroys it at once',
    onStage(async (stage) => {
      const server = createServer((socket) => socket.destroy());
      await serving(stage, server);
      let closes = 0;
      server.on('close', () => closes++);
      const { connection } = await stage.client();
      const came = once(server, 'connection');
      const closeWhenAdopted = (step: unknown): void => {
        if (step === 'adopted') server.close();
      };
      subscribe('passfd:step', closeWhenAdopted);
      await stage.dispatcher.handOff([connection]);
      await came;
      unsubscribe('passfd:step', closeWhenAdopted);
      await turns();
      assert.equal(closes, 1);
    }),
  );
});

describe('a server that cannot be served', () => {
  it(
    'is a TypeError when it is no server, and nothing else is thrown',
    onStage(async ({ worker }) => {
      for (const none of [{}, undefined]) await assert.rejects(worker.serve(none as Server), TypeError);
    }),
  );

  it(
    'is still served when it emits an error that the app handles',
    onStage(async (stage) => {
      const mistake = new Error('early');
      const handled: Error[] = [];
      const server = createServer().on('error', (error) => handled.push(error));
      const served = serving(stage, server);
      server.emit('error', mistake);
      await served;
      assert.deepEqual(handled, [mistake]);
      server.close();
    }),
  );

  it(
    'has no listener that would hide an error from the app',
    onStage(async (stage) => {
      const server = createServer();
      const served = serving(stage, server);
      const mistake = new Error('early');
      assert.throws(() => server.emit('error', mistake), mistake);
      await served;
      assert.deepEqual(server.eventNames(), []);
      server.close();
    }),
  );

  it(
    'is ERR_ADDRESS_IN_USE when another server has the addresses',
    onStage(async (stage) => {
      const server = createServer();
      await serving(stage, server);
      await assert.rejects(stage.worker.serve(createServer()), failsWith('ERR_ADDRESS_IN_USE'));
      server.close();
    }),
  );

  it(
    'is ERR_CLOSED when the worker drains, and does not listen',
    onStage(async ({ worker }) => {
      await worker.drain();
      const server = createServer();
      const served = worker.serve(server);
      assert.ok(!(await isPending(served)), 'it waits for ever');
      await assert.rejects(served, failsWith('ERR_CLOSED', /drains/));
      assert.equal(server.listening, false);
    }),
  );

  it(
    'is ERR_CLOSED when the worker was closed, also while another server has the addresses',
    onStage(async (stage) => {
      const server = createServer();
      await serving(stage, server);
      await stage.worker.close();
      await assert.rejects(stage.worker.serve(createServer()), failsWith('ERR_CLOSED', /was closed/));
      await assert.rejects(stage.worker.connections().next(), failsWith('ERR_CLOSED', /was closed/));
      server.close();
      await assert.rejects(stage.worker.serve(createServer()), failsWith('ERR_CLOSED', /was closed/));
    }),
  );
});

describe('an app that throws in a listener', () => {
  it(
    'of drain does not keep its servers from closing',
    onStage(async (stage) => {
      const server = createServer();
      await serving(stage, server);
      const mistake = new Error('of the app');
      const thrown: unknown[] = [];
      process.setUncaughtExceptionCaptureCallback((error) => thrown.push(error));
      try {
        stage.worker.on('drain', () => {
          throw mistake;
        });
        const drained = once(stage.worker, 'drained');
        await stage.dispatcher.say({ type: 'drain' });
        await drained;
      } finally {
        process.setUncaughtExceptionCaptureCallback(null);
      }
      assert.deepEqual(thrown, [mistake]);
      assert.equal(server.listening, false);
    }),
  );
});

describe('an http server that drains', () => {
  it(
    'ends idle connections at once, and one in a request after its answer',
    onStage(async (stage) => {
      let finish: () => void = () => undefined;
      const server = createHttpServer((request, response) => {
        if (request.url === '/slow') finish = () => response.end('slow');
        else response.end('fast');
      });
      await serving(stage, server);
      const { client: idle, connection: first } = await stage.client();
      const { client: busy, connection: second } = await stage.client();
      await stage.dispatcher.handOff([first, second]);
      await stage.dispatcher.hears('adopted');
      first.close();
      second.close();
      idle.write(REQUEST);
      await once(idle, 'data');
      const inRequest = once(server, 'request');
      busy.write(REQUEST.replace('/', '/slow'));
      await inRequest;
      await stage.dispatcher.say({ type: 'drain' });
      await once(stage.worker, 'drain');
      await untilEnd(idle);
      finish();
      assert.match(await untilEnd(busy), /slow$/);
    }),
  );

  it(
    'answers a first request that comes after the drain, and then closes',
    onStage(async (stage) => {
      const server = createHttpServer((_request, response) => response.end('hello'));
      await serving(stage, server);
      const { client, connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      await stage.dispatcher.hears('adopted');
      connection.close();
      await stage.dispatcher.say({ type: 'drain' });
      await once(stage.worker, 'drain');
      client.write(REQUEST);
      const answer = await untilEnd(client);
      assert.match(answer, /connection: close/i);
      assert.match(answer, /hello/);
    }),
  );
});

describe('a server that the drain has closed', () => {
  for (const [when, isOver] of [
    ['is over', true],
    ['still has a connection', false],
  ] as const) {
    it(
      `is closed by the app when it ${when}, without an error, and emits close once`,
      onStage(async (stage) => {
        const server = createServer((socket) => socket.resume());
        await serving(stage, server);
        const { client, connection } = await stage.client();
        await stage.dispatcher.handOff([connection]);
        await stage.dispatcher.hears('adopted');
        let closes = 0;
        server.on('close', () => closes++);
        await stage.dispatcher.say({ type: 'drain' });
        await once(stage.worker, 'drain');
        const closed = once(server, 'close');
        if (isOver) {
          client.end();
          await closed;
        }
        const closedByApp = new Promise((resolve) => server.close(resolve));
        assert.equal(await isPending(closedByApp), !isOver);
        client.end();
        assert.equal(await closedByApp, undefined);
        await turns();
        assert.equal(closes, 1);
      }),
    );
  }
});

describe('drain', () => {
  it(
    'resolves when the last adopted connection is closed',
    onStage(async (stage) => {
      await serving(
        stage,
        createServer((socket) => socket.resume()),
      );
      const { client, connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      await stage.dispatcher.hears('adopted');
      const drained = stage.worker.drain();
      assert.ok(await isPending(drained));
      client.end();
      await drained;
    }),
  );
});
