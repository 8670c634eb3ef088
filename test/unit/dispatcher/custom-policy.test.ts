// A policy that the dispatcher is given: what it knows, and that it can lose no connection.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { Policy } from '../../../src/dispatcher/index.js';
import type { Address } from '../../../src/fd/index.js';
import { onStage } from '../../support/dispatcher-stage.js';

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
    'knows where the client comes from, and where to',
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
    ['chooses a worker that was not offered', inventing, /chose a worker that was not offered/],
  ] as const) {
    it(
      `loses no connection when it ${name}, and that is told`,
      onStage({ policy }, async (stage) => {
        const worker = await stage.joinServing();
        await stage.client();
        await worker.handoffs(1);
        assert.match(String(stage.warnings.pop()), warning);
      }),
    );
  }
});
