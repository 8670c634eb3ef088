// Recipe workers: each gets one byte with one connection at a time. The kernel reports what the workers do not report.
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { describe, it, mock } from 'node:test';

import { connect, listen, socketPair, type Descriptor, type StreamSocket } from '../../../src/fd/index.js';
import { AcceptedConnection, Listener } from '../../../src/dispatcher/listener.js';
import type { WorkerHandle } from '../../../src/dispatcher/workers/worker-handle.js';
import { native } from '../../../src/fd/native.js';
import { encodeFrame } from '../../../src/handoff/index.js';
import { dumps } from '../../../src/multiprocessing/index.js';
import { backlogOf, onStage, type Stage } from '../../support/dispatcher-stage.js';
import { openFile } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { received, receivedText } from '../../support/stream.js';

async function joinPython(stage: Stage): Promise<StreamSocket> {
  await stage.address();
  const ready = stage.next('ready');
  const worker = stage.own(await connect(stage.control));
  await worker.send(encodeFrame(dumps(process.pid)));
  await ready;
  return worker;
}

async function joinRaw(stage: Stage): Promise<StreamSocket> {
  await stage.address();
  const path = `${stage.directory}/raw`;
  const ready = stage.next('ready');
  const socket = await connect(path).catch(async () => {
    await stage.dispatcher.openRawControl(path);
    return connect(path);
  });
  await ready;
  return stage.own(socket);
}

/** What one receive returns: the byte, and the connection. */
async function take(stage: Stage, worker: StreamSocket): Promise<{ byte: string; connection: Descriptor }> {
  using message = await received(worker.receive(1));
  assert.equal(message.descriptors.length, 1);
  return { byte: message.bytes.toString('latin1'), connection: stage.own(message.takeDescriptor()) };
}

/** After this many sends, a loop without a pause ends. */
const ENDLESS = 10_000;

const { EACCES, ENOBUFS, ENOENT, ENOSYS } = constants.errno;

interface Refusing extends Disposable {
  readonly tries: number;
  allow(): void;
}

/** Has the kernel refuse every hand-off to a recipe worker. */
function refuseHandoffs(): Refusing {
  let tries = 0;
  const sendHandoff = native.sendHandoff.bind(native);
  const { mock: sends } = mock.method(native, 'sendHandoff', (...args: Parameters<typeof sendHandoff>) => {
    const [, { length }] = args;
    return length === 1 && ++tries < ENDLESS ? -EACCES : sendHandoff(...args);
  });
  const allow = (): void => {
    sends.restore();
  };
  return {
    get tries() {
      return tries;
    },
    allow,
    [Symbol.dispose]: allow,
  };
}

/** Has the kernel report no receipts. */
function withoutReceipts(): Disposable {
  const { mock: watching } = mock.method(native, 'watchReceipts', () => -ENOSYS);
  return {
    [Symbol.dispose]: () => {
      watching.restore();
    },
  };
}

interface Asked extends Disposable {
  readonly mostInATurn: number;
}

/** Has the kernel take this long for each question about a connection, and counts the questions. */
function askSlowly(ms: number): Asked {
  let now = performance.now();
  let inThisTurn = 0;
  let mostInATurn = 0;
  const isHeld = native.isHeld.bind(native);
  const { mock: clock } = mock.method(performance, 'now', () => now);
  const { mock: asking } = mock.method(native, 'isHeld', (...args: Parameters<typeof isHeld>) => {
    now += ms;
    if (inThisTurn++ === 0) setImmediate(() => (inThisTurn = 0));
    mostInATurn = Math.max(mostInATurn, inThisTurn);
    return isHeld(...args);
  });
  return {
    get mostInATurn() {
      return mostInATurn;
    },
    [Symbol.dispose]: () => {
      asking.restore();
      clock.restore();
    },
  };
}

function inFlight(stage: Stage): (number | undefined)[] {
  return stage.dispatcher.workers.map((worker) => worker.inFlight);
}

