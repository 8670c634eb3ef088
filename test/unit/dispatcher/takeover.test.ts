// Takeover between two dispatchers in one process: either the next one continues with everything, or the first one does.
import assert from 'node:assert/strict';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import { describe, it } from 'node:test';

import { Dispatcher, type DispatcherEvents, type Status } from '../../../src/dispatcher/index.js';
import {
  awaitGo,
  handOver,
  takeOver,
  TAKEOVER_FORMAT,
  TakeoverChannel,
  type Attachment,
  type OutgoingMessage,
  type TakeoverMessage,
} from '../../../src/dispatcher/internal.js';
import {
  closeAll,
  connect,
  listen,
  socketPair,
  type Descriptor,
  type StreamSocket,
} from '../../../src/fd/index.js';
import {
  encodeFrame,
  encodeHello,
  encodeJson,
  PROTOCOL_VERSION,
  type Step,
} from '../../../src/handoff/index.js';
import { dumps } from '../../../src/multiprocessing/index.js';
import type { WorkerHandle } from '../../../src/dispatcher/workers/worker-handle.js';
import { backlogOf, onStage, type Stage } from '../../support/dispatcher-stage.js';
import { failsWith } from '../../support/errors.js';
import { FakeWorker } from '../../support/fake-worker.js';
import { openFile, takeTexts } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { received, receivedText } from '../../support/stream.js';

const hello = encodeFrame(
  encodeHello({ passfd: PROTOCOL_VERSION, role: 'worker', pid: process.pid, window: 8, capacity: null }),
);

/** The channel between two generations, and a function that kills the next one. */
function succession(stage: Stage): {
  readonly successor: { readonly channel: TakeoverChannel; readonly kill: () => void };
  readonly predecessor: TakeoverChannel;
} {
  const [here, there] = socketPair();
  return {
    successor: {
      channel: stage.own(new TakeoverChannel(here)),
      kill: () => {
        there.destroy();
      },
    },
    predecessor: stage.own(new TakeoverChannel(there)),
  };
}

/** The next dispatcher takes over from the stage's dispatcher, which ends. @returns what came with the takeover */
async function succeed(
  stage: Stage,
  next: Dispatcher,
  attachments: readonly Attachment[] = [],
): Promise<Attachment[]> {
  const { successor, predecessor } = succession(stage);
  const handingOver = handOver(stage.dispatcher, successor, attachments);
  const taken = await takeOver(next, predecessor, {});
  await Promise.all([handingOver, awaitGo(predecessor)]);
  next.thaw();
  await stage.dispatcher.disown();
  return taken;
}

/** The status without the field that changes with time. */
function lasting(status: Status): Status {
  return { ...status, uptimeMs: 0 };
}

async function frame(peer: StreamSocket): Promise<Record<string, unknown> | null> {
  using header = await peer.receiveExactly(4);
  if (!header) return null;
  using payload = await received(peer.receiveExactly(header.bytes.readUInt32BE(0)));
  return JSON.parse(payload.bytes.toString()) as Record<string, unknown>;
}

