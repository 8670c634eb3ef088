// StreamSocket: hand-offs, whose positions count what was sent; so behind one that was not, none is.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { failsWith } from '../../support/errors.js';
import { openFile } from '../../support/files.js';
import { fill, onPair, receivedBytes, receivedText } from '../../support/stream.js';

const handoff = (position: number): { handoff: { position: number; listener: number } } => ({
  handoff: { position, listener: 0 },
});

describe('a hand-off that waits and cannot be sent', () => {
  it(
    'is followed by no other, and by everything else',
    onPair(async (left, right) => {
      const { taken } = await fill(left);
      using closed = openFile('closed');
      using file = openFile('file');
      const failed = left.send(Buffer.from('1'), [closed], handoff(1));
      const behind = left.send(Buffer.from('2'), [file], handoff(2));
      const plain = left.send(Buffer.from('farewell'));
      assert.equal(left.unsentPosition, 1);
      closed.close();
      const outcomes = Promise.allSettled([failed, behind]);
      await receivedBytes(right, taken + 16_384);
      for (const outcome of await outcomes) assert.equal(outcome.status, 'rejected');
      await plain;
      assert.equal(await receivedText(right), 'farewell');
      await assert.rejects(
        left.send(Buffer.from('3'), [file], handoff(2)),
        failsWith('ERR_DESCRIPTOR_CLOSED'),
      );
      assert.equal(left.unsentPosition, 1);
    }),
  );
});
