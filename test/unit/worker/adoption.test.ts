// Adoption: which connections a worker adopts, which it refuses, and in which order it answers.
import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, Socket, type Server } from 'node:net';
import { describe, it } from 'node:test';
import { MessageChannel, type MessagePort, type Transferable } from 'node:worker_threads';
import { StreamSocket, type Descriptor } from '../../../src/fd/index.js';
import type { Step } from '../../../src/handoff/index.js';
import { turns } from '../../support/loop.js';
import { LISTENER, onStage, type Stage } from './played-dispatcher.js';
/** A server that gets the connections. */
async function serving<T extends Server>({ worker, dispatcher, acceptor }: Stage, server: T): Promise<T> {
  await Promise.all([worker.serve(server), dispatcher.grant(acceptor)]);
  return server;
}
/** A server that echoes. */
function echo(): Server {
  return createServer((socket) => socket.pipe(socket).on('error', () => undefined));
}
function isNonblocking(fd: number): boolean {
  const [, flags = ''] = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')) ?? [];
  return (Number.parseInt(flags, 8) & 0o4000) !== 0;
}
/** Moves a socket to the thread that reads from the port. Only later versions of the types have this. */
function transfer(socket: Socket, port: MessagePort): void {
  port.postMessage(socket, [socket as unknown as Transferable]);
}

/** Node can do it since 24.20 and 26.6. For a socket that is not connected, it then throws a different error. */
function transfersSockets(): boolean {
  const { port1 } = new MessageChannel();
  try {
    transfer(new Socket(), port1);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ERR_WORKER_HANDLE_NOT_TRANSFERABLE';
  } finally {
    port1.close();
  }
}

