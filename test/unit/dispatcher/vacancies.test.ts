// Addresses that no worker serves any more: how long they stay open for a worker that may come, and what follows.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, it } from 'node:test';

import { remainingMs } from '../../../src/dispatcher/vacancies.js';
import { connect, listen } from '../../../src/fd/index.js';
import { encodeJson, type Listening } from '../../../src/handoff/index.js';
import { failsWith } from '../../support/errors.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import type { FakeWorker } from '../../support/fake-worker.js';
import { turns } from '../../support/loop.js';

const anyPort = { host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 };
const anotherPort = { ...anyPort, index: 1 };

/** Longer than a test takes. */
const LONG = { readyTimeoutMs: 600_000 };
const SHORT = { readyTimeoutMs: 1 };

/** A worker that serves these addresses, and is ready. */
async function joinServing(
  stage: Stage,
  ...addresses: (typeof anyPort | { path: string; mode: number })[]
): Promise<{ readonly worker: FakeWorker; readonly listening: Listening[] }> {
  const worker = await stage.join();
  const listening: Listening[] = [];
  for (const address of addresses) listening.push(await worker.listenAt(address));
  const ready = stage.next('ready');
  await worker.ready();
  await ready;
  return { worker, listening };
}

describe('an address that no worker serves', () => {
  const since = 1000;
  const staff = { isAnyReady: true, isAnyStarting: false };

  it('is closed at once when its workers were told to leave, and all others are ready', () => {
    assert.equal(remainingMs({ since, isLoss: false }, staff, since, 500), 0);
  });

  const expected = [
    ['a worker that has died is started again', { since, isLoss: true }, staff],
    ['a worker is starting', { since, isLoss: false }, { isAnyReady: true, isAnyStarting: true }],
    ['there is no worker at all', { since, isLoss: false }, { isAnyReady: false, isAnyStarting: false }],
  ] as const;
  for (const [what, vacancy, present] of expected) {
    it(`stays open for its time while ${what}`, () => {
      assert.equal(remainingMs(vacancy, present, since + 100, 500), 400);
      assert.equal(remainingMs(vacancy, present, since + 500, 500), 0);
      assert.equal(remainingMs(vacancy, present, since + 900, 500), 0);
    });
  }
});