describe('a recipe worker', () => {
  it(
    'gets a byte of 1 with each blocking connection, and the next one when it has received the last',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await joinPython(stage);
      const clients = await stage.clients(3);
      await turns();
      assert.equal(backlogOf(address), 2);
      for (const client of clients) {
        const { byte, connection } = await take(stage, worker);
        assert.equal(byte, '\x01');
        assert.equal(native.isNonblocking(connection.fd), 0);
        assert.deepEqual(connection.remoteAddress, client.localAddress);
        connection.close();
      }
      await stage.until(() => stage.dispatcher.status().connections.adopted === 3);
      for (const client of clients) assert.equal(await receivedText(client), null);
    }),
  );

  it(
    'gets a blocking connection, even if another worker has set O_NONBLOCK',
    onStage({}, async (stage) => {
      const refuser = await stage.joinServing();
      await stage.client();
      const [connection] = await refuser.handoffs(1);
      connection?.setNonblocking(true);
      const worker = await joinPython(stage);
      await refuser.refuse('draining');
      assert.equal(native.isNonblocking((await take(stage, worker)).connection.fd), 0);
    }),
  );

  it(
    'loses its connection to another worker while a send to it fails, and gets the next one later',
    onStage({}, async (stage) => {
      const worker = await joinPython(stage);
      using refusing = refuseHandoffs();
      await stage.client();
      await stage.until(() => refusing.tries > 2);
      const heir = await stage.joinServing();
      await heir.handoffs(1);
      refusing.allow();
      heir.die();
      await take(stage, worker);
      assert.deepEqual(
        stage.warnings.splice(0).map((error) => (error as Error).message.includes('EACCES')),
        [true],
        'it is reported once',
      );
    }),
  );

  it(
    'loses what it had not received at its end to another worker',
    onStage({}, async (stage) => {
      const dying = await joinPython(stage);
      const client = await stage.client();
      await stage.until(() => inFlight(stage)[0] === 1);
      const heir = await stage.joinServing();
      const left = stage.next('left');
      dying.destroy();
      assert.equal((await left)[1].redelivered, 1);
      const [connection] = await heir.handoffs(1);
      assert.deepEqual(connection?.remoteAddress, client.localAddress);
    }),
  );

  it(
    'loses it even if the dispatcher looks at the channel before it reads the end',
    onStage({}, async (stage) => {
      const dying = await joinPython(stage);
      await stage.client();
      await stage.until(() => inFlight(stage)[0] === 1);
      const [handle] = stage.dispatcher.workers as WorkerHandle[];
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const left = stage.next('left');
      // The kernel empties the queue of a dead process.
      dying.destroy();
      handle?.roomFor(new Listener({ id: 0, key: 'own', isOwn: true }, acceptor));
      assert.equal((await left)[1].redelivered, 1);
    }),
  );

  it(
    'loses what was sent to it after its end, before the dispatcher has read the end',
    onStage({}, async (stage) => {
      const ended = await joinPython(stage);
      const [handle] = stage.dispatcher.workers as WorkerHandle[];
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const [near, far] = socketPair();
      using client = far;
      using own = near;
      const left = stage.next('left');
      ended.destroy();
      handle?.give(
        new AcceptedConnection(own.duplicate(), new Listener({ id: 0, key: 'own', isOwn: true }, acceptor)),
      );
      assert.equal((await left)[1].redelivered, 1);
      assert.equal(client.closed, false);
    }),
  );

  it(
    'keeps what it had received when it ended',
    onStage({}, async (stage) => {
      const dying = await joinPython(stage);
      const client = await stage.client();
      const { connection } = await take(stage, dying);
      const left = stage.next('left');
      dying.destroy();
      const [worker, { redelivered }] = await left;
      assert.deepEqual([worker.adopted, redelivered], [1, 0]);
      assert.equal(await isPending(client.receive()), true);
      connection.close();
    }),
  );

  it(
    'gets no connection of an address that another worker asked for',
    onStage({}, async (stage) => {
      await joinPython(stage);
      const other = await stage.join();
      const { address } = await other.listenAt({ host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 });
      await other.ready();
      await stage.clients(3, address);
      await other.handoffs(3);
    }),
  );

  for (const family of ['TCP', 'Unix']) {
    it(
      `gets nothing while it is busy with one and another worker is free: ${family}`,
      onStage({}, async (stage) => {
        const address =
          family === 'TCP'
            ? await stage.address()
            : await stage.dispatcher.listen(`${stage.directory}/clients`);
        const busy = await joinPython(stage);
        const slow = await stage.client(address);
        const { connection } = await take(stage, busy);
        const other = await stage.joinServing();
        await stage.clients(5, address);
        await other.handoffs(5);
        assert.equal(stage.dispatcher.workers[0]?.active, 1);
        connection.close();
        slow.destroy();
        await stage.until(() => stage.dispatcher.workers[0]?.active === 0);
        await stage.clients(2, address);
        // Round robin goes on after the other worker.
        await take(stage, busy);
        await other.handoffs(1);
      }),
    );
  }

  it(
    'gets one more when no other worker is free',
    onStage({}, async (stage) => {
      const worker = await joinPython(stage);
      await stage.client();
      await take(stage, worker);
      await stage.client();
      await take(stage, worker);
      await stage.until(() => stage.dispatcher.workers[0]?.active === 2);
    }),
  );

  it(
    'has all its open connections counted in its load, and in its drain',
    onStage({ policy: 'least-connections' }, async (stage) => {
      const worker = await joinPython(stage);
      const connections: Descriptor[] = [];
      while (connections.length < 20) {
        await stage.client();
        connections.push((await take(stage, worker)).connection);
        await stage.until(() => stage.dispatcher.workers[0]?.adopted === connections.length);
      }
      const other = await stage.joinServing();
      await stage.clients(20);
      await other.handoffs(20);
      for (const connection of connections.splice(0, 10)) connection.close();
      assert.equal(stage.dispatcher.workers[0]?.active, 10);
      await stage.client();
      connections.push((await take(stage, worker)).connection);
      // The drain ends when the last connection is closed.
      const drained = stage.dispatcher.drainWorker(1);
      assert.equal(await receivedText(worker), null);
      assert.equal(await isPending(drained), true);
      for (const connection of connections) connection.close();
      await drained;
    }),
  );

  it(
    'keeps a connection in its count while the kernel gives no answer',
    onStage({}, async (stage) => {
      const worker = await joinPython(stage);
      await stage.client();
      const { connection } = await take(stage, worker);
      const [view] = stage.dispatcher.workers;
      await stage.until(() => view?.adopted === 1);
      const { mock: asking } = mock.method(native, 'isHeld', () => -ENOBUFS);
      assert.equal(view?.active, 1);
      asking.restore();
      assert.equal(view.active, 1);
      connection.close();
      await stage.until(() => view.active === 0);
    }),
  );

  it(
    'costs one millisecond per turn of the event loop at most, together with others, if the kernel answers slowly',
    onStage({ policy: 'least-connections' }, async (stage) => {
      const workers = [await joinPython(stage), await joinPython(stage)];
      const connections: Descriptor[] = [];
      for (let round = 0; round < 3; round++) {
        await stage.clients(2);
        for (const worker of workers) connections.push((await take(stage, worker)).connection);
        await stage.until(() => stage.dispatcher.status().connections.adopted === connections.length);
      }
      const handles = stage.dispatcher.workers as WorkerHandle[];
      const asked = stage.own(askSlowly(0.6));
      for (const connection of connections) connection.close();
      await stage.until(() => handles.map(({ load }) => load).join() === '0,0');
      assert.ok(asked.mostInATurn <= 3, `${asked.mostInATurn} questions`);
    }),
  );

  it(
    'gets its share when all others have 16 connections or more, one connection at a time',
    onStage({ policy: 'least-connections' }, async (stage) => {
      const worker = await joinPython(stage);
      await stage.client();
      await take(stage, worker);
      const other = await stage.joinServing({ window: 4096 });
      await stage.clients(16);
      await other.handoffs(16);
      for (let count = 2; count <= 16; count++) {
        await stage.client();
        await take(stage, worker);
        await stage.until(() => stage.dispatcher.workers[0]?.active === count);
      }
    }),
  );

  it(
    'gets nothing beyond its declared limit, however much others have to do',
    onStage({ policy: 'least-connections', recipeConcurrency: 1 }, async (stage) => {
      const worker = await joinPython(stage);
      await stage.client();
      const { connection } = await take(stage, worker);
      const [view] = stage.dispatcher.workers;
      await stage.until(() => view?.adopted === 1);
      const other = await stage.joinServing({ window: 4096 });
      await stage.clients(20);
      await other.handoffs(20);
      assert.deepEqual([view?.adopted, view?.inFlight], [1, 0]);
      connection.close();
      await stage.until(() => view?.active === 0);
      await stage.client();
      await take(stage, worker);
    }),
  );

  it(
    'leaves clients in the backlog while it has as many connections as its declared limit',
    onStage({ recipeConcurrency: 2 }, async (stage) => {
      const address = await stage.address();
      const worker = await joinPython(stage);
      await stage.clients(4);
      const { connection } = await take(stage, worker);
      await take(stage, worker);
      await stage.until(() => stage.dispatcher.workers[0]?.adopted === 2);
      await turns();
      assert.equal(backlogOf(address), 2);
      connection.close();
      await take(stage, worker);
      await turns();
      assert.equal(backlogOf(address), 1);
    }),
  );

  it(
    'has its clients refused at once when every worker is at its limit, under the overload rule refuse',
    onStage({ overload: 'refuse', recipeConcurrency: 1 }, async (stage) => {
      const worker = await joinPython(stage);
      await stage.client();
      await take(stage, worker);
      await stage.until(() => stage.dispatcher.workers[0]?.adopted === 1);
      assert.equal(await receivedText(await stage.client()), null);
      assert.equal(stage.dispatcher.status().connections.refused, 1);
    }),
  );

  for (const [how, recipeConcurrency, isStalled] of [
    ['is not stalled while it has one open, since it may serve one client after the other', undefined, false],
    ['is stalled below its declared limit', 2, true],
  ] as const) {
    it(
      `that leaves a connection unread ${how}`,
      onStage(recipeConcurrency === undefined ? {} : { recipeConcurrency }, async (stage) => {
        const worker = await joinPython(stage);
        await stage.clients(2);
        await take(stage, worker);
        const [view] = stage.dispatcher.workers;
        await stage.until(() => view?.adopted === 1 && view.inFlight === 1);
        // At the first check, the worker has answered since the watch began.
        await stage.looks.pass(5);
        assert.equal(view?.isStalled, isStalled);
      }),
    );
  }

  it(
    'is stalled while it leaves unread what it could take',
    onStage({}, async (stage) => {
      const worker = await joinPython(stage);
      const stalled = stage.next('stalled');
      await stage.client();
      await stage.until(() => inFlight(stage)[0] === 1);
      await stage.looks.pass(4);
      assert.equal((await stalled)[0].id, 1);
      assert.equal(stage.dispatcher.status().workers[0]?.state, 'stalled');
      const resumed = stage.next('resumed');
      await take(stage, worker);
      await resumed;
      assert.equal(stage.dispatcher.status().workers[0]?.state, 'ready');
    }),
  );

  it(
    'is reported as stalled once, even if takeovers fail meanwhile',
    onStage({}, async (stage) => {
      await joinPython(stage);
      let reports = 0;
      stage.dispatcher.on('stalled', () => reports++);
      await stage.client();
      await stage.until(() => inFlight(stage)[0] === 1);
      await stage.looks.pass(4);
      const frozen = await stage.dispatcher.freeze();
      frozen[Symbol.dispose]();
      stage.dispatcher.thaw();
      await stage.looks.pass(8);
      assert.equal(reports, 1);
      assert.equal(stage.dispatcher.workers[0]?.isStalled, true);
    }),
  );

  it(
    'is stalled only before its first connection if the kernel cannot be asked about its connections',
    onStage({}, async (stage) => {
      const { mock: identifying } = mock.method(native, 'identify', () => -ENOENT);
      stage.own({
        [Symbol.dispose]: () => {
          identifying.restore();
        },
      });
      const worker = await joinPython(stage);
      const reports: string[] = [];
      for (const name of ['stalled', 'resumed'] as const) stage.dispatcher.on(name, () => reports.push(name));
      await stage.clients(2);
      await stage.until(() => inFlight(stage)[0] === 1);
      await stage.looks.pass(4);
      assert.deepEqual(reports, ['stalled']);
      await take(stage, worker);
      await stage.until(() => stage.dispatcher.workers[0]?.adopted === 1 && inFlight(stage)[0] === 1);
      assert.equal(stage.dispatcher.workers[0]?.active, null);
      await stage.looks.pass(10);
      assert.deepEqual(reports, ['stalled', 'resumed']);
      assert.equal(stage.dispatcher.workers[0].isStalled, false);
    }),
  );

  it(
    'is reported as resumed when no connections are being placed',
    onStage({}, async (stage) => {
      stage.own(withoutReceipts());
      const worker = await joinPython(stage);
      const [handle] = stage.dispatcher.workers as WorkerHandle[];
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const loop = new Listener({ id: 0, key: 'own', isOwn: true }, acceptor);
      await stage.client();
      await stage.until(() => handle?.inFlight === 1);
      await stage.looks.pass(4);
      assert.equal(handle?.isStalled, true);
      let reports = 0;
      stage.dispatcher.on('resumed', () => reports++);
      const resumed = stage.next('resumed');
      await take(stage, worker);
      assert.equal(handle.roomFor(loop), 1);
      assert.deepEqual([handle.isStalled, reports], [false, 0]);
      await resumed;
      await turns();
      assert.equal(reports, 1);
    }),
  );

  it(
    'reads the end of its channel after what is in flight when it is drained',
    onStage({}, async (stage) => {
      const worker = await joinPython(stage);
      await stage.client();
      await stage.until(() => inFlight(stage)[0] === 1);
      const drained = stage.dispatcher.drainWorker(1);
      assert.equal(await isPending(drained), true);
      const { connection } = await take(stage, worker);
      assert.equal(await receivedText(worker), null);
      connection.close();
      worker.destroy();
      await drained;
    }),
  );

  it(
    'may send any bytes, but no descriptor',
    onStage({}, async (stage) => {
      const worker = await joinPython(stage);
      await worker.send(Buffer.from('chatter'));
      await stage.client();
      await take(stage, worker);
      const left = stage.next('left');
      using file = openFile('unwanted');
      await worker.send(Buffer.from('x'), [file]);
      assert.match((await left)[1].reason, /^Descriptors came/);
      assert.deepEqual(
        stage.refusedPeers.map(({ code }) => code),
        ['ERR_UNEXPECTED_DESCRIPTORS'],
      );
    }),
  );
});

