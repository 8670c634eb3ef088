// How a dispatcher and its workers end: drained, without a connection lost; or closed, without a descriptor left.
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { describe, it } from 'node:test';

import { connect, socketPair, type PassfdError } from '../../../src/fd/index.js';
import { Dispatcher } from '../../../src/dispatcher/index.js';
import { encodeAdopted, encodeClosed, encodeJson } from '../../../src/handoff/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { backlogOf, onStage } from '../../support/dispatcher-stage.js';
import { failsWith } from '../../support/errors.js';
import { FakeWorker } from '../../support/fake-worker.js';
import { temporaryDirectory } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { receivedText } from '../../support/stream.js';

describe('drainWorker', () => {
  it(
    'gives the worker nothing new, and resolves when its last connection is closed',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.clients(3);
      await worker.handoffs(3);
      await worker.adopt(2);
      await stage.until(() => stage.dispatcher.status().connections.adopted === 2);
      const draining = stage.next('draining');
      const drained = stage.dispatcher.drainWorker(worker.id);
      assert.equal((await draining)[0].id, worker.id);
      await worker.next('drain');
      const late = await stage.client();
      assert.equal(await isPending(drained), true);
      await worker.say(encodeClosed(2));
      assert.equal(await isPending(drained), true);
      await worker.adopt(3);
      assert.equal(await isPending(drained), true);
      await worker.sayClosed(3);
      await drained;
      const other = await stage.joinServing();
      const [connection] = await other.handoffs(1);
      assert.deepEqual(connection?.remoteAddress, late.localAddress);
    }),
  );

  it(
    'resolves at once for a worker that has nothing open, and when the worker ends',
    onStage({}, async (stage) => {
      const idle = await stage.joinServing();
      await stage.dispatcher.drainWorker(idle.id);
      const busy = await stage.joinServing();
      await stage.client();
      await busy.handoffs(1);
      const drained = [stage.dispatcher.drainWorker(busy.id), stage.dispatcher.drainWorker(busy.id)];
      assert.equal(await isPending(Promise.race(drained)), true);
      await busy.next('drain');
      busy.die();
      await Promise.all(drained);
    }),
  );

  it(
    'resolves for every caller',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      const drained = Array.from({ length: 20_000 }, () => stage.dispatcher.drainWorker(worker.id));
      await worker.adopt();
      await worker.sayClosed(1);
      await Promise.all(drained);
    }),
  );

  it(
    'gives another worker the connections that this one refuses',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      const client = await stage.client();
      await worker.handoffs(1);
      const drained = stage.dispatcher.drainWorker(worker.id);
      await worker.next('drain');
      await worker.refuse('draining');
      await drained;
      const other = await stage.joinServing();
      const [connection] = await other.handoffs(1);
      assert.deepEqual(connection?.remoteAddress, client.localAddress);
    }),
  );

  it(
    'goes on when its signal ends the waiting',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      const giveUp = new AbortController();
      const drained = stage.dispatcher.drainWorker(worker.id, { signal: giveUp.signal });
      giveUp.abort(new Error('too long'));
      await assert.rejects(drained, { message: 'too long' });
      assert.equal(stage.dispatcher.workers[0]?.state, 'draining');
    }),
  );

  it(
    'does not begin when its signal is aborted already',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      const signal = AbortSignal.abort(new Error('too late'));
      await assert.rejects(stage.dispatcher.drainWorker(worker.id, { signal }), { message: 'too late' });
      assert.equal(stage.dispatcher.workers[0]?.state, 'ready');
    }),
  );

  it(
    'rejects for a worker that does not exist',
    onStage({}, async ({ dispatcher }) => {
      await assert.rejects(
        dispatcher.drainWorker(1),
        failsWith('ERR_NO_WORKER', /no worker 1\. Workers: none/),
      );
    }),
  );

  it(
    'can be begun by the worker itself',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await stage.joinServing();
      const draining = stage.next('draining');
      await worker.say(encodeJson({ type: 'draining' }));
      await draining;
      assert.equal(stage.dispatcher.workers[0]?.state, 'draining');
      await stage.client();
      await turns();
      assert.equal(backlogOf(address), 1);
      await worker.ready();
      await turns();
      assert.equal(backlogOf(address), 1);
    }),
  );
});

