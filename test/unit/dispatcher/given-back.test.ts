// Addresses that a worker closed and no other worker serves: what its next process must serve, and what is reopened.
import assert from 'node:assert/strict';
import { mkdirSync, rmdirSync } from 'node:fs';
import { describe, it } from 'node:test';

import type { WorkerView } from '../../../src/dispatcher/workers/worker-handle.js';
import { connect, listen, PassfdError, type Address } from '../../../src/fd/index.js';
import { encodeJson, type Listening } from '../../../src/handoff/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import { failsWith } from '../../support/errors.js';
import type { FakeWorker } from '../../support/fake-worker.js';

const site = { host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 };
const metrics = { ...site, index: 1 };

/** Longer than a test takes. */
const LONG = { readyTimeoutMs: 600_000 };
const SHORT = { readyTimeoutMs: 1 };

interface Serving {
  readonly worker: FakeWorker;
  readonly view: WorkerView;
  readonly listening: readonly Listening[];
  readonly addresses: readonly Address[];
}

/** A worker that serves these addresses, and is ready. */
async function joinServing(
  stage: Stage,
  ...wanted: readonly (typeof site | { path: string; mode: number })[]
): Promise<Serving> {
  const worker = await stage.join();
  const listening: Listening[] = [];
  for (const address of wanted) listening.push(await worker.listenAt(address));
  const ready = stage.next('ready');
  await worker.ready();
  const [view] = await ready;
  return { worker, view, listening, addresses: listening.map(({ address }) => address) };
}

/** Closes its servers there, and waits until the dispatcher knows. */
async function giveBack(
  { worker }: Serving,
  ...listening: readonly (Listening | undefined)[]
): Promise<void> {
  const listeners = listening.flatMap((one) => (one ? [one.id] : []));
  await worker.say(encodeJson({ type: 'unlisten', request: 1000, listeners }));
  await worker.next('unlistened');
}

/** Ends as a process that has closed all its servers. Another process follows. */
async function recycle(stage: Stage, serving: Serving): Promise<void> {
  await giveBack(serving, ...serving.listening);
  const left = stage.next('left');
  serving.worker.die();
  await left;
  stage.dispatcher.reopen(serving.view);
  await stage.until(() => stage.dispatcher.status().listeners.length >= serving.listening.length);
}

async function isRefused(address: Address | undefined): Promise<void> {
  assert.ok(address);
  await assert.rejects(connect(address), failsWith('ERR_CONNECTION_REFUSED', /./));
}

describe('the successor of a worker that has closed all its servers has to serve', () => {
  it(
    'every address of that worker, though all were closed before it ended',
    onStage(LONG, async (stage) => {
      const { dispatcher } = stage;
      const old = await joinServing(stage, site, metrics);
      await giveBack(old, ...old.listening);
      assert.deepEqual(dispatcher.status().listeners, []);
      const other = await joinServing(stage, metrics);
      assert.deepEqual(dispatcher.missing(other.view, old.view), [old.addresses[0]]);
    }),
  );

  it(
    'those that were opened again when it had ended, until their time is over',
    onStage(LONG, async (stage) => {
      const { dispatcher } = stage;
      const old = await joinServing(stage, site, metrics);
      await recycle(stage, old);
      const other = await joinServing(stage, metrics);
      assert.deepEqual(dispatcher.missing(other.view, old.view), [old.addresses[0]]);
      const ready = stage.next('serving');
      const { address } = await other.worker.listenAt(site);
      await other.worker.ready();
      await ready;
      assert.deepEqual([address, dispatcher.missing(other.view, old.view)], [old.addresses[0], []]);
    }),
  );

  it(
    'none that was opened again and closed after its time',
    onStage(SHORT, async (stage) => {
      const old = await joinServing(stage, site);
      await giveBack(old, ...old.listening);
      const left = stage.next('left');
      old.worker.die();
      await left;
      const other = await joinServing(stage, metrics);
      const unlistened = stage.next('unlistened');
      stage.dispatcher.reopen(old.view);
      await unlistened;
      assert.deepEqual(stage.dispatcher.missing(other.view, old.view), []);
    }),
  );

  it(
    'also the address that another program has by then',
    onStage(LONG, async (stage) => {
      const old = await joinServing(stage, site, metrics);
      const [first] = old.addresses;
      assert.ok(first);
      await giveBack(old, ...old.listening);
      await using program = await listen(first);
      const left = stage.next('left');
      old.worker.die();
      await left;
      const opened = stage.next('listening');
      stage.dispatcher.reopen(old.view);
      await opened;
      const other = await joinServing(stage, metrics);
      assert.deepEqual(stage.dispatcher.missing(other.view, old.view), [first]);
      assert.equal(program.closed, false);
    }),
  );
});

