// The worker in docs/protocol.md, which was written from that page alone: what it does proves that the page is right.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { Agent, get, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { Dispatcher } from '../../src/dispatcher/index.js';
import {
  closeAll,
  connect,
  listen,
  StreamSocket,
  type Acceptor,
  type Descriptor,
} from '../../src/fd/index.js';
import {
  Channel,
  decodeFromWorker,
  decodeIntroduction,
  encodeHandoff,
  encodeHandoffAgain,
  encodeJson,
  type Listening,
} from '../../src/handoff/index.js';
import { Connection } from '../../src/multiprocessing/index.js';
import { temporaryDirectory } from '../support/files.js';
import { isPending } from '../support/loop.js';
import { describeWithOnePython } from '../support/peers.js';
import { untilStopped } from '../support/processes.js';
import { withPrograms, type Program } from '../support/program.js';

const page = fileURLToPath(new URL('../../../docs/protocol.md', import.meta.url));

const CLIENTS = 50;

/** Fewer than a batch of all clients needs, and enough for Python itself. */
const FEW_DESCRIPTORS = 14;

/** Writes the worker of the page into a directory. @returns its path */
function extractWorker(directory: string): string {
  const [, code] = /^```python\n(# passfd_worker\.py\n.*?)^```$/ms.exec(readFileSync(page, 'utf8')) ?? [];
  assert.ok(code, 'the page has a worker');
  const path = `${directory}/passfd_worker.py`;
  writeFileSync(path, code);
  return path;
}

interface Asked {
  /** All of them are in the backlog at least. */
  readonly connected: Promise<unknown>;
  readonly answers: Promise<string[]>;
}

/** Each over a connection of its own. */
function askAtOnce(port: number, count: number): Asked {
  const requests = Array.from({ length: count }, () => get({ port, host: '127.0.0.1', agent: new Agent() }));
  const connected = requests.map(async (request) => {
    const [socket] = (await once(request, 'socket')) as [Socket];
    if (socket.connecting) await once(socket, 'connect');
  });
  const answers = requests.map(async (request) => {
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    return text(response);
  });
  return { connected: Promise.all(connected), answers: Promise.all(answers) };
}

function greetings({ pid }: Program, count: number): string[] {
  return Array<string>(count).fill(`hello from ${pid}\n`);
}

async function listenAt(dispatcher: Dispatcher, control: string): Promise<number> {
  const address = await dispatcher.listen({ host: '127.0.0.1', port: 0 });
  await dispatcher.openControl(control);
  assert.ok('port' in address);
  return address.port;
}

interface Welcomed {
  readonly channel: Channel;
  /** Types of what the worker has said. */
  readonly heard: readonly string[];
}

/** Lets the worker in as a dispatcher does, and waits until it is ready. */
async function welcome(joining: Acceptor, listener: Listening): Promise<Welcomed> {
  const socket = new StreamSocket(await joining.accept());
  const introduction = decodeIntroduction(await new Connection(socket).recvBytes());
  assert.ok(introduction.dialect === 'passfd' && introduction.hello.role === 'worker');
  assert.equal(introduction.hello.again, true);
  const channel = new Channel(socket);
  await channel.post(encodeJson({ type: 'welcome', passfd: 1, id: 1, pid: process.pid, serves: true }));
  await channel.post(encodeJson({ type: 'listening', request: 1, listeners: [listener] }));
  const heard: string[] = [];
  await new Promise<void>((resolve) => {
    const isOver = channel.read((payload) => {
      heard.push(decodeFromWorker(payload).type);
      if (heard.at(-1) === 'ready') resolve();
      return undefined;
    });
    isOver.catch(() => undefined); // it is closed here
  });
  return { channel, heard };
}