describe('an address whose last worker has left', () => {
  it(
    'is closed when that worker was told to leave: clients are refused, and other addresses stay',
    onStage(LONG, async (stage) => {
      const { worker, listening } = await joinServing(stage, anyPort, anotherPort);
      await joinServing(stage, anyPort);
      const released = stage.next('released');
      const drained = stage.dispatcher.drainWorker(worker.id);
      const [address, how] = await released;
      assert.deepEqual([address, how], [listening[1]?.address, { isLate: false }]);
      await drained;
      await stage.until(() => stage.dispatcher.status().listeners.length === 1);
      await assert.rejects(connect(address), failsWith('ERR_CONNECTION_REFUSED', /./));
    }),
  );

  it(
    'is closed when the worker that had asked for it drains and closes it before it has served it',
    onStage(LONG, async (stage) => {
      await joinServing(stage, anyPort);
      const worker = await stage.join();
      await worker.ready();
      await worker.say(encodeJson({ type: 'draining' }));
      const shared = await worker.listenAt(anyPort);
      const alone = await worker.listenAt(anotherPort);
      await worker.say(
        encodeJson({ type: 'unlisten', request: 7, listeners: [alone.id] }),
        encodeJson({ type: 'unlisten', request: 8, listeners: [shared.id] }),
      );
      assert.equal((await worker.next('unlistened')).open, undefined);
      await assert.rejects(connect(alone.address), failsWith('ERR_CONNECTION_REFUSED', /./));
      assert.equal((await worker.next('unlistened')).open, true);
      await stage.client(shared.address);
    }),
  );

  for (const [who, others] of [
    ['a worker beside another one that is ready', 1],
    ['the only worker', 0],
  ] as const) {
    it(
      `is closed, and the answer says so, when ${who} has to drain before it has served it`,
      onStage(LONG, async (stage) => {
        for (let count = 0; count < others; count++) await joinServing(stage, anyPort);
        const { worker } = await joinServing(stage, anyPort);
        const asked = await worker.listenAt(anotherPort);
        const drained = stage.dispatcher.drainWorker(worker.id);
        await worker.next('drain');
        await worker.say(encodeJson({ type: 'unlisten', request: 7, listeners: [asked.id] }));
        assert.equal((await worker.next('unlistened')).open, undefined);
        await assert.rejects(connect(asked.address), failsWith('ERR_CONNECTION_REFUSED', /./));
        await drained;
      }),
    );
  }

  it(
    'is closed when its worker reports during the drain that it serves it, and then closes it',
    onStage(LONG, async (stage) => {
      const { worker } = await joinServing(stage, anyPort);
      const asked = await worker.listenAt(anotherPort);
      const drained = stage.dispatcher.drainWorker(worker.id);
      await worker.ready();
      await worker.next('drain');
      await worker.say(encodeJson({ type: 'unlisten', request: 7, listeners: [asked.id] }));
      assert.equal((await worker.next('unlistened')).open, undefined);
      await assert.rejects(connect(asked.address), failsWith('ERR_CONNECTION_REFUSED', /./));
      await drained;
    }),
  );

  it(
    'is not reported as open when the drain has closed it while its worker has another server there',
    onStage(LONG, async (stage) => {
      await joinServing(stage, anotherPort);
      const { worker, listening } = await joinServing(stage, anyPort);
      const [site] = listening;
      assert.ok(site);
      assert.deepEqual(await worker.listenAt(anyPort), site);
      const unlistened = stage.next('unlistened');
      const drained = stage.dispatcher.drainWorker(worker.id);
      await unlistened;
      await worker.next('drain');
      await worker.say(encodeJson({ type: 'unlisten', request: 7, listeners: [site.id] }));
      assert.equal((await worker.next('unlistened')).open, undefined);
      await drained;
    }),
  );

  it(
    'stays open when another process has made its socket, and its worker drains',
    onStage(LONG, async (stage) => {
      await joinServing(stage, anyPort);
      await using kept = await listen({ host: '127.0.0.1', port: 0 });
      const { address } = kept;
      assert.ok('port' in address);
      await stage.dispatcher.offer([{ descriptor: kept.duplicate(), isInherited: true }]);
      const { worker, listening } = await joinServing(stage, { ...anyPort, port: address.port });
      assert.deepEqual(listening[0]?.address, address);
      const drained = stage.dispatcher.drainWorker(worker.id);
      await worker.next('drain');
      await worker.say(encodeJson({ type: 'unlisten', request: 7, listeners: [listening[0].id] }));
      assert.equal((await worker.next('unlistened')).open, true);
      assert.equal(stage.dispatcher.status().listeners.length, 2);
      await drained;
    }),
  );

  it(
    'has its file removed, and no worker keeps its socket',
    onStage(LONG, async (stage) => {
      const path = `${stage.directory}/app`;
      const custodian = await stage.join({ custody: true });
      await custodian.ready();
      const { worker, listening } = await joinServing(stage, { path, mode: 0o600 });
      const { listener } = await custodian.entrusted();
      assert.equal(listener, listening[0]?.id);
      assert.equal(existsSync(path), true);
      const unlistened = stage.next('unlistened');
      const drained = stage.dispatcher.drainWorker(worker.id);
      await unlistened;
      assert.equal(existsSync(path), false);
      assert.deepEqual((await custodian.next('release')).listeners, [listener]);
      await drained;
    }),
  );

  it(
    'waits for another worker when that one has died: a client that came meanwhile is served',
    onStage(LONG, async (stage) => {
      await joinServing(stage, anotherPort);
      const { worker, listening } = await joinServing(stage, anyPort);
      const [first] = listening;
      assert.ok(first);
      const left = stage.next('left');
      worker.die();
      await left;
      await stage.client(first.address);
      // A worker that only tests whether the port is free does not close the address.
      const heir = await stage.join();
      const { id } = await heir.listenAt(anyPort);
      await heir.unlisten(id);
      await turns();
      assert.deepEqual((await heir.listenAt(anyPort)).address, first.address);
      await heir.ready();
      await heir.handoffs(1);
    }),
  );

  it(
    'is closed when that worker has died and no other came in time',
    onStage(SHORT, async (stage) => {
      const { worker, listening } = await joinServing(stage, anyPort);
      const released = stage.next('released');
      const unlistened = stage.next('unlistened');
      worker.die();
      assert.deepEqual(await released, [listening[0]?.address, { isLate: true }]);
      await unlistened;
      assert.deepEqual(stage.dispatcher.status().listeners, []);
    }),
  );

  it(
    'stays open while a child is expected, although all others are ready, and is closed when none is expected',
    onStage(LONG, async (stage) => {
      const { worker, listening } = await joinServing(stage, anyPort);
      await joinServing(stage, anotherPort);
      const [site] = listening;
      assert.ok(site);
      stage.dispatcher.expectChildren(1);
      await stage.dispatcher.drainWorker(worker.id);
      await stage.client(site.address);
      const released = stage.next('released');
      const unlistened = stage.next('unlistened');
      stage.dispatcher.expectChildren(0);
      assert.deepEqual(await released, [site.address, { isLate: false }]);
      await unlistened;
      await assert.rejects(connect(site.address), failsWith('ERR_CONNECTION_REFUSED', /./));
    }),
  );

  it(
    'stays open when that worker has closed it while a child is expected; a worker that only tried the port closes it',
    onStage(LONG, async (stage) => {
      stage.dispatcher.expectChildren(1);
      const { worker, listening } = await joinServing(stage, anyPort);
      const [site] = listening;
      assert.ok(site);
      const other = await worker.listenAt(anotherPort);
      const unlistened = stage.next('unlistened');
      await worker.unlisten(other.id);
      assert.deepEqual(await unlistened, [other.address]);
      await worker.unlisten(site.id);
      await turns();
      await stage.client(site.address);
      const heir = await stage.join();
      assert.deepEqual(await heir.listenAt(anyPort), site);
      await heir.ready();
      await heir.handoffs(1);
    }),
  );

  it(
    'is opened again when that worker had closed it and has ended; another worker gets it with the waiting clients',
    onStage(LONG, async (stage) => {
      const { worker, listening } = await joinServing(stage, anyPort);
      const [site] = listening;
      assert.ok(site);
      const [view] = stage.dispatcher.workers;
      assert.ok(view);
      const unlistened = stage.next('unlistened');
      await worker.unlisten(site.id);
      await unlistened;
      const left = stage.next('left');
      worker.die();
      await left;
      stage.dispatcher.expectChildren(1);
      const opened = stage.next('listening');
      stage.dispatcher.reopen(view);
      assert.deepEqual((await opened)[0], site.address);
      await stage.client(site.address);
      const heir = await stage.join();
      // A worker that only tests whether the port is free does not close the address.
      await heir.unlisten((await heir.listenAt(anyPort)).id);
      assert.deepEqual((await heir.listenAt(anyPort)).address, site.address);
      await heir.ready();
      await heir.handoffs(1);
    }),
  );

  it(
    'is left to another program that has it by then',
    onStage(LONG, async (stage) => {
      const { worker, listening } = await joinServing(stage, anyPort);
      const [site] = listening;
      assert.ok(site);
      const [view] = stage.dispatcher.workers;
      assert.ok(view);
      const unlistened = stage.next('unlistened');
      await worker.unlisten(site.id);
      await unlistened;
      await using other = await listen(site.address);
      stage.dispatcher.reopen(view);
      await turns();
      assert.deepEqual(stage.dispatcher.status().listeners, []);
      assert.equal(other.closed, false);
    }),
  );

  it(
    "stays open when it is the dispatcher's own",
    onStage(SHORT, async (stage) => {
      const worker = await stage.joinServing();
      const left = stage.next('left');
      worker.die();
      await left;
      await turns();
      assert.equal(stage.dispatcher.status().listeners.length, 1);
    }),
  );
});