/** Sends a command on the control socket, and does not read the answer. */
async function ask(stage: Stage, command: object): Promise<StreamSocket> {
  const peer = stage.own(await connect(stage.control));
  await peer.send(
    Buffer.concat([
      encodeFrame(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' })),
      encodeFrame(Buffer.from(JSON.stringify(command))),
    ]),
  );
  return peer;
}

/** Runs `act` once, at this step of the takeover. */
function atStep(wanted: Step, act: () => void): void {
  const onStep = (step: unknown): void => {
    if (step !== wanted) return;
    unsubscribe('passfd:step', onStep);
    act();
  };
  subscribe('passfd:step', onStep);
}

/** Clients whose connections came back from a worker, and wait for another worker. */
async function waitingClients(stage: Stage, count: number): Promise<StreamSocket[]> {
  const worker = await stage.joinServing();
  const clients = await stage.clients(count);
  await worker.handoffs(count);
  const left = stage.next('left');
  worker.die();
  await left;
  assert.equal(stage.dispatcher.status().connections.waiting, count);
  return clients;
}

describe('the next generation', () => {
  it(
    'opens again what a worker had closed before the takeover, when the worker ends after it',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const wanted = { host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 };
      const { id, address } = await worker.listenAt(wanted);
      const ready = stage.next('ready');
      await worker.ready();
      await ready;
      const unlistened = stage.next('unlistened');
      await worker.unlisten(id);
      await unlistened;
      await using next = new Dispatcher();
      await succeed(stage, next);
      const [view] = next.workers;
      assert.ok(view);
      const left = once(next, 'left');
      worker.die();
      await left;
      const opened = once(next, 'listening');
      next.reopen(view);
      assert.deepEqual((await opened)[0], address);
      await using client = await connect(address);
      assert.equal(client.closed, false);
    }),
  );

  it(
    'has the same workers, listeners and counts, in the same states, and only its own identity differs',
    onStage({}, async (stage) => {
      const { dispatcher } = stage;
      dispatcher.reserveIds(2);
      const path = `${stage.directory}/socket`;
      await dispatcher.listen(path);
      await dispatcher.openRawControl(`${stage.directory}/raw`);
      const busy = await stage.joinServing({ window: 5, capacity: 9 });
      await stage.clients(4);
      await busy.handoffs(4);
      await busy.adopt(3);
      await busy.sayClosed(1);
      const leaving = await stage.join();
      await leaving.say(encodeJson({ type: 'draining' }));
      await stage.join();
      const python = stage.own(await connect(stage.control));
      await python.send(encodeFrame(dumps(process.pid)));
      stage.own(await connect(`${stage.directory}/raw`));
      await stage.own(await connect(stage.control)).send(encodeFrame(Buffer.from('hello')));
      await stage.until(() => {
        const { workers, connections } = dispatcher.status();
        return workers.length === 5 && connections.adopted === 3 && stage.refusedPeers.length === 1;
      });
      await stage.until(() => dispatcher.workers.some(({ state }) => state === 'draining'));
      await stage.until(() => dispatcher.workers[0]?.active === 2);
      const before = dispatcher.status();
      await using next = new Dispatcher();
      await succeed(stage, next);
      assert.deepEqual(lasting(next.status()), lasting({ ...before, generation: 2 }));
    }),
  );

  it(
    'knows which worker had been the child of a dispatcher that died',
    onStage({}, async (stage) => {
      const child = { slot: 2, service: 'site' };
      await stage.join({ returns: { id: 2, child } });
      await using next = new Dispatcher();
      await succeed(stage, next);
      assert.deepEqual(
        next.workers.map(({ formerChild }) => formerChild),
        [child],
      );
    }),
  );

  it(
    'settles what was in flight: each connection is adopted, or refused and given to another worker, once',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      const clients = await stage.clients(3);
      await worker.handoffs(3);
      await using next = new Dispatcher();
      await succeed(stage, next);
      await worker.adopt(2);
      await stage.until(() => next.status().connections.adopted === 2);
      const heir = await stage.join();
      await heir.serve();
      await stage.until(() => next.workers.every(({ state }) => state === 'ready'));
      await worker.refuse('draining', 3);
      const [connection] = await heir.handoffs(1);
      assert.deepEqual(connection?.remoteAddress, clients[2]?.localAddress);
      worker.closeConnections();
      for (const client of clients.slice(0, 2)) assert.equal(await receivedText(client), null);
      assert.deepEqual(
        next.workers.map(({ inFlight }) => inFlight),
        [0, 1],
      );
    }),
  );

  it(
    'continues the numbering of connections',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.clients(2);
      await worker.handoffs(2);
      await worker.adopt();
      await stage.until(() => stage.dispatcher.status().connections.adopted === 2);
      await using next = new Dispatcher();
      await succeed(stage, next);
      await stage.client();
      await worker.handoffs(1);
      await worker.adopt(3);
      await stage.until(() => next.status().connections.adopted === 3);
    }),
  );

  it(
    'places clients that waited, in their order, and then clients that came meanwhile',
    onStage({}, async (stage) => {
      const clients = await waitingClients(stage, 3);
      const address = await stage.address();
      const late: Promise<StreamSocket>[] = [];
      atStep('frozen', () => {
        for (let count = 0; count < 4; count++) late.push(stage.client(address));
      });
      await using next = new Dispatcher();
      await succeed(stage, next);
      clients.push(...(await Promise.all(late)));
      assert.equal(clients.length, 7);
      assert.equal(backlogOf(address), 4);
      const worker = await stage.join();
      await worker.serve();
      const connections = await worker.handoffs(7);
      assert.deepEqual(
        connections.map(({ remoteAddress }) => remoteAddress),
        clients.map(({ localAddress }) => localAddress),
      );
    }),
  );

  it(
    'sends what was not sent yet to a worker that did not read, with its connections',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      // Answers of about 100 bytes each: more than the worker's channel holds.
      const REQUESTS = 1000;
      const requests = Array.from({ length: REQUESTS }, (_, request) =>
        encodeJson({ type: 'serve', request }),
      );
      await worker.say(...requests, encodeJson({ type: 'last-words', text: 'asked' }));
      await stage.until(() => stage.dispatcher.workers[0]?.lastWords === 'asked');
      const clients = await stage.clients(2);
      await stage.until(() => stage.dispatcher.workers[0]?.inFlight === 2);
      await using next = new Dispatcher();
      await succeed(stage, next);
      for (let request = 0; request < REQUESTS; request++) {
        assert.equal((await worker.next('listening')).request, request);
      }
      const connections = await worker.handoffs(2);
      assert.deepEqual(
        connections.map(({ remoteAddress }) => remoteAddress),
        clients.map(({ localAddress }) => localAddress),
      );
      await worker.adopt();
      await stage.until(() => next.status().connections.adopted === 2);
    }),
  );

  it(
    'goes on disconnecting a worker that broke the protocol and does not read: its connections stay until it can read the farewell',
    onStage({}, async (stage) => {
      const culprit = await stage.joinServing();
      await stage.clients(3);
      await culprit.handoffs(3);
      const other = await stage.joinServing();
      // The farewell waits after these answers, which are more than the worker's channel holds.
      await culprit.say(...Array<Buffer>(1000).fill(encodeJson({ type: 'serve', request: 1 })));
      await culprit.adopt(1);
      await culprit.adopt(99);
      await stage.until(() => stage.refusedPeers.length > 0);
      await culprit.adopt(2);
      await using next = new Dispatcher();
      await succeed(stage, next);
      await turns();
      assert.equal(next.status().connections.redelivered, 0);
      const left = once(next, 'left') as Promise<DispatcherEvents['left']>;
      let last;
      for (let message = await culprit.message(); message; message = await culprit.message()) last = message;
      assert.ok(last?.type === 'farewell');
      assert.match(last.reason, /settles position 99/);
      await assert.rejects(culprit.adopt(3), { code: 'ERR_PEER_GONE' });
      const [worker, { redelivered, reason }] = await left;
      assert.deepEqual([worker.adopted, redelivered, reason], [2, 1, last.reason]);
      await other.handoffs(1);
      assert.equal(next.status().peers.refused, 1);
    }),
  );

  it(
    'gives nothing to a worker that was stalled until it answers',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      await stage.looks.pass(4);
      await using next = new Dispatcher();
      await succeed(stage, next);
      assert.equal(next.status().workers[0]?.state, 'stalled');
      await stage.client();
      await turns();
      assert.equal(next.workers[0]?.inFlight, 1);
      const resumed = once(next, 'resumed');
      await worker.adopt();
      await resumed;
      await worker.handoffs(1);
    }),
  );

  it(
    'knows that a worker has connections that came from no dispatcher, and waits for these in a drain',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      await worker.say(encodeJson({ type: 'holding', on: true }));
      await stage.until(() => stage.dispatcher.workers.some((each) => (each as WorkerHandle).isHolding));
      await using next = new Dispatcher();
      await succeed(stage, next);
      const drained = next.drainWorker(worker.id);
      assert.ok(await isPending(drained));
      await worker.next('drain');
      await worker.say(encodeJson({ type: 'holding', on: false }));
      await drained;
    }),
  );

  it(
    'leaves a file alone that another program has put at the path of a socket',
    onStage({}, async (stage) => {
      const address = { path: `${stage.directory}/web` };
      await stage.dispatcher.listen(address);
      rmSync(address.path);
      const other = await listen(address);
      await using next = new Dispatcher();
      await succeed(stage, next);
      await assert.rejects(next.restoreFiles(), failsWith('ERR_ADDRESS_IN_USE'));
      await next.close();
      assert.ok(existsSync(address.path));
      await other.close();
    }),
  );

  it(
    'goes on inside a message of a worker, however long it is',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const listeners = Array.from({ length: 12_000 }, () => 9_999);
      const frame = encodeJson({ type: 'unlisten', request: 7, listeners });
      await worker.say(frame.subarray(0, -1));
      await stage.until(() => worker.socket.unreadBytes === 0);
      await using next = new Dispatcher();
      await succeed(stage, next);
      await worker.say(frame.subarray(-1));
      assert.equal((await worker.next('unlistened')).request, 7);
      assert.equal(next.workers.length, 1);
    }),
  );

  it(
    'welcomes a child that had not said hello yet, under its id',
    onStage({}, async (stage) => {
      const [here, there] = socketPair();
      stage.dispatcher.addChild(here, { id: 2, pid: process.pid });
      await using next = new Dispatcher();
      await succeed(stage, next);
      const child = stage.own(new FakeWorker(there));
      assert.equal((await child.sayHello()).id, 2);
    }),
  );

  it(
    'has a child that sends its hello while the workers are being frozen',
    onStage({}, async (stage) => {
      for (const id of [1, 2, 3]) stage.own(await FakeWorker.child(stage.dispatcher, id));
      const [here, there] = socketPair();
      const child = stage.own(new FakeWorker(there));
      stage.dispatcher.addChild(here, { id: 4, pid: process.pid });
      await using next = new Dispatcher();
      const succeeding = succeed(stage, next);
      await child.say(hello);
      await succeeding;
      assert.equal((await child.next('welcome')).id, 4);
      assert.deepEqual(
        next.workers.map(({ id }) => id),
        [1, 2, 3, 4],
      );
    }),
  );

  it(
    'gives a recipe worker the connection that it had not read yet once, and then the next',
    onStage({}, async (stage) => {
      await stage.address();
      const ready = stage.next('ready');
      const python = stage.own(await connect(stage.control));
      await python.send(encodeFrame(dumps(process.pid)));
      await ready;
      const clients = [await stage.client()];
      await stage.until(() => stage.dispatcher.workers[0]?.inFlight === 1);
      await using next = new Dispatcher();
      await succeed(stage, next);
      clients.push(await stage.client());
      for (const client of clients) {
        using message = await received(python.receive(1));
        assert.deepEqual(
          message.descriptors.map(({ remoteAddress }) => remoteAddress),
          [client.localAddress],
        );
      }
      await stage.until(() => next.status().connections.adopted === 2);
      assert.equal(python.peek(), null);
    }),
  );

  it(
    'counts what a recipe worker has open against its declared limit',
    onStage({ recipeConcurrency: 1 }, async (stage) => {
      const address = await stage.address();
      const ready = stage.next('ready');
      const python = stage.own(await connect(stage.control));
      await python.send(encodeFrame(dumps(process.pid)));
      await ready;
      await stage.client();
      using message = await received(python.receive(1));
      const connection = stage.own(message.takeDescriptor());
      await stage.until(() => stage.dispatcher.workers[0]?.adopted === 1);
      await using next = new Dispatcher({ recipeConcurrency: 1 });
      await succeed(stage, next);
      await stage.client();
      await turns();
      assert.equal(backlogOf(address), 1);
      connection.close();
      using second = await received(python.receive(1));
      assert.equal(second.descriptors.length, 1);
    }),
  );

  it(
    'has the sockets that workers may still ask for, and knows whose they are',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      await using unit = await listen({ host: '127.0.0.1', port: 0 });
      const descriptor = unit.duplicate();
      await stage.dispatcher.offer([{ descriptor, isInherited: true }]);
      await using next = new Dispatcher();
      await succeed(stage, next);
      assert.ok('port' in unit.address);
      const { port } = unit.address;
      const { address } = await worker.listenAt({ host: '127.0.0.1', port, ipv6Only: false, index: 0 });
      await worker.ready();
      await stage.client(address);
      await worker.handoffs(1);
      await worker.adopt();
      // The socket is still open for the process that keeps it.
      await next.stopAccepting();
      await stage.client(address);
      (await unit.accept()).close();
    }),
  );

  it(
    'keeps the socket file while it listens, and removes it at the end',
    onStage({}, async (stage) => {
      const path = `${stage.directory}/socket`;
      await stage.dispatcher.listen(path);
      const next = new Dispatcher();
      await succeed(stage, next);
      await turns();
      assert.ok(existsSync(path) && existsSync(stage.control));
      stage.own(await connect(path));
      await next.close();
      assert.ok(!existsSync(path) && !existsSync(stage.control));
    }),
  );

  it(
    'gets the attachments in order, with their descriptors',
    onStage({}, async (stage) => {
      using file = openFile('file');
      await using next = new Dispatcher();
      const attachments = await succeed(stage, next, [
        { data: { slot: 1 }, descriptors: [file] },
        { data: ['anything'], descriptors: [] },
      ]);
      assert.deepEqual(
        attachments.map(({ data, descriptors }) => [data, takeTexts(descriptors)]),
        [
          [{ slot: 1 }, ['file']],
          [['anything'], []],
        ],
      );
    }),
  );

  it(
    'learns how long ago the old one was asked to stop, and the backlog of an address',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      await worker.listen({ host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 }, 3);
      await using next = new Dispatcher();
      const { successor, predecessor } = succession(stage);
      const handingOver = handOver(stage.dispatcher, { ...successor, stoppingForMs: () => 123 }, []);
      await takeOver(next, predecessor, {});
      const [, heard] = await Promise.all([handingOver, awaitGo(predecessor)]);
      assert.deepEqual(heard, { stoppingForMs: 123 });
      next.thaw();
      await stage.dispatcher.disown();
      using frozen = await next.freeze();
      const { snapshot } = frozen;
      assert.equal(snapshot.listeners[0]?.backlog, 3);
    }),
  );

  it(
    'answers clients that connect to the control socket meanwhile; those that wait for an answer are told to ask again',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      const draining = stage.next('draining');
      const waiting = await ask(stage, { type: 'drain', worker: worker.id });
      await draining;
      const meanwhile: Promise<StreamSocket>[] = [];
      atStep('frozen', () => {
        meanwhile.push(ask(stage, { type: 'status' }));
      });
      await using next = new Dispatcher();
      await succeed(stage, next);
      assert.deepEqual(await frame(waiting), { type: 'again' });
      assert.equal(await frame(waiting), null);
      const [peer] = await Promise.all(meanwhile);
      assert.ok(peer);
      assert.equal(((await frame(peer))?.['result'] as Status).generation, 2);
    }),
  );
});