describe('a recipe worker at the end of the dispatcher', () => {
  for (const [dialect, join] of [
    ['multiprocessing', joinPython],
    ['raw', joinRaw],
  ] as const) {
    it(
      `leaves because the service stopped: ${dialect}`,
      onStage({}, async (stage) => {
        await join(stage);
        const left = stage.next('left');
        await stage.dispatcher.close();
        assert.deepEqual((await left)[1], { redelivered: 0, reason: 'the service stopped' });
      }),
    );
  }
});

describe('a raw worker', () => {
  it(
    'gets an x with each connection, and the next one when it has answered OK, in one piece or in two',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await joinRaw(stage);
      await stage.clients(4);
      for (const pieces of [['OK'], ['O', 'K'], ['OK']]) {
        const { byte, connection } = await take(stage, worker);
        assert.equal(byte, 'x');
        assert.equal(native.isNonblocking(connection.fd), 0);
        connection.close();
        const waiting = backlogOf(address);
        await turns();
        assert.equal(backlogOf(address), waiting);
        for (const piece of pieces) await worker.send(Buffer.from(piece));
      }
      await take(stage, worker);
      assert.deepEqual(inFlight(stage), [1]);
      assert.equal(stage.dispatcher.workers[0]?.adopted, 3);
    }),
  );

  it(
    'is stalled while it does not answer',
    onStage({}, async (stage) => {
      const worker = await joinRaw(stage);
      const stalled = stage.next('stalled');
      await stage.client();
      await take(stage, worker);
      await stage.looks.pass(4);
      assert.equal((await stalled)[0].id, 1);
      const resumed = stage.next('resumed');
      await worker.send(Buffer.from('OK'));
      await resumed;
    }),
  );

  it(
    'loses what it had not answered at its end to another worker',
    onStage({}, async (stage) => {
      const dying = await joinRaw(stage);
      const client = await stage.client();
      (await take(stage, dying)).connection.close();
      const heir = await stage.joinServing();
      dying.destroy();
      const [connection] = await heir.handoffs(1);
      assert.deepEqual(connection?.remoteAddress, client.localAddress);
    }),
  );

  it(
    'keeps what it answered right before its end',
    onStage({}, async (stage) => {
      const dying = await joinRaw(stage);
      const client = await stage.client();
      const { connection } = await take(stage, dying);
      const left = stage.next('left');
      await dying.send(Buffer.from('OK'));
      dying.destroy();
      const [worker, { redelivered }] = await left;
      assert.deepEqual([worker.adopted, redelivered], [1, 0]);
      connection.close();
      assert.equal(await receivedText(client), null);
    }),
  );

  for (const [name, answer, isGiven] of [
    ['something other than OK', 'NO', true],
    ['OK to nothing', 'OK', false],
    ['OK twice', 'OKOK', true],
  ] as const) {
    it(
      `is disconnected when it answers ${name}`,
      onStage({}, async (stage) => {
        const worker = await joinRaw(stage);
        if (isGiven) {
          await stage.client();
          (await take(stage, worker)).connection.close();
        }
        const left = stage.next('left');
        await worker.send(Buffer.from(answer));
        const [, { reason }] = await left;
        assert.match(reason, /The worker answered/);
        assert.equal(await receivedText(worker), null);
        assert.deepEqual(
          stage.refusedPeers.map(({ message }) => message),
          [reason],
        );
        const other = await stage.joinServing();
        await stage.client();
        await other.handoff();
      }),
    );
  }
});
