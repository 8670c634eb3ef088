// The rules that choose a worker, tested as pure functions.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import {
  clientAddress,
  createPolicy,
  leastConnections,
  policyNames,
  powerOfTwoChoices,
  roundRobin,
  type Arrival,
  type Candidate,
  type Policy,
} from '../../../src/dispatcher/policy.js';

const local = { host: '127.0.0.1', port: 80 };
const anyone: Arrival = { client: { host: '192.0.2.1', port: 4711 }, local };

function workers(...loads: number[]): Candidate[] {
  return loads.map((load, index) => ({ id: index + 1, load }));
}

function from(host: string, port = 4711): Arrival {
  return { client: { host, port }, local };
}

/** The ids of the workers that the policy chooses, in order. */
function choices(policy: Policy, candidates: readonly Candidate[], count: number): number[] {
  return Array.from({ length: count }, () => policy(candidates, anyone).id);
}

/** How often each id was chosen. */
function counted(ids: readonly number[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
  return counts;
}

/** Addresses of many networks, always the same ones. */
const addresses = Array.from(
  { length: 4096 },
  (_, index) => `${10 + (index % 7)}.${(index * 31) % 256}.${(index >> 4) % 256}.${(index * 7) % 256}`,
);

describe('every policy', () => {
  for (const name of policyNames) {
    it(`takes the only worker: ${name}`, () => {
      const policy = createPolicy(name);
      const [only, ...none] = workers(9);
      assert.ok(only);
      assert.equal(policy([only], anyone), only);
      assert.equal(policy([only], { client: undefined, local }), only);
      assert.throws(() => policy(none, anyone), TypeError);
    });
  }
});

describe('round robin', () => {
  it('takes workers in turn', () => {
    assert.deepEqual(choices(roundRobin(), workers(0, 9, 0), 7), [1, 2, 3, 1, 2, 3, 1]);
  });

  it('skips workers without room, and continues after them', () => {
    const policy = roundRobin();
    const [one, two, three] = workers(0, 0, 0);
    assert.ok(one && two && three);
    const chosen = [
      [one, two, three],
      [one, three],
      [two, three],
      [one, two, three],
    ].map((candidates) => policy(candidates, anyone).id);
    assert.deepEqual(chosen, [1, 3, 2, 3]);
  });

  it('continues when the last worker it took has left', () => {
    const policy = roundRobin();
    const [one, two, three] = workers(0, 0, 0);
    assert.ok(one && two && three);
    assert.deepEqual(choices(policy, [one, two, three], 2), [1, 2]);
    assert.deepEqual(choices(policy, [one, three], 3), [3, 1, 3]);
  });
});

describe('least connections', () => {
  it('takes the worker with the fewest', () => {
    assert.deepEqual(choices(leastConnections(), workers(3, 1, 2), 2), [2, 2]);
  });

  it('takes turns among equals', () => {
    assert.deepEqual(choices(leastConnections(), workers(1, 1, 2, 1), 5), [1, 2, 4, 1, 2]);
  });
});

describe('the power of two choices', () => {
  /** Draws these numbers, in order. */
  function drawing(...numbers: number[]): () => number {
    return () => numbers.shift() ?? assert.fail('One draw too many');
  }

  it('takes the less loaded of two that are drawn', () => {
    const three = workers(5, 1, 3);
    for (const [draws, chosen] of [
      [[0, 0], 2],
      [[0, 0.9], 3],
      [[0.4, 0], 2],
      [[0.9, 0], 3],
      [[0.9, 0.9], 2],
    ] as const) {
      assert.equal(powerOfTwoChoices(drawing(...draws))(three, anyone).id, chosen, draws.join());
    }
  });

  it('never draws the same worker twice', () => {
    // If it were drawn twice, the worker with the most connections would be chosen.
    const draws = [0, 0.25, 0.5, 0.75, 0.999];
    for (const first of draws) {
      for (const second of draws) {
        const { id } = powerOfTwoChoices(drawing(first, second))(workers(0, 0, 0, 1), anyone);
        assert.notEqual(id, 4);
      }
    }
  });

  it('keeps the load even', () => {
    let state = 1;
    const random = (): number => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
    const policy = powerOfTwoChoices(random);
    const loads = workers(0, 0, 0, 0).map((worker) => ({ ...worker }));
    for (let count = 0; count < 4000; count++) policy(loads, anyone).load++;
    for (const { load } of loads) assert.ok(Math.abs(load - 1000) < 20, String(load));
  });
});

describe('the client address', () => {
  const four = workers(0, 0, 0, 0);

  function placed(candidates: readonly Candidate[]): Map<string, number> {
    const policy = clientAddress();
    return new Map(addresses.map((host) => [host, policy(candidates, from(host)).id]));
  }

  it('leads to the same worker, whatever the port, the load, or the dispatcher', () => {
    for (const host of addresses.slice(0, 100)) {
      const { id } = clientAddress()(four, from(host, 1));
      assert.equal(clientAddress()(workers(9, 9, 9, 0), from(host, 2)).id, id);
    }
  });

  it('moves only the clients of a worker that left, and moves them back when it returns', () => {
    const before = placed(four);
    for (const gone of four) {
      const after = placed(four.filter((worker) => worker !== gone));
      for (const [host, id] of before) {
        if (id === gone.id) assert.notEqual(after.get(host), id);
        else assert.equal(after.get(host), id, host);
      }
    }
    assert.deepEqual(placed(four), before);
  });

  it('moves to a new worker only those clients that it takes over', () => {
    const before = placed(four);
    for (const [host, id] of placed(workers(0, 0, 0, 0, 0))) {
      assert.ok(id === 5 || id === before.get(host), host);
    }
  });

  it('is as even as chance: no share is further off than five standard deviations', () => {
    for (const count of [2, 4, 16]) {
      const shares = counted([...placed(workers(...Array<number>(count).fill(0))).values()]);
      const unique = new Set(addresses).size;
      const deviation = Math.sqrt(unique * (1 / count) * (1 - 1 / count));
      assert.equal(shares.size, count);
      for (const share of shares.values()) {
        assert.ok(
          Math.abs(share - unique / count) < 5 * deviation,
          `${share} of ${unique}, ${count} workers`,
        );
      }
    }
  });

  it('spreads the clients of one network, too', () => {
    const policy = clientAddress();
    const shares = counted(
      Array.from({ length: 256 }, (_, host) => policy(four, from(`192.0.2.${host}`)).id),
    );
    for (const { id } of four) assert.ok((shares.get(id) ?? 0) > 32, JSON.stringify([...shares]));
  });

  it('is the same for an IPv4 client that connects over IPv6', () => {
    for (const host of addresses.slice(0, 100)) {
      assert.equal(clientAddress()(four, from(`::ffff:${host}`)).id, clientAddress()(four, from(host)).id);
    }
  });

  it('makes workers take turns without an address: on Unix sockets, and when the client has hung up', () => {
    const policy = clientAddress();
    const arrivals: Arrival[] = [
      { client: { path: '' }, local },
      { client: undefined, local },
    ];
    assert.deepEqual(
      [...arrivals, ...arrivals].map((arrival) => policy(four, arrival).id),
      [1, 2, 3, 4],
    );
  });
});