describeWithOnePython('the worker in docs/protocol.md', (python) => {
  it(
    `answers ${CLIENTS} clients at once, and ends when it is drained`,
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      await using dispatcher = new Dispatcher();
      const control = `${directory.path}/control`;
      const port = await listenAt(dispatcher, control);
      const worker = start(python.path, ['-B', extractWorker(directory.path), control]);
      assert.deepEqual(await askAtOnce(port, CLIENTS).answers, greetings(worker, CLIENTS));
      const [view] = dispatcher.workers;
      assert.ok(view);
      await dispatcher.drainWorker(view.id);
      assert.equal(view.active, 0);
      assert.equal(await worker.stderr, '');
      assert.equal(await worker.exit, 0);
      const { accepted, adopted, redelivered } = dispatcher.status().connections;
      assert.deepEqual(
        { accepted, adopted, redelivered },
        { accepted: CLIENTS, adopted: CLIENTS, redelivered: 0 },
      );
    }),
  );

  it(
    'answers those that were on their way to it when the dispatcher ended',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      await using dispatcher = new Dispatcher();
      const control = `${directory.path}/control`;
      const port = await listenAt(dispatcher, control);
      const worker = start(python.path, ['-B', extractWorker(directory.path), control]);
      await once(dispatcher, 'ready');
      worker.signal('SIGSTOP');
      const { answers } = askAtOnce(port, CLIENTS);
      while (dispatcher.status().connections.inFlight < CLIENTS) await nextTurn();
      await dispatcher.close();
      worker.signal('SIGCONT');
      assert.deepEqual(await answers, greetings(worker, CLIENTS));
      assert.equal(await worker.stderr, '');
      assert.equal(await worker.exit, 0);
    }),
  );

  it(
    'answers each once that it gets from the last will of a dispatcher, also what had come before',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const joining = await listen(control);
      const acceptor = await listen({ host: '127.0.0.1', port: 0 });
      assert.ok('port' in acceptor.address);
      const worker = start(python.path, ['-B', extractWorker(directory.path), control]);
      const id = 7;
      const { channel } = await welcome(joining, { id, address: acceptor.address });

      const { answers } = askAtOnce(acceptor.address.port, 6);
      const connections: Descriptor[] = [];
      while (connections.length < 6) connections.push(await acceptor.accept());
      await channel.post(encodeHandoff(id, 2), connections.slice(0, 2));
      await channel.post(encodeJson({ type: 'orphaned' }));
      await channel.post(encodeHandoffAgain(1, id, 2), connections.slice(0, 2));
      await channel.post(encodeHandoffAgain(3, id, 2), connections.slice(2, 4));
      await channel.post(encodeHandoff(id, 2), connections.slice(4));
      closeAll(connections);
      channel.socket.destroy();
      assert.deepEqual(await answers, greetings(worker, 6));
      assert.equal(await worker.stderr, '');
      assert.equal(await worker.exit, 0);
      await joining.close();
      await acceptor.close();
    }),
  );

  for (const [name, before] of [
    ['a farewell', []],
    ['a farewell behind a drain', [encodeJson({ type: 'drain' })]],
  ] as const) {
    it(
      `does nothing to what it could not adopt before ${name}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        await using joining = await listen(control);
        await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
        const worker = start(python.path, ['-B', extractWorker(directory.path), control]);
        const { channel } = await welcome(joining, { id: 0, address: acceptor.address });
        using client = await connect(acceptor.address);
        using connection = await acceptor.accept();
        await client.send(Buffer.from('GET / HTTP/1.0\r\n\r\n'));
        worker.signal('SIGSTOP');
        await untilStopped(worker.pid);
        await channel.post(encodeHandoff(0, 1), [connection]);
        for (const frame of before) await channel.post(frame);
        await channel.post(encodeJson({ type: 'farewell', code: 'ERR_PROTOCOL', reason: 'farewell' }));
        channel.socket.destroy();
        worker.signal('SIGCONT');
        assert.equal(await worker.exit, 1);
        assert.equal(await worker.stderr, 'farewell\n');
        assert.equal(await isPending(client.receive()), true);
      }),
    );
  }

  it(
    'takes nothing from a dispatcher that announces more connections than it passes',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      await using joining = await listen(control);
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const worker = start(python.path, ['-B', extractWorker(directory.path), control]);
      const { channel, heard } = await welcome(joining, { id: 0, address: acceptor.address });
      using client = await connect(acceptor.address);
      using connection = await acceptor.accept();
      await channel.post(encodeHandoff(0, 2), [connection]);
      assert.equal(await worker.exit, 1);
      assert.equal(await worker.stderr, 'the dispatcher broke the protocol\n');
      assert.equal(heard.includes('adopted'), false);
      assert.equal(await isPending(client.receive()), true);
      channel.socket.destroy();
    }),
  );

  it(
    'refuses what it has no descriptors for, and another one answers',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      await using dispatcher = new Dispatcher();
      const control = `${directory.path}/control`;
      const port = await listenAt(dispatcher, control);
      const path = extractWorker(directory.path);
      const { connected, answers } = askAtOnce(port, CLIENTS);
      await connected;
      const limited = `ulimit -n ${FEW_DESCRIPTORS}; exec "$0" -B "$@"`;
      const poor = start('sh', ['-c', limited, python.path, path, control]);
      await once(dispatcher, 'starved');
      const rich = start(python.path, ['-B', path, control]);
      // The poor one may get a few that it can take, when they come one by one.
      const known = new Set([...greetings(poor, 1), ...greetings(rich, 1)]);
      const heard = await answers;
      assert.deepEqual(
        heard.filter((answer) => !known.has(answer)),
        [],
      );
      // Where Python starts slowly, the poor one has answered all of them by then.
      while (!heard.includes(`hello from ${rich.pid}\n`)) heard.push(...(await askAtOnce(port, 2).answers));
      await dispatcher.close();
      assert.equal((await poor.stderr) + (await rich.stderr), '');
      assert.deepEqual([await poor.exit, await rich.exit], [0, 0]);
    }),
  );
});
