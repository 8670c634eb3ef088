// Addresses that workers ask for: made by the first, shared by all, and free again when the last has closed its server.
import assert from 'node:assert/strict';
import { existsSync, statSync } from 'node:fs';
import { describe, it } from 'node:test';

import { Dispatcher } from '../../../src/dispatcher/index.js';
import { connect, Descriptor, listen, type Address } from '../../../src/fd/index.js';
import { LastWill } from '../../../src/fd/internal.js';
import { encodeJson, encodeRefused } from '../../../src/handoff/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { backlogOf, onStage } from '../../support/dispatcher-stage.js';
import { NOBODYS_NUMBER } from '../../support/files.js';
import { withoutIpv6 } from '../../support/listeners.js';
import { isPending, turns } from '../../support/loop.js';
import { receivedText } from '../../support/stream.js';
import { withoutWill } from '../../support/will.js';

/** `WILL_MAX_LISTENERS` */
const WILL_LISTENERS = 1024;

const anyPort = { host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 };

function portOf(address: Address): number {
  assert.ok('port' in address);
  return address.port;
}

/** A port that was free a moment ago. The kernel does not give it away again soon. */
async function freePort(): Promise<number> {
  await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
  return portOf(acceptor.address);
}

describe('an address that a worker asks for', () => {
  it(
    'is opened, and its clients go to that worker',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const port = await freePort();
      const { id, address } = await worker.listenAt({ ...anyPort, port });
      assert.deepEqual(address, { host: '127.0.0.1', port });
      await worker.ready();
      await stage.client(address);
      assert.equal((await worker.handoff()).listener, id);
    }),
  );

  it(
    'is one socket for all workers that ask for it',
    onStage({}, async (stage) => {
      const workers = [await stage.join(), await stage.join()];
      const port = await freePort();
      const [first, second] = await Promise.all(
        workers.map((worker) => worker.listenAt({ ...anyPort, port })),
      );
      assert.deepEqual(first, second);
      assert.equal(stage.dispatcher.status().listeners.length, 1);
      for (const worker of workers) await worker.ready();
      await stage.until(() => stage.dispatcher.workers.every(({ state }) => state === 'ready'));
      assert.ok(first);
      await stage.clients(2, first.address);
      await Promise.all(workers.map((worker) => worker.handoffs(1)));
    }),
  );

  it(
    "is the dispatcher's own socket, if the address is the same",
    onStage({}, async (stage) => {
      const own = await stage.address();
      const worker = await stage.join();
      const { address } = await worker.listenAt({ ...anyPort, port: portOf(own) });
      assert.deepEqual(address, own);
      await worker.unlisten(0);
      await worker.listenAt({ ...anyPort, port: portOf(own) });
      assert.equal(stage.dispatcher.status().listeners.length, 1);
    }),
  );

  it(
    'has the same port for the n-th listen at port 0 of every worker, and other ports for the others',
    onStage({}, async (stage) => {
      const workers = [await stage.join(), await stage.join()];
      const ports: number[][] = [];
      for (const worker of workers) {
        const first = await worker.listenAt(anyPort);
        const second = await worker.listenAt({ ...anyPort, index: 1 });
        ports.push([portOf(first.address), portOf(second.address)]);
      }
      assert.deepEqual(ports[0], ports[1]);
      assert.notEqual(ports[0]?.[0], ports[0]?.[1]);
    }),
  );

  it(
    'has the same port when all ask at once after it was closed',
    onStage({}, async (stage) => {
      const workers = [await stage.join(), await stage.join()];
      for (const worker of workers) {
        const { id } = await worker.listenAt(anyPort);
        await worker.unlisten(id);
      }
      await stage.until(() => stage.dispatcher.status().listeners.length === 0);
      const again = await Promise.all(workers.map((worker) => worker.listenAt(anyPort)));
      assert.deepEqual(again[0], again[1]);
      assert.equal(stage.dispatcher.status().listeners.length, 1);
    }),
  );

  it(
    'is a path with the requested mode, and its file is removed with the last worker',
    onStage({}, async (stage) => {
      const path = `${stage.directory}/app`;
      const worker = await stage.join();
      const { id, address } = await worker.listenAt({ path, mode: 0o640 });
      assert.deepEqual(address, { path });
      assert.equal(statSync(path).mode & 0o777, 0o640);
      await worker.ready();
      await stage.client(address);
      await worker.handoffs(1);
      await worker.unlisten(id);
      await stage.next('unlistened');
      assert.equal(existsSync(path), false);
    }),
  );

  it(
    'is every address of this machine, including IPv6, when no host is given',
    { skip: withoutIpv6 },
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const { address } = await worker.listenAt({ ...anyPort, host: null });
      assert.ok('host' in address);
      assert.equal(address.host, '::');
      await worker.ready();
      for (const host of ['127.0.0.1', '::1']) await stage.client({ host, port: address.port });
      await worker.handoffs(2);
    }),
  );

  for (const [host, skip] of [
    ['::', withoutIpv6],
    ['0.0.0.0', false],
  ] as const) {
    it(
      `is the dispatcher's own at ${host} when no host is given, also for a draining worker`,
      { skip },
      onStage({}, async (stage) => {
        const own = await stage.dispatcher.listen({ host, port: 0 });
        assert.ok('port' in own);
        const wanted = { host: null, port: own.port, ipv6Only: false, index: 0 };
        const [worker, leaving] = [await stage.join(), await stage.join()];
        await leaving.ready();
        await leaving.say(encodeJson({ type: 'draining' }));
        const { id, address } = await leaving.listenAt(wanted);
        assert.deepEqual(address, own);
        await leaving.say(encodeJson({ type: 'unlisten', request: 7, listeners: [id] }));
        assert.equal((await leaving.next('unlistened')).open, true);
        assert.deepEqual(await worker.listenAt(wanted), { id, address });
        assert.equal(stage.dispatcher.status().listeners.length, 1);
      }),
    );
  }

  it(
    'is not the IPv4 one at that port when only IPv6 is wanted',
    { skip: withoutIpv6 },
    onStage({}, async (stage) => {
      const own = await stage.dispatcher.listen({ host: '0.0.0.0', port: 0 });
      assert.ok('port' in own);
      const worker = await stage.join();
      const { address } = await worker.listenAt({ host: null, port: own.port, ipv6Only: true, index: 0 });
      assert.deepEqual(address, { host: '::', port: own.port });
    }),
  );

  it(
    'is a socket that the dispatcher inherited, which stays open when the worker closes it',
    onStage({}, async (stage) => {
      await using inherited = await listen({ host: '127.0.0.1', port: 0 });
      const worker = await stage.join();
      const { id, address } = await worker.listenAt({ fd: inherited.fd });
      assert.deepEqual(address, inherited.address);
      await worker.unlisten(id);
      await stage.next('unlistened');
      await stage.client(address);
      (await inherited.accept()).close();
    }),
  );
});