/** Reads until a message of this type, and closes all descriptors. */
async function hears(channel: TakeoverChannel, type: TakeoverMessage['type']): Promise<TakeoverMessage> {
  for (;;) {
    const said = await channel.receive();
    assert.ok(said, `the channel ended without: ${type}`);
    closeAll(said.descriptors);
    if (said.message.type === type) return said.message;
  }
}

describe('a generation whose next one', () => {
  const failures: readonly (readonly [
    what: string,
    act: (predecessor: TakeoverChannel) => Promise<void>,
    reason: RegExp,
  ])[] = [
    [
      'says that it cannot take over',
      (predecessor) => predecessor.send({ type: 'failed', code: 'ERR_TAKEOVER', reason: 'out of luck' }),
      /^out of luck$/,
    ],
    [
      'ends before it is ready',
      async (predecessor) => {
        await hears(predecessor, 'all');
        predecessor[Symbol.dispose]();
      },
      /other generation ended/,
    ],
    [
      'ends after go, before it has started',
      async (predecessor) => {
        await predecessor.send({ type: 'ready' });
        await hears(predecessor, 'go');
        predecessor[Symbol.dispose]();
      },
      /other generation ended/,
    ],
    [
      'says that it has started too early',
      (predecessor) => predecessor.send({ type: 'started' }),
      /said started instead of ready/,
    ],
  ];
  for (const [what, act, reason] of failures) {
    it(
      `${what} says why, and goes on as if nothing had happened`,
      onStage({}, async (stage) => {
        const { dispatcher } = stage;
        const worker = await stage.joinServing();
        const clients = await stage.clients(2);
        await worker.handoffs(2);
        const before = dispatcher.status();
        const { successor, predecessor } = succession(stage);
        const handingOver = handOver(dispatcher, successor, []);
        await Promise.all([assert.rejects(handingOver, failsWith('ERR_TAKEOVER', reason)), act(predecessor)]);
        assert.deepEqual(lasting(dispatcher.status()), lasting(before));
        await worker.adopt();
        clients.push(await stage.client());
        const [connection] = await worker.handoffs(1);
        assert.deepEqual(connection?.remoteAddress, clients[2]?.localAddress);
        await stage.join();
      }),
    );
  }

  it(
    'has said started and then ends is replaced all the same, since workers may have heard from the new one',
    onStage({}, async (stage) => {
      const { successor, predecessor } = succession(stage);
      const handingOver = handOver(stage.dispatcher, successor, []);
      await hears(predecessor, 'all');
      await predecessor.send({ type: 'ready' });
      await predecessor.send({ type: 'started' });
      // Not even `go` can be sent any more.
      predecessor[Symbol.dispose]();
      await handingOver;
      await stage.dispatcher.disown();
    }),
  );

  it(
    'would get connections of a closed address hands nothing over, and goes on',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      await worker.ready();
      const { id, address } = await worker.listenAt({
        host: '127.0.0.1',
        port: 0,
        ipv6Only: false,
        index: 0,
      });
      await stage.client(address);
      await worker.handoffs(1);
      const unlistened = stage.next('unlistened');
      await worker.unlisten(id);
      await unlistened;
      const { successor } = succession(stage);
      await assert.rejects(
        handOver(stage.dispatcher, successor, []),
        failsWith('ERR_BUSY', /which is closed, are still on their way/),
      );
      await worker.adopt();
      await stage.until(() => stage.dispatcher.status().connections.adopted === 1);
    }),
  );
});

