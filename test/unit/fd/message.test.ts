// Message: owns its descriptors until they are taken.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Message } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { openFile, takeTexts, textOf } from '../../support/files.js';

const x = Buffer.from('x');

describe('a Message', () => {
  it(
    'hands its descriptors out in their order, one by one or all',
    keepsDescriptors(() => {
      using message = new Message(x, ['0', '1', '2', '3'].map(openFile));
      assert.deepEqual(takeTexts([message.takeDescriptor(), message.takeDescriptor()]), ['0', '1']);
      assert.deepEqual(message.descriptors.map(textOf), ['2', '3']);
      assert.deepEqual(takeTexts(message.takeDescriptors()), ['2', '3']);
      assert.deepEqual(message.takeDescriptors(), []);
    }),
  );

  it(
    'closes what was not taken, and nothing else',
    keepsDescriptors(() => {
      const message = new Message(x, ['taken', 'left'].map(openFile));
      using taken = message.takeDescriptor();
      const [left] = message.descriptors;
      message.close();
      message.close();
      assert.deepEqual([taken.closed, left?.closed], [false, true]);
    }),
  );

  it(
    'closes the rest also when one of them was closed meanwhile',
    keepsDescriptors(() => {
      using message = new Message(x, ['closed', 'left'].map(openFile));
      message.descriptors[0]?.close();
    }),
  );

  it('fails with ERR_DESCRIPTOR_MISSING when a descriptor is missing', () => {
    using message = new Message(x, []);
    assert.throws(() => message.takeDescriptor(), { code: 'ERR_DESCRIPTOR_MISSING' });
  });
});