describe('addresses under a last will, which has room for 1024 of them', { skip: withoutWill() }, () => {
  it(
    'can be opened and closed more often than that',
    onStage({ lastWill: true }, async (stage) => {
      const worker = await stage.join();
      for (let count = 0; count <= WILL_LISTENERS; count++) {
        const { id } = await worker.listenAt(anyPort);
        await worker.unlisten(id);
      }
    }),
  );

  it(
    'are opened beyond that limit, with a warning',
    onStage({ lastWill: true }, async (stage) => {
      const worker = await stage.join();
      for (let index = 0; index <= WILL_LISTENERS; index++) await worker.listenAt({ ...anyPort, index });
      assert.equal(stage.dispatcher.status().listeners.length, WILL_LISTENERS + 1);
      const [warning, ...others] = stage.warnings.splice(0);
      assert.match(String(warning), /no room for one more/);
      assert.deepEqual(others, []);
    }),
  );
});

describe('a dispatcher without a control socket', { skip: withoutWill() }, () => {
  it(
    'has its last will from the first address on',
    keepsDescriptors(async () => {
      await using dispatcher = new Dispatcher({ lastWill: true });
      await dispatcher.listen({ host: '127.0.0.1', port: 0 });
      // A process can have only one last will.
      assert.throws(() => LastWill.open(), { code: 'ERR_SYSTEM' });
    }),
  );
});

describe('a listen that fails', () => {
  it(
    "is answered with the system's error code, and the worker goes on",
    onStage({}, async (stage) => {
      await using taken = await listen({ host: '127.0.0.1', port: 0 });
      const takenPath = `${stage.directory}/taken`;
      await using other = await listen(takenPath);
      const worker = await stage.join();
      for (const [address, code] of [
        [{ ...anyPort, port: portOf(taken.address) }, 'EADDRINUSE'],
        [{ path: takenPath, mode: 0o600 }, 'EADDRINUSE'],
        [{ path: `${stage.directory}/missing/app`, mode: 0o600 }, 'ENOENT'],
        [{ ...anyPort, host: '192.0.2.1' }, 'EADDRNOTAVAIL'],
        [{ fd: NOBODYS_NUMBER }, 'EBADF'],
      ] as const) {
        const answer = await worker.listen(address);
        assert.ok(answer.type === 'listen-failed', JSON.stringify(answer));
        assert.deepEqual([answer.code, answer.reason !== ''], [code, true], JSON.stringify(address));
      }
      await worker.listenAt(anyPort);
      assert.equal(other.closed, false);
    }),
  );

  it(
    'is answered with a short reason, however long the path is',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const answer = await worker.listen({
        path: `${stage.directory}/${'long'.repeat(10_000)}`,
        mode: 0o600,
      });
      assert.ok(answer.type === 'listen-failed');
      assert.equal(answer.code, 'ENAMETOOLONG');
      assert.ok(answer.reason.length < 1000);
    }),
  );

  it(
    'may succeed the next time',
    onStage({}, async (stage) => {
      const taken = await listen({ host: '127.0.0.1', port: 0 });
      const wanted = { ...anyPort, port: portOf(taken.address) };
      const worker = await stage.join();
      assert.equal((await worker.listen(wanted)).type, 'listen-failed');
      await taken.close();
      await worker.listenAt(wanted);
    }),
  );
});