describe('a dispatcher that is frozen', () => {
  it(
    'leaves clients, workers and commands in the kernel until it thaws',
    onStage({}, async (stage) => {
      const { dispatcher } = stage;
      const address = await stage.address();
      const worker = await stage.joinServing({ window: 1 });
      const frozen = await dispatcher.freeze();
      const clients = await stage.clients(5);
      const joining = stage.join();
      const asking = await ask(stage, { type: 'status' });
      await worker.say(encodeJson({ type: 'window', window: 3 }));
      await turns();
      assert.equal(backlogOf(address), 5);
      assert.equal(dispatcher.workers.length, 1);
      assert.equal(asking.peek(), null);
      frozen[Symbol.dispose]();
      dispatcher.thaw();
      await joining;
      assert.equal((await frame(asking))?.['type'], 'done');
      const connections = await worker.handoffs(3);
      assert.deepEqual(
        connections.map(({ remoteAddress }) => remoteAddress),
        clients.slice(0, 3).map(({ localAddress }) => localAddress),
      );
    }),
  );

  it(
    'has admitted peers that were saying hello, and disconnected those that said nothing for a second',
    onStage({ control: { handshakeTimeoutMs: 60_000 } }, async (stage) => {
      const slow = stage.own(await connect(stage.control));
      const silent = stage.own(await connect(stage.control));
      await slow.send(hello.subarray(0, 9));
      await turns();
      const freezing = stage.dispatcher.freeze();
      await slow.send(hello.subarray(9));
      using frozen = await freezing;
      const { snapshot } = frozen;
      assert.equal(snapshot.workers.length, 1);
      assert.equal(await receivedText(silent), null);
    }),
  );
});

