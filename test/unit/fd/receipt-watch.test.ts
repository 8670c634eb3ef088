// ReceiptWatch: reports that sent bytes were received, without polling.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { ReceiptWatch } from '../../../src/fd/internal.js';
import { turns } from '../../support/loop.js';
import { onPair, receivedText } from '../../support/stream.js';

describe('a watch of receipts', { skip: process.platform !== 'linux' && 'Linux only' }, () => {
  it(
    'reports each receive of the other end, and no send',
    onPair(async (left, right) => {
      const unread: number[] = [];
      using watch = ReceiptWatch.start(left, () => unread.push(left.unreadBytes));
      assert.ok(watch);
      // The first event reports that the socket can be written to.
      await turns();
      unread.length = 0;
      for (let round = 0; round < 3; round++) {
        await left.send(Buffer.from('x'));
        await turns();
        assert.deepEqual(unread, []);
        assert.equal(await receivedText(right), 'x');
        await turns();
        assert.deepEqual(unread.splice(0), [0]);
      }
    }),
  );

  it(
    'reports nothing after close, and leaves the socket open',
    onPair(async (left, right) => {
      let reports = 0;
      const watch = ReceiptWatch.start(left, () => reports++);
      assert.ok(watch);
      await turns();
      reports = 0;
      watch.close();
      await left.send(Buffer.from('x'));
      assert.equal(await receivedText(right), 'x');
      await turns();
      assert.equal(reports, 0);
    }),
  );
});