describe('stopAccepting', () => {
  it(
    'hands off what waits in the kernel, frees the addresses, and resolves when all have a worker',
    onStage({}, async (stage) => {
      const { dispatcher } = stage;
      const address = await stage.address();
      const worker = await stage.joinServing({ window: 1 });
      const clients = await stage.clients(4);
      await worker.handoffs(1);
      const stopped = dispatcher.stopAccepting();
      await stage.next('unlistened');
      await assert.rejects(connect(address), { code: 'ERR_CONNECTION_REFUSED' });
      assert.deepEqual(dispatcher.status().listeners, []);
      assert.equal(dispatcher.status().connections.waiting, 3);
      for (const [index, client] of clients.slice(1).entries()) {
        assert.equal(await isPending(stopped), true);
        await worker.adopt();
        const [connection] = await worker.handoffs(1);
        assert.deepEqual(connection?.remoteAddress, client.localAddress, String(index));
      }
      await stopped;
      assert.equal(dispatcher.status().connections.refused, 0);
    }),
  );

  it(
    'hands off first what comes back from a worker that died: it has waited the longest',
    onStage({}, async (stage) => {
      const dying = await stage.joinServing({ window: 1 });
      const heir = await stage.joinServing({ window: 1 });
      const clients = await stage.clients(3);
      const given = [...(await dying.handoffs(1)), ...(await heir.handoffs(1))];
      const stopped = stage.dispatcher.stopAccepting();
      await stage.next('unlistened');
      const left = stage.next('left');
      dying.die();
      await left;
      await heir.adopt();
      const [first] = await heir.handoffs(1);
      await heir.adopt();
      const [second] = await heir.handoffs(1);
      await stopped;
      assert.equal(given.length, 2);
      assert.deepEqual(
        [first?.remoteAddress, second?.remoteAddress],
        [clients[0]?.localAddress, clients[2]?.localAddress],
      );
    }),
  );

  it(
    'waits no longer for a worker than its time limit; close then closes the connections that are left',
    onStage({}, async (stage) => {
      await stage.address();
      const client = await stage.client();
      await stage.dispatcher.stopAccepting({ timeoutMs: 1 });
      assert.equal(stage.dispatcher.status().connections.waiting, 1);
      const refused = stage.next('refused');
      await stage.dispatcher.close();
      assert.deepEqual(await refused, [{ count: 1, reason: 'the dispatcher is closed' }]);
      assert.equal(await receivedText(client), null);
    }),
  );
});

describe('close', () => {
  it(
    'leaves nothing open, whatever is under way, and does nothing the second time',
    onStage({}, async (stage) => {
      const { dispatcher } = stage;
      await dispatcher.openRawControl(`${stage.directory}/raw`);
      const address = await stage.address();
      const worker = await stage.joinServing({ window: 2 });
      const children = [socketPair(), socketPair()];
      for (const [index, [here, there]] of children.entries()) {
        dispatcher.addChild(here, { id: 10 + index, pid: 1 });
        stage.own(there);
      }
      const clients = await stage.clients(4);
      await worker.handoffs(2);
      await worker.adopt(1);
      await worker.handoffs(1);
      const raw = stage.own(await connect(`${stage.directory}/raw`));
      await stage.until(() =>
        dispatcher.workers.some(({ inFlight, dialect }) => inFlight > 0 && dialect === 'raw'),
      );
      await Promise.all([dispatcher.close(), dispatcher.close()]);
      assert.equal(await worker.message(), null);
      for (const [, there] of children) assert.equal(await receivedText(there), null);
      await assert.rejects(connect(address), { code: 'ERR_CONNECTION_REFUSED' });
      await assert.rejects(connect(stage.control), { code: 'ERR_ADDRESS_MISSING' });
      await assert.rejects(connect(`${stage.directory}/raw`), { code: 'ERR_ADDRESS_MISSING' });
      // Connections that the workers have received belong to them, adopted or not.
      raw.destroy();
      worker.closeConnections();
      for (const client of clients) assert.equal(await receivedText(client), null);
      await dispatcher.close();
    }),
  );

  it(
    'reports that the service stopped as the reason why its workers left',
    onStage({}, async (stage) => {
      const reasons: string[] = [];
      stage.dispatcher.on('left', (_worker, { reason }) => reasons.push(reason));
      await stage.join();
      const serving = await stage.joinServing();
      await stage.client();
      await serving.handoffs(1);
      stage.own(await FakeWorker.child(stage.dispatcher, 10));
      await stage.dispatcher.close();
      const stopped = 'the service stopped';
      assert.deepEqual(reasons, [stopped, stopped, stopped]);
    }),
  );

  for (let before = 0; before < 6; before++) {
    it(
      `also closes an address that is being opened for a worker, ${before} turns after the request`,
      onStage({}, async (stage) => {
        const worker = await stage.join();
        const path = `${stage.directory}/app`;
        await worker.askToListen({ path, mode: 0o600 });
        await turns(before);
        await stage.dispatcher.close();
        await assert.rejects(connect(path), { code: 'ERR_ADDRESS_MISSING' });
        assert.deepEqual(stage.dispatcher.status().listeners, []);
      }),
    );
  }

  it(
    'is final: nothing can be opened after it, or during it',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const anywhere = { host: 'localhost', port: 0 };
      const calls = (dispatcher: Dispatcher): Promise<unknown>[] => [
        dispatcher.listen(anywhere),
        dispatcher.listen(`${directory.path}/listener`),
        dispatcher.openControl(`${directory.path}/control`),
        dispatcher.openRawControl(`${directory.path}/raw`),
      ];
      for (const isBehind of [false, true]) {
        const dispatcher = new Dispatcher();
        if (isBehind) await dispatcher.close();
        const opening = Promise.allSettled(calls(dispatcher));
        await dispatcher.close();
        for (const outcome of await opening) {
          assert.equal(outcome.status === 'rejected' && (outcome.reason as PassfdError).code, 'ERR_CLOSED');
        }
        assert.deepEqual(readdirSync(directory.path), []);
        assert.deepEqual(dispatcher.status().listeners, []);
        const [here, there] = socketPair();
        dispatcher.addChild(here, { id: 1, pid: process.pid });
        assert.equal(await receivedText(there), null);
        there.destroy();
      }
    }),
  );

  it(
    'admits no worker that was waiting',
    onStage({}, async (stage) => {
      await using next = new Dispatcher();
      const path = `${stage.directory}/next`;
      // The dispatcher waits for this process, which never returns as a worker.
      const open = next.openControl(path, { awaited: [{ id: 1, pid: process.pid }] }).catch(() => undefined);
      await stage.until(() => existsSync(path));
      const worker = stage.own(new FakeWorker(await connect(path)));
      const isTurnedAway = assert.rejects(worker.sayHello());
      await turns();
      await next.close();
      await isTurnedAway;
      await open;
      assert.deepEqual(next.workers, []);
    }),
  );

  it(
    'is all that an unused dispatcher needs',
    keepsDescriptors(async () => {
      await using dispatcher = new Dispatcher();
      assert.deepEqual(dispatcher.workers, []);
    }),
  );
});