/** Sends these messages as a generation would, and reads how the next one answers. */
async function offers(
  stage: Stage,
  next: Dispatcher,
  ...messages: readonly (readonly [message: OutgoingMessage, ...descriptors: Descriptor[]])[]
): Promise<{ readonly channel: TakeoverChannel; readonly taking: Promise<Attachment[]> }> {
  const { successor, predecessor } = succession(stage);
  const taking = takeOver(next, predecessor, {});
  for (const [message, ...descriptors] of messages) {
    await successor.channel.send(message, descriptors);
    closeAll(descriptors);
  }
  return { channel: successor.channel, taking };
}

const from: OutgoingMessage = {
  type: 'from',
  format: TAKEOVER_FORMAT,
  version: '0.0.0',
  generation: 1,
  counts: { accepted: 0, adopted: 0, redelivered: 0, refused: 0, refusedPeers: 0 },
};
const listener: OutgoingMessage = {
  type: 'listener',
  id: 7,
  key: 'own 127.0.0.1:0',
  isOwn: true,
  accepted: 0,
  removesFile: false,
};
const worker: OutgoingMessage = {
  type: 'worker',
  worker: {
    dialect: 'passfd',
    id: 1,
    pid: process.pid,
    isTrusted: true,
    isCustodian: true,
    state: 'ready',
    window: 8,
    capacity: null,
    carried: 0,
    awaitedCustody: 0,
    adopted: 0,
    closed: 0,
    settled: 0,
    subscriptions: [],
    partial: '',
  },
};
const handoff: OutgoingMessage = {
  type: 'unsent',
  bytes: '',
  handoff: { position: 1, listener: 7, count: 2 },
};
const all: OutgoingMessage = { type: 'all' };

