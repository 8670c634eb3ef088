// StreamSocket: hand-offs. Their positions count what was sent, so after an unsent one no other is sent.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { closeAll } from '../../../src/fd/index.js';
import { failsWith } from '../../support/errors.js';
import { failing as failingCall } from '../../support/failing-calls.js';
import { openFile } from '../../support/files.js';
import { fill, onPair, received, receivedBytes, receivedText } from '../../support/stream.js';

const handoff = (position: number): { handoff: { position: number; listener: number } } => ({
  handoff: { position, listener: 0 },
});

describe('a hand-off that waits and cannot be sent', () => {
  it(
    'is followed by no other hand-off, and by every other message',
    onPair(async (left, right) => {
      const { taken } = await fill(left);
      using closed = openFile('closed');
      using file = openFile('file');
      const failed = left.send(Buffer.from('1'), [closed], handoff(1));
      const later = left.send(Buffer.from('2'), [file], handoff(2));
      const plain = left.send(Buffer.from('farewell'));
      assert.equal(left.unsentPosition, 1);
      closed.close();
      const outcomes = Promise.allSettled([failed, later]);
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

  it(
    'does not affect the others when the channel counts no positions',
    onPair(async (left, right) => {
      const lone = { handoff: { position: 1, listener: 0, isLone: true } };
      const { taken } = await fill(left);
      using closed = openFile('closed');
      using file = openFile('file');
      using failing = failingCall('sendHandoff', left.fd, 'EACCES', 1);
      const refused = left.send(Buffer.from('1'), [file], lone);
      const changed = left.send(Buffer.from('2'), [closed], lone);
      const later = left.send(Buffer.from('3'), [file], lone);
      closed.close();
      const outcomes = Promise.allSettled([refused, changed, later]);
      await receivedBytes(right, taken + 16_384);
      const { bytes, descriptors } = await received(right.receive());
      assert.deepEqual([bytes.toString(), descriptors.length], ['3', 1]);
      closeAll(descriptors);
      assert.deepEqual(
        (await outcomes).map(({ status }) => status),
        ['rejected', 'rejected', 'fulfilled'],
      );
      assert.equal(left.unsentPosition, undefined);
      failing[Symbol.dispose]();
      await left.send(Buffer.from('4'), [file], lone);
    }),
  );
});