describe('status', () => {
  it(
    'reports what is open and what was counted',
    onStage({ control: { handshakeTimeoutMs: 1000 } }, async (stage) => {
      const { dispatcher } = stage;
      const address = await stage.address();
      assert.ok('port' in address);
      const refused = stage.next('peerRefused');
      stage.own(await connect(stage.control));
      await refused;
      const worker = await stage.joinServing({ window: 3 });
      await stage.clients(4);
      await worker.handoffs(3);
      await worker.say(encodeAdopted(2), encodeClosed(1));
      await worker.handoffs(1);
      await stage.until(() => dispatcher.workers[0]?.inFlight === 2);
      const { version, uptimeMs, ...rest } = dispatcher.status();
      assert.match(version, /^\d+\.\d+\.\d+$/);
      assert.ok(Number.isInteger(uptimeMs) && uptimeMs >= 0);
      assert.deepEqual(rest, {
        pid: process.pid,
        generation: 1,
        listeners: [{ address: `127.0.0.1:${address.port}`, accepted: 4 }],
        connections: { accepted: 4, adopted: 2, redelivered: 0, refused: 0, waiting: 0, inFlight: 2 },
        workers: [
          {
            id: 1,
            pid: process.pid,
            dialect: 'passfd',
            state: 'ready',
            adopted: 2,
            active: 1,
            inFlight: 2,
            watching: null,
            loopDelayMs: null,
          },
        ],
        peers: { refused: 1 },
      });
    }),
  );
});

describe('the events of a dispatcher', () => {
  it(
    'report the life of a worker, in order',
    onStage({}, async (stage) => {
      const told: string[] = [];
      for (const name of ['joined', 'ready', 'draining', 'left'] as const) {
        stage.dispatcher.on(name, (worker: { readonly id: number }) => told.push(`${name} ${worker.id}`));
      }
      const worker = stage.own(await FakeWorker.child(stage.dispatcher, 1));
      await worker.serve();
      await stage.until(() => told.length === 2);
      await stage.dispatcher.drainWorker(1);
      const left = stage.next('left');
      worker.die();
      await left;
      assert.deepEqual(told, ['joined 1', 'ready 1', 'draining 1', 'left 1']);
    }),
  );

  it(
    'may have a listener that throws: that worker gets a farewell, and the others go on',
    onStage({}, async (stage) => {
      const victim = await stage.join();
      stage.dispatcher.once('ready', () => {
        throw new RangeError('of the listener');
      });
      const left = stage.next('left');
      await victim.ready();
      const farewell = await victim.next('farewell');
      assert.deepEqual([farewell.code, farewell.reason], ['ERR_DISPATCHER', 'RangeError: of the listener']);
      assert.deepEqual((await left)[1], { redelivered: 0, reason: 'RangeError: of the listener' });
      await stage.until(() => stage.warnings.length > 0);
      assert.match(String(stage.warnings.pop()), /RangeError: of the listener/);
      const other = await stage.joinServing();
      await stage.client();
      await other.handoffs(1);
    }),
  );
});
