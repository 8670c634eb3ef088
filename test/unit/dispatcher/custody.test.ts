// Listening sockets in custody: which worker gets which, and what the next dispatcher does with those that come back.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, it } from 'node:test';

import { Dispatcher, type OpenControlOptions } from '../../../src/dispatcher/index.js';
import type { PassfdWorker } from '../../../src/dispatcher/workers/passfd-worker.js';
import { connect, listen, type Address } from '../../../src/fd/index.js';
import { encodeJson } from '../../../src/handoff/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import { openDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { FakeWorker, type Entrusted, type Returning } from '../../support/fake-worker.js';
import { openFile } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';

const anyPort = { host: '127.0.0.1', port: 0 } as const;

const wantedPort = { ...anyPort, ipv6Only: false, index: 0 } as const;

describe('a worker that keeps listening sockets', () => {
  it(
    'gets every present and every new one, and its duplicate keeps clients waiting',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await stage.join({ custody: true });
      const first = await worker.entrusted();
      assert.deepEqual(first.descriptor.localAddress, address);
      const later = await stage.dispatcher.listen(anyPort);
      const second = await worker.entrusted();
      assert.deepEqual(second.descriptor.localAddress, later);
      // Both were requested with the same address. The next dispatcher can distinguish them nevertheless.
      assert.deepEqual([first.key, second.key], ['own 127.0.0.1:0', 'own 127.0.0.1:0 2']);
      await stage.dispatcher.close();
      await stage.client(address);
    }),
  );

  it(
    'gets the number of each that is closed',
    onStage({}, async (stage) => {
      const worker = await stage.join({ custody: true });
      await worker.askToListen(wantedPort);
      const { listener } = await worker.entrusted();
      await worker.next('listening');
      await worker.unlisten(listener);
      assert.deepEqual(await worker.message(), { type: 'release', listeners: [listener] });
    }),
  );

  it(
    'does not delay, while it reads nothing, the closing of others',
    onStage({}, async (stage) => {
      const stopped = await stage.join({ custody: true });
      const other = await stage.join();
      const handle = stage.dispatcher.workers.find(({ id }) => id === stopped.id) as PassfdWorker;
      const listenAndUnlisten = async (): Promise<void> => {
        const { id } = await other.listenAt(wantedPort);
        await other.unlisten(id);
      };
      // Until the worker's channel is full.
      while (handle.socket.unsent().length === 0) await listenAndUnlisten();
      const before = openDescriptors().length;
      for (let count = 0; count < 50; count++) await listenAndUnlisten();
      await stage.until(() => stage.dispatcher.status().listeners.length === 0);
      assert.ok(handle.socket.unsent().length <= 2, `${handle.socket.unsent().length} messages wait`);
      assert.ok(openDescriptors().length <= before);

      // Sockets that the worker gets nevertheless are released again.
      await other.listenAt({ ...wantedPort, index: 1 });
      const kept = new Set<number>();
      let custody;
      do {
        const message = await stopped.message();
        if (message?.type === 'custody') {
          custody = message.key;
          kept.add(message.listener);
          stopped.take(1);
        }
        if (message?.type === 'release') for (const id of message.listeners) kept.delete(id);
      } while (custody?.includes('"index":1') !== true);
      assert.equal(kept.size, 1);
    }),
  );

  it(
    'gets none unless its hello says that it keeps them',
    onStage({}, async (stage) => {
      await stage.address();
      const worker = await stage.join();
      await worker.serve();
    }),
  );
});

/** The stage's dispatcher has ended, and the next one has its path. `open` may wait for workers. */
async function nextDispatcher(
  stage: Stage,
  options: (next: Dispatcher) => OpenControlOptions,
): Promise<{ readonly next: Dispatcher; readonly open: Promise<void> }> {
  const next = new Dispatcher();
  next.on('warned', (error) => stage.warnings.push(error));
  const open = next.openControl(stage.control, options(next));
  await stage.until(() => existsSync(stage.control));
  return { next, open };
}

const awaited = [{ id: 4, pid: process.pid }];

/** A worker that keeps the sockets of this many own addresses of the dispatcher. The dispatcher then ends. */
async function afterwards(
  stage: Stage,
  count = 1,
): Promise<{ readonly addresses: readonly Address[]; readonly custody: readonly Entrusted[] }> {
  const worker = await stage.join({ custody: true });
  const addresses: Address[] = [];
  const custody: Entrusted[] = [];
  while (addresses.length < count) {
    addresses.push(await stage.dispatcher.listen(anyPort));
    custody.push(await worker.entrusted());
  }
  await stage.dispatcher.close();
  return { addresses, custody };
}

function back(stage: Stage, returns: Omit<Returning, 'id'>): Promise<FakeWorker> {
  return stage.join({ custody: true, returns: { id: 9, ...returns } });
}

describe('a returning worker that was a child', () => {
  const child = { slot: 2, service: 'site' };

  it(
    'has the number of its slot, which the owner of the children sees',
    onStage({}, async (stage) => {
      stage.dispatcher.reserveIds(2);
      const returned = stage.next('returned');
      const worker = await stage.join({ returns: { id: 2, child } });
      const [{ id, formerChild }] = await returned;
      assert.deepEqual([worker.id, id, formerChild], [2, 2, child]);
    }),
  );

  it(
    'has another number when there are fewer slots',
    onStage({}, async (stage) => {
      stage.dispatcher.reserveIds(1);
      const worker = await stage.join({ returns: { id: 2, child: { ...child, slot: 1_000 } } });
      assert.equal(worker.id, 2);
    }),
  );
});

