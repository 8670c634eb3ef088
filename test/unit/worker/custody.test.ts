// Custody: which listening sockets a worker keeps, and for how long.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { listen, type Descriptor } from '../../../src/fd/index.js';
import { Custody } from '../../../src/worker/custody.js';
import { keepsDescriptors } from '../../support/descriptors.js';

async function listening(): Promise<Descriptor> {
  const acceptor = await listen({ host: '127.0.0.1', port: 0 });
  return acceptor.release();
}

/** A test that gets two listening sockets. Custody is closed after it. */
function withCustody(
  body: (custody: Custody, first: Descriptor, second: Descriptor) => void,
): () => Promise<void> {
  return keepsDescriptors(async () => {
    const custody = new Custody();
    using first = await listening();
    using second = await listening();
    try {
      body(custody, first, second);
    } finally {
      custody.close();
    }
  });
}

function keys({ kept }: Custody): string[] {
  return kept.map(({ label }) => label.key);
}

describe('custody', () => {
  it(
    'keeps its descriptor when the same socket comes again: that descriptor may be in flight',
    withCustody((custody, first) => {
      const there = first.duplicate();
      custody.keep(1, { label: { key: 'a' }, descriptor: there });
      const again = first.duplicate();
      custody.keep(5, { label: { key: 'a' }, descriptor: again });
      assert.deepEqual([there.closed, again.closed], [false, true]);
      // The socket is kept under its new id, 5.
      custody.release([1]);
      assert.deepEqual(keys(custody), ['a']);
      custody.release([5]);
      assert.deepEqual([keys(custody), there.closed], [[], true]);
    }),
  );

  it(
    'replaces a socket by another one with the same key',
    withCustody((custody, first, second) => {
      const before = first.duplicate();
      custody.keep(1, { label: { key: 'a' }, descriptor: before });
      custody.keep(1, { label: { key: 'a' }, descriptor: second.duplicate() });
      assert.equal(before.closed, true);
      assert.deepEqual(
        custody.kept.map(({ descriptor }) => descriptor.inode),
        [second.inode],
      );
    }),
  );

  it(
    'finds the socket of a listener, unless another one was given for it and did not arrive',
    withCustody((custody, first, second) => {
      assert.equal(custody.of(1), undefined);
      custody.keep(1, { label: { key: 'a' }, descriptor: first.duplicate() });
      assert.equal(custody.of(1)?.descriptor.inode, first.inode);
      custody.noteLost('a');
      assert.equal(custody.of(1), undefined);
      assert.deepEqual(keys(custody), ['a'], 'its queue is kept all the same');
      custody.keep(1, { label: { key: 'a' }, descriptor: second.duplicate() });
      assert.equal(custody.of(1)?.descriptor.inode, second.inode);
      custody.forgetListeners();
      assert.equal(custody.of(1), undefined);
    }),
  );

  it(
    'uses the ids of the present dispatcher, and closes sockets that it has not sent, when it asks for that',
    withCustody((custody, first, second) => {
      custody.keep(1, { label: { key: 'a' }, descriptor: first.duplicate() });
      custody.keep(2, { label: { key: 'b' }, descriptor: second.duplicate() });
      custody.forgetListeners();
      custody.release([1, 2]);
      assert.deepEqual(keys(custody), ['a', 'b']);
      custody.keep(1, { label: { key: 'b' }, descriptor: second.duplicate() });
      custody.releaseStale();
      assert.deepEqual(keys(custody), ['b']);
    }),
  );
});
