// What is over leaves no memory behind.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Child } from '../support/child.js';
import { keepsDescriptors } from '../support/descriptors.js';

const MESSAGES = 200_000;

/** Far above what the collector leaves lying about, far below one kept object of 40 bytes a message. */
const MAX_GROWTH_BYTES = 1_000_000;

describe(`${MESSAGES} messages through one socket`, () => {
  it(
    'leave no memory in use, and no listener on their signal',
    keepsDescriptors(async () => {
      await using child = new Child('memory', { args: [String(MESSAGES)], nodeArgs: ['--expose-gc'] });
      const { grown, listeners, hasGc } = await child.next<Record<string, number>>();
      assert.deepEqual([listeners, hasGc], [0, true]);
      assert.ok(grown !== undefined && grown < MAX_GROWTH_BYTES, `${grown} bytes more are in use`);
      assert.equal(await child.exit, 0);
    }),
  );
});
