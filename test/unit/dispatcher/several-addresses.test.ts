// Several addresses of one dispatcher: clients of one do not delay clients of another.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { Address } from '../../../src/fd/index.js';
import type { FakeWorker } from '../../support/fake-worker.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';

async function twoAddresses(stage: Stage): Promise<[Address, Address]> {
  return [await stage.address(), await stage.dispatcher.listen({ host: '127.0.0.1', port: 0 })];
}

/** Finishes the worker's connections, one after the other. @returns the listener of each */
async function finish(worker: FakeWorker, count: number): Promise<number[]> {
  const listeners: number[] = [];
  while (listeners.length < count) {
    const { listener, descriptors } = await worker.handoff();
    assert.equal(descriptors.length, 1);
    listeners.push(listener);
    await worker.adopt();
    await worker.sayClosed(worker.received);
  }
  return listeners;
}

describe('two addresses under load', () => {
  for (const [name, crowded] of [
    ['first', 0],
    ['second', 1],
  ] as const) {
    it(
      `take turns when a worker has room for one: many clients at the ${name} keep none of the other waiting`,
      onStage({}, async (stage) => {
        const addresses = await twoAddresses(stage);
        const worker = await stage.joinServing({ capacity: 1 });
        for (const [index, address] of addresses.entries()) {
          await stage.clients(index === crowded ? 20 : 3, address);
        }
        const order = await finish(worker, 10);
        // All three clients of the other address are among the first ten, although twenty wait at this one.
        assert.equal(order.filter((listener) => listener !== crowded).length, 3, order.join());
        await finish(worker, 13);
      }),
    );
  }
});

describe('two addresses that clients use in turn', () => {
  it(
    'spread their clients evenly, each address by itself',
    onStage({}, async (stage) => {
      const addresses = await twoAddresses(stage);
      const workers = [await stage.joinServing(), await stage.joinServing()];
      for (let round = 0; round < 4; round++) {
        for (const address of addresses) await stage.client(address);
      }
      for (const worker of workers) {
        const counts = [0, 0];
        for (let count = 0; count < 4;) {
          const { listener, descriptors } = await worker.handoff();
          counts[listener] = (counts[listener] ?? 0) + descriptors.length;
          count += descriptors.length;
        }
        assert.deepEqual(counts, [2, 2]);
      }
    }),
  );
});