describe('what a generation receives', () => {
  const file = (): Descriptor => openFile('file');
  const stream = (): Descriptor => {
    const [here, there] = socketPair();
    there.destroy();
    return here.release();
  };
  const listening = async (): Promise<Descriptor> => {
    const acceptor = await listen({ host: '127.0.0.1', port: 0 });
    return acceptor.release();
  };

  type Offer = readonly (readonly [message: OutgoingMessage, ...descriptors: Descriptor[]])[];
  const wrong: readonly (readonly [what: string, offer: () => Offer | Promise<Offer>, reason: RegExp])[] = [
    [
      'in a format that it does not know',
      () => [[{ ...from, format: TAKEOVER_FORMAT + 1 }]],
      /format 2 .*passfd .* with format 1/,
    ],
    ['as a listener without a socket', () => [[from], [listener]], /listener .*0 descriptors/],
    [
      'as a listener with two',
      async () => [[from], [listener, await listening(), file()]],
      /listener .*2 descriptors/,
    ],
    [
      'as a listener without a listening socket',
      () => [[from], [listener, file()], [all]],
      /listening socket|ENOTSOCK|not a socket/,
    ],
    [
      'as a connection in flight to nobody',
      () => [[from], [{ type: 'in-flight', listener: 7 }, file()]],
      /in-flight .*wrong place/,
    ],
    ['as bytes for nobody', () => [[from], [{ type: 'unsent', bytes: '' }, file()]], /unsent .*wrong place/],
    [
      'as a worker with a file for a channel',
      () => [[from], [worker, file()], [all]],
      /connected stream socket/,
    ],
    [
      'as a waiting connection of an unknown listener',
      () => [[from], [{ type: 'waiting', listener: 7 }, file()], [all]],
      /listener 7, which is not there/,
    ],
    [
      'as a connection in flight of an unknown listener',
      () => [[from], [worker, stream()], [{ type: 'in-flight', listener: 7 }, file()], [all]],
      /listener 7, which is not there/,
    ],
    [
      'as an unsent hand-off of connections that are not in flight',
      () => [[from], [worker, stream()], [handoff], [all]],
      /hand-off of 2 connections from position 1 .*0 in flight/,
    ],
    [
      'as an unsent hand-off with connections of its own',
      () => [[from], [worker, stream()], [handoff, file()]],
      /unsent .*wrong place/,
    ],
    ['with an answer in the middle', () => [[from], [{ type: 'go' }, file()]], /go .*wrong place/],
    [
      'after a first message of another kind',
      () => [[listener, file()]],
      /first takeover message is listener/,
    ],
    [
      'with two control sockets',
      async () => [
        [from],
        [{ type: 'control', removesFile: false }, await listening()],
        [{ type: 'control', removesFile: false }, await listening()],
      ],
      /control .*wrong place/,
    ],
  ];
  for (const [what, offer, reason] of wrong) {
    it(
      `${what}, it refuses with a reason, and keeps none of it`,
      onStage({}, async (stage) => {
        await using next = new Dispatcher();
        const { channel, taking } = await offers(stage, next, ...(await offer()));
        await assert.rejects(taking, failsWith('ERR_TAKEOVER', reason));
        const message = await hears(channel, 'failed');
        assert.ok('reason' in message);
        assert.match(message.reason, reason);
        await next.disown();
      }),
    );
  }

  it(
    'is closed if it ends half way',
    onStage({}, async (stage) => {
      await using next = new Dispatcher();
      const { successor, predecessor } = succession(stage);
      const taking = takeOver(next, predecessor, {});
      using waiting = file();
      await successor.channel.send(from);
      await successor.channel.send({ type: 'attachment', data: null }, [waiting]);
      await successor.channel.send({ type: 'waiting', listener: 0 }, [waiting]);
      successor.channel[Symbol.dispose]();
      await assert.rejects(taking, failsWith('ERR_TAKEOVER', /other generation ended/));
      await next.disown();
    }),
  );

  it(
    'is closed if descriptors belong to nothing',
    onStage({}, async (stage) => {
      await using next = new Dispatcher();
      const { taking } = await offers(stage, next, [from, file()], [all, file()]);
      assert.deepEqual(await taking, []);
      await next.disown();
    }),
  );

  it(
    'is not touched before go: when it is disowned, the old generation goes on',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.clients(2);
      await worker.handoffs(2);
      const [here, there] = socketPair();
      stage.dispatcher.addChild(here, { id: 2, pid: process.pid });
      const child = stage.own(new FakeWorker(there));
      const { successor, predecessor } = succession(stage);
      const handingOver = handOver(stage.dispatcher, successor, []);
      await using next = new Dispatcher();
      await takeOver(next, predecessor, {});
      assert.deepEqual(
        next.workers.map(({ inFlight }) => inFlight),
        [2],
      );
      const welcome = child.sayHello();
      await worker.adopt();
      await turns();
      assert.equal(next.status().connections.adopted, 0);
      assert.equal(next.workers.length, 1);
      await next.disown();
      predecessor[Symbol.dispose]();
      await assert.rejects(handingOver, failsWith('ERR_TAKEOVER'));
      await stage.until(() => stage.dispatcher.status().connections.adopted === 2);
      await welcome;
      assert.equal(stage.dispatcher.workers.length, 2);
    }),
  );
});