describe('a dispatcher whose workers return', () => {
  it(
    'listens at its former addresses, in their order, and hands off the clients that have waited there',
    onStage({}, async (stage) => {
      const { addresses, custody } = await afterwards(stage, 2);
      const clients = await Promise.all(addresses.map((address) => stage.client(address)));
      const again: Address[] = [];
      const { next, open } = await nextDispatcher(stage, (dispatcher) => ({
        awaited,
        prepare: async () => {
          while (again.length < addresses.length) again.push(await dispatcher.listen(anyPort));
        },
      }));
      await using dispatcher = next;
      assert.equal(await isPending(open), true);
      const worker = await back(stage, { open: 2, custody });
      await open;
      assert.deepEqual(again, addresses);
      // The worker's number is the one in the journal, not the one in its hello.
      assert.equal(worker.id, 4);
      assert.equal(dispatcher.workers[0]?.active, 2);
      for (const { key } of custody) assert.equal((await worker.entrusted()).key, key);
      assert.deepEqual(await worker.message(), { type: 'release', listeners: [], stale: true });
      await worker.serve();
      const connections = await worker.handoffs(2);
      assert.deepEqual(
        connections.map(({ remoteAddress }) => remoteAddress),
        clients.map(({ localAddress }) => localAddress),
      );
    }),
  );

  it(
    'admits no new worker before that',
    onStage({}, async (stage) => {
      const { custody } = await afterwards(stage);
      const { next, open } = await nextDispatcher(stage, () => ({ awaited }));
      await using dispatcher = next;
      const newcomer = stage.own(new FakeWorker(await connect(stage.control)));
      const welcome = newcomer.sayHello();
      await stage.until(() => newcomer.socket.unreadBytes === 0);
      await turns();
      assert.equal(dispatcher.workers.length, 0);
      await back(stage, { custody });
      await open;
      await welcome;
      assert.equal(dispatcher.workers.length, 2);
    }),
  );

  it(
    'closes sockets that nobody asks for again, and so do the workers that kept them',
    onStage({}, async (stage) => {
      const { addresses, custody } = await afterwards(stage);
      const { next, open } = await nextDispatcher(stage, () => ({ awaited }));
      await using dispatcher = next;
      const worker = await back(stage, { custody });
      await open;
      assert.deepEqual(dispatcher.status().listeners, []);
      assert.deepEqual(await worker.message(), { type: 'release', listeners: [], stale: true });
      for (const { descriptor } of custody) descriptor.close();
      for (const address of addresses) {
        await assert.rejects(connect(address), failsWith('ERR_CONNECTION_REFUSED'));
      }
    }),
  );

  it(
    'takes a socket once that several workers bring, and nothing that does not listen',
    onStage({}, async (stage) => {
      const { addresses, custody } = await afterwards(stage);
      using file = openFile('file');
      const again: Address[] = [];
      const { next, open } = await nextDispatcher(stage, (dispatcher) => ({
        awaited,
        prepare: async () => {
          again.push(await dispatcher.listen(anyPort));
        },
      }));
      await using dispatcher = next;
      await back(stage, { custody: [{ key: 'own 127.0.0.1:0', descriptor: file }, ...custody, ...custody] });
      await open;
      const second = await back(stage, { custody });
      await second.entrusted();
      assert.deepEqual(again, addresses);
      assert.equal(dispatcher.status().listeners.length, 1);
    }),
  );

  it(
    'listens at once where workers had asked for it, and gives them the same port when they ask again',
    onStage({}, async (stage) => {
      await stage.dispatcher.close();
      const acceptor = await listen(anyPort);
      const { address } = acceptor;
      assert.ok('port' in address);
      using descriptor = acceptor.release();
      const { next, open } = await nextDispatcher(stage, () => ({ awaited }));
      await using dispatcher = next;
      const key = `wanted ${JSON.stringify(wantedPort)}`;
      const worker = await back(stage, { custody: [{ key, descriptor }] });
      await open;
      assert.equal(dispatcher.status().listeners.length, 1);
      const { listener } = await worker.entrusted();
      assert.equal((await worker.message())?.type, 'release');
      const listening = await worker.listenAt({ ...wantedPort, port: address.port });
      assert.deepEqual(listening, { id: listener, address });
    }),
  );

  it(
    'opens its addresses anew when no worker can return any more',
    onStage({}, async (stage) => {
      await stage.dispatcher.close();
      // Above the highest process id.
      const nobody = 2 ** 31 - 1;
      let isPrepared = false;
      const { next, open } = await nextDispatcher(stage, () => ({
        awaited: [{ id: 1, pid: nobody }],
        prepare: () => {
          isPrepared = true;
          return Promise.resolve();
        },
      }));
      await using dispatcher = next;
      await open;
      assert.ok(isPrepared);
      assert.deepEqual(dispatcher.workers, []);
      assert.equal((await stage.join()).id, 1);
    }),
  );

  it(
    'refuses a worker that reports more closed connections than it had open, or passes a descriptor unannounced',
    onStage({}, async (stage) => {
      const liar = await back(stage, { open: 2 });
      assert.deepEqual(await liar.message(), { type: 'release', listeners: [], stale: true });
      await liar.sayClosed(2);
      await stage.until(() => stage.dispatcher.workers[0]?.active === 0);
      await liar.sayClosed(3);
      assert.equal((await liar.message())?.type, 'farewell');
      const smuggler = await back(stage, {});
      assert.equal((await smuggler.message())?.type, 'release');
      using file = openFile('file');
      await smuggler.socket.send(encodeJson({ type: 'custody', key: 'own fd' }), [file]);
      assert.equal((await smuggler.message())?.type, 'farewell');
      assert.deepEqual(
        stage.refusedPeers.map(({ code }) => code),
        ['ERR_PROTOCOL', 'ERR_PROTOCOL'],
      );
    }),
  );
});
