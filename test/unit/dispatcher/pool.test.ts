// Pool: what happens to waiting connections if a worker fails, or others come back, while they are placed.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { AcceptedConnection, Listener } from '../../../src/dispatcher/listener.js';
import { createPolicy } from '../../../src/dispatcher/policy.js';
import { Pool } from '../../../src/dispatcher/pool.js';
import type { WorkerHandle } from '../../../src/dispatcher/workers/worker-handle.js';
import { closeAll, listen, type Descriptor } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { openFile } from '../../support/files.js';

interface Taken {
  readonly handle: WorkerHandle;
  readonly given: Descriptor[];
  /** How many of the given connections were sent. */
  flushed: number;
}

/** A worker that takes every connection, as the pool sees it. @param roomFor runs each time that the pool asks for its room */
function worker(id: number, roomFor: () => number): Taken {
  const taken = { given: [] as Descriptor[], flushed: 0 };
  const handle = {
    id,
    mayQueue: false,
    load: 0,
    inFlight: 0,
    roomFor,
    give: ({ descriptor }: AcceptedConnection) => taken.given.push(descriptor),
    flush: () => (taken.flushed = taken.given.length),
  } as unknown as WorkerHandle;
  return Object.assign(taken, { handle });
}

async function withPool(
  body: (pool: Pool, loop: Listener, descriptors: Descriptor[]) => void,
): Promise<void> {
  await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
  const loop = new Listener({ id: 1, key: 'own', isOwn: true }, acceptor);
  const pool = new Pool(() => createPolicy('round-robin'), 'wait', {
    taken: () => undefined,
    refused: () => undefined,
    policyFailed: assert.ifError,
  });
  const descriptors = ['a', 'b', 'c'].map(openFile);
  try {
    body(pool, loop, descriptors);
  } finally {
    closeAll(descriptors);
  }
}

describe('a pool in which a worker fails while connections are placed', () => {
  it(
    'has sent what was placed before, keeps the other connections, and places each once later',
    keepsDescriptors(() =>
      withPool((pool, loop, descriptors) => {
        let fails = true;
        const taken = worker(1, () => {
          if (fails && taken.given.length > 0) throw new Error('no room can be told');
          return 9;
        });
        pool.add(taken.handle);
        assert.throws(() => {
          pool.take(loop, descriptors);
        }, /no room can be told/);
        assert.equal(taken.flushed, 1);
        assert.deepEqual(
          pool.waiting.map(({ descriptor }) => descriptor),
          descriptors.slice(1),
        );
        fails = false;
        pool.update();
        assert.deepEqual(taken.given, descriptors);
        assert.equal(taken.flushed, 3);
        assert.deepEqual(pool.waiting, []);
      }),
    ),
  );
});

describe('a pool to which connections come back while others are placed', () => {
  it(
    'places these, too',
    keepsDescriptors(() =>
      withPool((pool, loop, descriptors) => {
        const [first, ...others] = descriptors;
        assert.ok(first);
        const returning = [new AcceptedConnection(first, loop)];
        const taken = worker(1, () => {
          pool.takeBack(returning.splice(0));
          return 9;
        });
        pool.add(taken.handle);
        pool.take(loop, others);
        assert.deepEqual(new Set(taken.given), new Set(descriptors));
        assert.equal(taken.given.length, 3);
      }),
    ),
  );
});
