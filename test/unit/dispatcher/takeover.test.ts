// A takeover between two dispatchers in one process: what the next one knows is what the last one knew.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { awaitGo, Dispatcher, handOver, takeOver } from '../../../src/dispatcher/index.js';
import { listen, socketPair } from '../../../src/fd/index.js';
import {
  encodeFrame,
  encodeHello,
  encodeJson,
  PROTOCOL_VERSION,
  TakeoverChannel,
} from '../../../src/handoff/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import { FakeWorker } from '../../support/fake-worker.js';

const anyPort = { host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 };

const hello = encodeFrame(
  encodeHello({ passfd: PROTOCOL_VERSION, role: 'worker', pid: process.pid, window: 8, capacity: null }),
);

/** Has another dispatcher take over from that of the stage. The caller closes it. */
async function takenOver({ dispatcher }: Stage): Promise<Dispatcher> {
  const [here, there] = socketPair();
  using oldEnd = new TakeoverChannel(here);
  using newEnd = new TakeoverChannel(there);
  const next = new Dispatcher();
  const over = handOver(dispatcher, { channel: oldEnd, kill: () => undefined }, []);
  await takeOver(next, newEnd, {});
  await awaitGo(newEnd);
  await over;
  await dispatcher.disown();
  next.thaw();
  return next;
}

describe('the dispatcher that takes over', () => {
  it(
    'has the sockets that workers may still ask for, and knows whose they are',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      await using unit = await listen({ host: '127.0.0.1', port: 0 });
      const descriptor = unit.duplicate();
      await stage.dispatcher.offer([{ descriptor, isInherited: true }]);
      await using next = await takenOver(stage);
      assert.ok('port' in unit.address);
      const { address } = await worker.listenAt({ ...anyPort, port: unit.address.port });
      await worker.ready();
      await stage.client(address);
      await worker.handoffs(1);
      // It is not ended for whoever keeps it.
      await next.stopAccepting();
      await stage.client(address);
      (await unit.accept()).close();
    }),
  );

  it(
    'has a child that says hello while the workers are being frozen',
    onStage({}, async (stage) => {
      for (const id of [1, 2, 3]) stage.own(await FakeWorker.child(stage.dispatcher, id));
      const [here, there] = socketPair();
      using child = new FakeWorker(there);
      stage.dispatcher.addChild(here, { id: 4, pid: process.pid });
      const taking = takenOver(stage);
      await child.say(hello);
      await using next = await taking;
      assert.equal((await child.next('welcome')).id, 4);
      assert.deepEqual(
        next.workers.map(({ id }) => id),
        [1, 2, 3, 4],
      );
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
      await using next = await takenOver(stage);
      await worker.say(frame.subarray(-1));
      assert.equal((await worker.next('unlistened')).request, 7);
      assert.equal(next.workers.length, 1);
    }),
  );
});