describe('the successor of a worker that still serves has to serve', () => {
  it(
    'none that the worker has closed for good',
    onStage(LONG, async (stage) => {
      const old = await joinServing(stage, site, metrics);
      await giveBack(old, old.listening[0]);
      const other = await joinServing(stage, metrics);
      assert.deepEqual(stage.dispatcher.missing(other.view, old.view), []);
      // The same holds when the worker drains.
      old.worker.say(encodeJson({ type: 'draining' })).catch(() => undefined);
      await stage.next('draining');
      await giveBack(old, old.listening[1]);
      assert.deepEqual(stage.dispatcher.missing(other.view, old.view), []);
    }),
  );

  it(
    'one that the worker has closed and that stays open for an expected child',
    onStage(LONG, async (stage) => {
      const { dispatcher } = stage;
      const old = await joinServing(stage, site, metrics);
      dispatcher.expectChildren(1);
      await giveBack(old, old.listening[0]);
      const other = await joinServing(stage, metrics);
      assert.deepEqual(dispatcher.missing(other.view, old.view), [old.addresses[0]]);
      // It is not closed either when the child is ready at another address: it may listen there in a moment.
      dispatcher.expectChildren(0);
      await stage.client(old.addresses[0]);
    }),
  );
});

describe('the successor of a worker whose predecessor died has to serve', () => {
  it(
    'also the addresses of the predecessor, while they are kept open without a worker',
    onStage(LONG, async (stage) => {
      const { dispatcher } = stage;
      const last = await joinServing(stage, site, metrics);
      const left = stage.next('left');
      last.worker.die();
      await left;
      const old = await joinServing(stage, metrics);
      const other = await joinServing(stage, metrics);
      assert.deepEqual(dispatcher.missing(other.view, old.view), []);
      assert.deepEqual(dispatcher.missing(other.view, old.view, last.view), [last.addresses[0]]);
      await joinServing(stage, site);
      assert.deepEqual(dispatcher.missing(other.view, old.view, last.view), []);
    }),
  );
});

describe('an address that was opened again', () => {
  it(
    'stays open when the next process is ready at another one first',
    onStage(LONG, async (stage) => {
      const { dispatcher } = stage;
      const old = await joinServing(stage, site, metrics);
      dispatcher.expectChildren(1);
      await recycle(stage, old);
      await stage.client(old.addresses[0]);
      const { worker } = await joinServing(stage, metrics);
      dispatcher.expectChildren(0);
      await stage.client(old.addresses[0]);
      assert.deepEqual((await worker.listenAt(site)).address, old.addresses[0]);
      await worker.ready();
      await worker.handoffs(2);
    }),
  );

  it(
    'is closed when no worker asks for it in time',
    onStage(SHORT, async (stage) => {
      const old = await joinServing(stage, site);
      await giveBack(old, ...old.listening);
      const left = stage.next('left');
      old.worker.die();
      await left;
      await joinServing(stage, metrics);
      const released = stage.next('released');
      const unlistened = stage.next('unlistened');
      stage.dispatcher.reopen(old.view);
      assert.deepEqual(await released, [old.addresses[0], { isLate: true }]);
      await unlistened;
      await isRefused(old.addresses[0]);
    }),
  );

  it(
    'is reported when it cannot be opened',
    onStage(LONG, async (stage) => {
      const directory = `${stage.directory}/removed`;
      mkdirSync(directory);
      const old = await joinServing(stage, { path: `${directory}/socket`, mode: 0o600 });
      await giveBack(old, ...old.listening);
      rmdirSync(directory);
      const left = stage.next('left');
      old.worker.die();
      await left;
      const warned = stage.next('warned');
      stage.dispatcher.reopen(old.view);
      const [error] = await warned;
      stage.warnings.pop();
      assert.ok(error instanceof PassfdError);
      assert.match(error.message, /removed\/socket/);
    }),
  );
});

describe('an address whose socket another process has made', () => {
  it(
    'stays open when its last worker closes it, so that the next worker gets it with the waiting clients',
    onStage(LONG, async (stage) => {
      await using kept = await listen({ host: '127.0.0.1', port: 0 });
      const { address } = kept;
      assert.ok('port' in address);
      await stage.dispatcher.offer([{ descriptor: kept.duplicate(), isInherited: true }]);
      const wanted = { ...site, port: address.port };
      const old = await joinServing(stage, wanted);
      await giveBack(old, ...old.listening);
      await stage.client(address);
      const heir = await joinServing(stage, wanted);
      assert.deepEqual(heir.addresses, [address]);
      await heir.worker.handoffs(1);
    }),
  );
});
