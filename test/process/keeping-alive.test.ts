// What waits keeps the process alive, unless it is unreferenced; what is over does not.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Child } from '../support/child.js';
import { keepsDescriptors } from '../support/descriptors.js';

for (const what of ['receive', 'send', 'accept']) {
  describe(`a process that waits for a ${what}`, () => {
    for (const how of ['from the start', 'ref']) {
      it(
        `lives until it has happened, and ends then${how === 'ref' ? ' (unref, then ref)' : ''}`,
        keepsDescriptors(async () => {
          await using child = new Child('wait', { args: [what, how] });
          assert.equal(await child.next(), 'happened');
          assert.equal(await child.next(), 'exit');
          assert.equal(await child.exit, 0);
        }),
      );
    }

    for (const how of ['unref', 'unref later']) {
      it(
        `ends at once when that is unreferenced ${how === 'unref' ? 'before' : 'while it waits'}`,
        keepsDescriptors(async () => {
          await using child = new Child('wait', { args: [what, how] });
          assert.equal(await child.next(), 'exit');
          assert.equal(await child.exit, 0);
        }),
      );
    }
  });
}