/** Calls `look` at each step of the worker. */
function atSteps(look: (step: Step) => void): Disposable {
  const listener = (step: unknown): void => {
    look(step as Step);
  };
  subscribe('passfd:step', listener);
  return {
    [Symbol.dispose]: () => {
      unsubscribe('passfd:step', listener);
    },
  };
}
describe('a connection that is handed off', () => {
  it(
    'is not read until the kernel has the ADOPTED message',
    onStage(async (stage) => {
      await serving(stage, echo());
      await stage.dispatcher.hears('ready');
      const { client, connection } = await stage.client();
      client.write('hello');
      using copy = new StreamSocket(connection.duplicate());
      await copy.untilReadable();
      connection.setNonblocking(false);
      const seen: unknown[] = [];
      using watching = atSteps((step) => {
        if (step !== 'received' && step !== 'adopted') return;
        const isAnswered = stage.dispatcher.socket.peek(1) !== null;
        seen.push([step, isAnswered, copy.peek()?.toString(), isNonblocking(connection.fd)]);
      });
      await stage.dispatcher.handOff([connection]);
      const [answer] = (await once(client, 'data')) as [Buffer];
      watching[Symbol.dispose]();
      assert.equal(answer.toString(), 'hello');
      assert.deepEqual(seen, [
        ['received', false, 'hello', false],
        ['adopted', true, 'hello', false],
      ]);
    }),
  );
  it(
    'has a position that counts over all batches',
    onStage(async (stage) => {
      await serving(stage, echo());
      const { dispatcher } = stage;
      const connections: Descriptor[] = [];
      for (let count = 0; count < 5; count++) connections.push((await stage.client()).connection);
      await dispatcher.handOff(connections.slice(0, 2));
      assert.equal((await dispatcher.hears('adopted')).position, 2);
      await dispatcher.handOff(connections.slice(2));
      assert.equal((await dispatcher.hears('adopted')).position, 5);
    }),
  );
  it(
    'is adopted by one message with everything else that has come',
    onStage(async (stage) => {
      await serving(stage, echo());
      const { dispatcher } = stage;
      const connections: Descriptor[] = [];
      for (let count = 0; count < 3; count++) connections.push((await stage.client()).connection);
      await Promise.all(connections.map((connection) => dispatcher.handOff([connection])));
      assert.equal((await dispatcher.hears('adopted')).position, 3);
    }),
  );
  it(
    'counts as open as soon as it has come: a drain that follows waits for its end',
    onStage(async (stage) => {
      const order: string[] = [];
      stage.worker.on('drained', () => order.push('drained'));
      await serving(
        stage,
        createServer((socket) => {
          order.push('served');
          socket.on('close', () => order.push('closed'));
          socket.resume().on('end', () => socket.end());
        }),
      );
      const { client, connection } = await stage.client();
      await Promise.all([stage.dispatcher.handOff([connection]), stage.dispatcher.say({ type: 'drain' })]);
      await stage.dispatcher.hears('adopted');
      await turns();
      assert.deepEqual(order, ['served']);
      const drained = once(stage.worker, 'drained');
      client.end();
      await drained;
      await turns();
      assert.deepEqual(order.toSorted(), ['closed', 'drained', 'served']);
    }),
  );
  it(
    'is reported in a total when it is closed',
    onStage(async (stage) => {
      await serving(stage, echo());
      const { dispatcher } = stage;
      for (const total of [1, 2]) {
        const { client, connection } = await stage.client();
        await dispatcher.handOff([connection]);
        await dispatcher.hears('adopted');
        client.end();
        assert.equal((await dispatcher.hears('closed')).total, total);
      }
    }),
  );
  it(
    'is reported as closed when the app resets it',
    onStage(async (stage) => {
      await serving(
        stage,
        createServer((socket) => socket.resetAndDestroy()),
      );
      const { connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      await stage.dispatcher.hears('adopted');
      assert.deepEqual(await stage.dispatcher.hears('closed'), { type: 'closed', total: 1 });
      await turns();
      assert.deepEqual(stage.dispatcher.heard, []);
    }),
  );

  it(
    'is reported as closed when the app transfers it to another thread, where it stays open',
    { skip: transfersSockets() ? false : `Node ${process.version} cannot transfer a socket` },
    onStage(async (stage) => {
      const { port1, port2 } = new MessageChannel();
      port2.on('message', (socket: Socket) => socket.pipe(socket));
      await serving(
        stage,
        createServer((socket) => {
          transfer(socket, port1);
        }),
      );
      const { client, connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      await stage.dispatcher.hears('adopted');
      assert.deepEqual(await stage.dispatcher.hears('closed'), { type: 'closed', total: 1 });
      client.write('hello');
      const [answer] = (await once(client, 'data')) as [Buffer];
      assert.equal(answer.toString(), 'hello');
      client.end();
      await once(client, 'close');
      port1.close();
    }),
  );
});
describe('a connection that cannot be taken', () => {
  it(
    'is refused with the reason "not-listening" for an unknown listener',
    onStage(async (stage) => {
      await serving(stage, echo());
      const { connection } = await stage.client();
      await stage.dispatcher.handOff([connection], LISTENER + 1);
      const { position, reason } = await stage.dispatcher.hears('refused');
      assert.deepEqual([position, reason], [1, 'not-listening']);
    }),
  );
  it(
    'is refused with the reason "not-listening" when the server is closed',
    onStage(async (stage) => {
      const server = await serving(stage, echo());
      const { connection } = await stage.client();
      server.close();
      assert.deepEqual((await stage.dispatcher.hears('unlisten')).listeners, [LISTENER]);
      await stage.dispatcher.handOff([connection]);
      assert.equal((await stage.dispatcher.hears('refused')).reason, 'not-listening');
    }),
  );
  it(
    'is refused with the reason "draining" when the worker has begun to drain by itself',
    onStage(async (stage) => {
      await serving(stage, echo());
      const { connection } = await stage.client();
      await stage.worker.drain();
      await stage.dispatcher.hears('draining');
      await stage.dispatcher.handOff([connection]);
      assert.equal((await stage.dispatcher.hears('refused')).reason, 'draining');
    }),
  );
  it(
    'is refused with the reason "capacity" beyond maxConnections, and those before it are adopted',
    onStage(async (stage) => {
      const server = await serving(stage, echo());
      server.maxConnections = 2;
      const connections: Descriptor[] = [];
      for (let count = 0; count < 3; count++) connections.push((await stage.client()).connection);
      await stage.dispatcher.handOff(connections);
      assert.equal((await stage.dispatcher.hears('adopted')).position, 2);
      const { position, reason } = await stage.dispatcher.hears('refused');
      assert.deepEqual([position, reason], [3, 'capacity']);
    }),
  );
  it(
    'is closed here: its client sees the end when the dispatcher closes its copy',
    onStage(async (stage) => {
      const server = await serving(stage, echo());
      server.close();
      await stage.dispatcher.hears('unlisten');
      const { client, connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      await stage.dispatcher.hears('refused');
      connection.close();
      client.resume();
      await once(client, 'end');
    }),
  );
  it(
    'is taken with maxConnections 0 where Node takes that as no limit (before Node 21)',
    {
      skip: Number(process.versions.node.split('.')[0]) >= 21,
    },
    onStage(async (stage) => {
      const server = await serving(stage, echo());
      server.maxConnections = 0;
      const { connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      await turns();
      assert.deepEqual(
        stage.dispatcher.heard
          .filter(({ type }) => type === 'adopted' || type === 'refused')
          .map(({ type }) => type),
        ['adopted'],
      );
    }),
  );
});
describe('the end of the channel', () => {
  it(
    'leaves adopted connections open',
    onStage(async (stage) => {
      await serving(stage, echo());
      const { client, connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      await stage.dispatcher.hears('adopted');
      connection.close();
      stage.dispatcher.socket.destroy();
      await once(stage.worker, 'disconnected');
      client.write('still here');
      const [answer] = (await once(client, 'data')) as [Buffer];
      assert.equal(answer.toString(), 'still here');
    }),
  );
  it(
    'without a farewell leaves unanswered connections to the worker: no other process has them',
    onStage(async (stage) => {
      await serving(stage, echo());
      const { client, connection } = await stage.client();
      await stage.dispatcher.handOff([connection]);
      connection.close();
      stage.dispatcher.socket.destroy();
      client.write('anybody?');
      const [answer] = (await once(client, 'data')) as [Buffer];
      assert.equal(answer.toString(), 'anybody?');
    }),
  );
  it(
    'after a farewell leaves them to the dispatcher, which lives',
    onStage(async (stage) => {
      let accepted = 0;
      await serving(
        stage,
        createServer((socket) => {
          accepted++;
          socket.destroy();
        }),
      );
      const { client, connection } = await stage.client();
      using copy = new StreamSocket(connection.duplicate());
      await stage.dispatcher.handOff([connection]);
      await stage.dispatcher.say({ type: 'farewell', code: 'ERR_PROTOCOL', reason: 'for the test' });
      const gone = once(stage.worker, 'disconnected');
      stage.dispatcher.socket.destroy();
      await gone;
      await turns();
      assert.equal(accepted, 0);
      client.write('x');
      await copy.untilReadable();
      assert.equal(copy.peek()?.toString(), 'x');
    }),
  );
});