describe('an address at which no worker listens any more', () => {
  it(
    'is free, and clients that waited are closed',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const { id, address } = await worker.listenAt(anyPort);
      const client = await stage.client(address);
      const unlistened = stage.next('unlistened');
      await worker.unlisten(id);
      assert.deepEqual(await unlistened, [address]);
      await assert.rejects(connect(address), { code: 'ERR_CONNECTION_REFUSED' });
      await assert.rejects(client.receive(), { code: 'ERR_PEER_GONE' });
      await using successor = await listen(address);
      assert.deepEqual(successor.address, address);
    }),
  );

  it(
    'is kept while another worker listens there',
    onStage({}, async (stage) => {
      const [first, second] = [await stage.join(), await stage.join()];
      const { id, address } = await first.listenAt(anyPort);
      await second.listenAt(anyPort);
      await second.ready();
      await first.unlisten(id);
      await turns();
      await stage.client(address);
      await second.handoffs(1);
    }),
  );

  it(
    'is kept when its worker died without closing it: clients wait for the next worker',
    onStage({}, async (stage) => {
      const dying = await stage.join();
      const { address } = await dying.listenAt(anyPort);
      const left = stage.next('left');
      dying.die();
      await left;
      const client = await stage.client(address);
      assert.equal(backlogOf(address), 1);
      const next = await stage.join();
      assert.deepEqual((await next.listenAt(anyPort)).address, address);
      await next.ready();
      const [connection] = await next.handoffs(1);
      assert.deepEqual(connection?.remoteAddress, client.localAddress);
    }),
  );

  it(
    'is kept when a draining worker closes it: another will come',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const { id, address } = await worker.listenAt(anyPort);
      await worker.say(
        encodeJson({ type: 'draining' }),
        encodeJson({ type: 'unlisten', listeners: [id] }),
        encodeJson({ type: 'capacity', capacity: 0 }),
      );
      await stage.dispatcher.drainWorker(worker.id);
      await stage.client(address);
      assert.equal(backlogOf(address), 1);
      const next = await stage.join();
      assert.deepEqual((await next.listenAt(anyPort)).address, address);
      await next.ready();
      await next.handoffs(1);
    }),
  );

  it(
    'leaves no client waiting that its worker had not adopted',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const { id, address } = await worker.listenAt(anyPort);
      await worker.ready();
      const clients = await stage.clients(2, address);
      await worker.handoffs(2);
      worker.closeConnections();
      const refused = stage.next('refused');
      await worker.say(encodeJson({ type: 'unlisten', listeners: [id] }), encodeRefused(1, 'not-listening'));
      const [{ count }] = await refused;
      assert.equal(count, 1);
      const [first, second] = clients.map((client) => receivedText(client));
      assert.ok(first && second);
      assert.equal(await first, null);
      assert.equal(await isPending(second), true);
      worker.die();
      assert.equal(await second, null);
      const { connections } = stage.dispatcher.status();
      assert.deepEqual([connections.waiting, connections.refused], [0, 2]);
    }),
  );

  for (const [what, wanted] of [
    ['a port', anyPort],
    ['a path', 'path'],
  ] as const) {
    it(
      `can be asked for again at once: ${what}`,
      onStage({}, async (stage) => {
        const worker = await stage.join();
        const first = wanted === 'path' ? { path: `${stage.directory}/app`, mode: 0o600 } : wanted;
        const { id, address } = await worker.listenAt(first);
        const again = 'port' in address ? { ...anyPort, port: address.port } : first;
        await worker.say(
          encodeJson({ type: 'unlisten', listeners: [id] }),
          encodeJson({ type: 'listen', request: 2, address: again, backlog: 16 }),
        );
        const answer = await worker.message();
        assert.equal(answer?.type, 'listening', JSON.stringify(answer));
        await worker.ready();
        await stage.client(address);
        await worker.handoffs(1);
      }),
    );
  }
});

describe("an address of the dispatcher's own", () => {
  it(
    'stays open when workers close it',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await worker.unlisten(0);
      const client = await stage.client();
      await turns();
      const [listener] = stage.dispatcher.status().listeners;
      assert.equal(listener?.accepted, 0);
      const next = await stage.joinServing();
      const [connection] = await next.handoffs(1);
      assert.deepEqual(connection?.remoteAddress, client.localAddress);
    }),
  );

  it(
    'may be a listening socket that this process inherited',
    onStage({}, async (stage) => {
      await using inherited = await listen({ host: '127.0.0.1', port: 0 });
      using file = new Descriptor(inherited.duplicate().release());
      const address = await stage.dispatcher.listen({ fd: file.fd });
      assert.deepEqual(address, inherited.address);
      assert.equal(file.closed, false);
      const worker = await stage.join();
      await worker.serve();
      await stage.client(address);
      await worker.handoffs(1);
      await assert.rejects(stage.dispatcher.listen({ fd: NOBODYS_NUMBER }), {
        code: 'ERR_DESCRIPTOR_CLOSED',
      });
    }),
  );
});
