// Acceptance: 100,000 descriptors through one channel leave no descriptor behind, on either side.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { Descriptor } from '../../src/fd/index.js';
import { Child } from '../support/child.js';
import { keepsDescriptors, openDescriptors } from '../support/descriptors.js';
import { openFile } from '../support/files.js';

const DESCRIPTORS = 100_000;

interface Collected {
  readonly count: number;
  readonly before: readonly string[];
  readonly after: readonly string[];
}

for (const batch of [1, 252]) {
  describe(`${DESCRIPTORS} descriptors, ${batch} in a message, through one channel`, () => {
    it(
      'arrive, and both sides end with the descriptors that they began with',
      keepsDescriptors(async () => {
        using file = openFile('file');
        await using child = new Child('collect');
        await child.channel.send(Buffer.from('.'));
        assert.equal(await child.next(), 'ready');
        const before = openDescriptors();
        for (let sent = 0; sent < DESCRIPTORS; sent += batch) {
          const count = Math.min(batch, DESCRIPTORS - sent);
          await child.channel.send(Buffer.from('.'), Array<Descriptor>(count).fill(file));
        }
        await child.channel.send(Buffer.from('?'));
        const there = await child.next<Collected>();
        assert.equal(there.count, DESCRIPTORS);
        assert.deepEqual(there.after, there.before);
        assert.deepEqual(openDescriptors(), before);
        await child.channel.close();
        assert.equal(await child.exit, 0);
      }),
    );
  });
}
