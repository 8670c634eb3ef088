// A policy of the user: what it can see, and that it cannot lose a connection.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { Policy } from '../../../src/dispatcher/index.js';
import type { Address } from '../../../src/fd/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';

const lastOne: Policy = (workers) => workers[workers.length - 1] ?? assert.fail('Nobody was offered');

describe('a custom policy', () => {
  it(
    'chooses among the workers with room',
    onStage({ policy: lastOne }, async (stage) => {
      const [first, second] = [await stage.joinServing(), await stage.joinServing({ window: 2 })];
      await stage.clients(3);
      await second.handoffs(2);
      await first.handoffs(1);
    }),
  );

  const seen: (Address | undefined)[] = [];
  const curious: Policy = (workers, arrival) => {
    seen.push(arrival.client, arrival.local);
    return lastOne(workers, arrival);
  };
  it(
    "knows the client's address and the local address",
    onStage({ policy: curious }, async (stage) => {
      const worker = await stage.joinServing();
      const client = await stage.client();
      await worker.handoffs(1);
      assert.deepEqual(seen, [client.localAddress, await stage.address()]);
    }),
  );

  let drain: (id: number) => void = () => undefined;
  const draining: Policy = (workers, arrival) => {
    const chosen = lastOne(workers, arrival);
    drain(chosen.id);
    return chosen;
  };
  it(
    'may drain the worker that it chooses: the connection goes to another',
    onStage({ policy: draining }, async (stage) => {
      const [first, second] = [await stage.joinServing(), await stage.joinServing()];
      drain = (id) => {
        if (id === second.id) stage.dispatcher.drainWorker(id).catch(() => undefined);
      };
      await stage.client();
      await first.handoffs(1);
      await second.next('drain');
    }),
  );

  const throwing: Policy = () => {
    throw new RangeError('of the policy');
  };
  const inventing: Policy = ([worker]) => ({ ...(worker ?? assert.fail()) });
  for (const [name, policy, warning] of [
    ['throws', throwing, /RangeError: of the policy/],
    ['returns a worker that it was not offered', inventing, /returned a worker that it was not offered/],
  ] as const) {
    it(
      `loses no connection when it ${name}, and that is reported`,
      onStage({ policy }, async (stage) => {
        const worker = await stage.joinServing();
        await stage.client();
        await worker.handoffs(1);
        assert.match(String(stage.warnings.pop()), warning);
      }),
    );
  }

  for (const [name, policy] of [
    ['throws each time', throwing],
    ['is no function that answers at once', (() => Promise.resolve()) as unknown as Policy],
  ] as const) {
    it(
      `is not reported for every connection when it ${name}`,
      onStage({ policy }, async (stage) => {
        const worker = await stage.joinServing();
        for (let count = 0; count < 20; count++) {
          await stage.client();
          await worker.handoffs(1);
        }
        assert.equal(stage.warnings.splice(0).length, 1);
      }),
    );
  }

  const emptying: Policy = (workers) => {
    const chosen = lastOne(workers, { client: undefined, local: { path: '' } });
    (workers as unknown[]).length = 0;
    return chosen;
  };
  it(
    "cannot change the dispatcher's own list of workers",
    onStage({ policy: emptying }, async (stage) => {
      const worker = await stage.joinServing();
      await stage.clients(3);
      await worker.handoffs(3);
      assert.match(String(stage.warnings.pop()), /TypeError/);
    }),
  );
});

/** Five clients connect at once to a worker with room for two. @returns the clients' addresses, as the worker sees them */
async function servedByWindowOfTwo(stage: Stage): Promise<unknown[]> {
  await stage.clients(5);
  const worker = await stage.joinServing({ window: 2 });
  const served: unknown[] = [];
  while (served.length < 5) {
    served.push(...(await worker.handoff()).descriptors.map(({ remoteAddress }) => remoteAddress));
    await worker.adopt();
  }
  await stage.until(() => stage.dispatcher.status().connections.adopted >= 5);
  return served;
}

describe('a dispatcher that is stopped while it places connections', () => {
  let stop: () => void = () => undefined;
  const stopping: Policy = ([first]) => {
    stop();
    return first ?? assert.fail();
  };
  const failing: Policy = () => {
    throw new Error('of the policy');
  };
  for (const [name, policy] of [
    ['by the policy', stopping],
    ['by who hears that the policy failed', failing],
  ] as const) {
    it(
      `gives each to one worker once: ${name}`,
      onStage({ policy }, async (stage) => {
        const { dispatcher } = stage;
        let stopped: Promise<void> | undefined;
        stop = () => void (stopped ??= dispatcher.stopAccepting());
        dispatcher.on('warned', stop);
        const served = await servedByWindowOfTwo(stage);
        assert.equal(new Set(served.map((address) => JSON.stringify(address))).size, 5);
        await stopped;
        const { accepted, adopted, waiting, inFlight } = dispatcher.status().connections;
        assert.deepEqual([accepted, adopted, waiting, inFlight], [5, 5, 0, 0]);
        stage.warnings.splice(0);
      }),
    );
  }
});
