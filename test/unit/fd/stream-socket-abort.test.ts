// StreamSocket: an AbortSignal ends a call, and nothing is lost.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { describe, it } from 'node:test';

import { openFile, takeTexts, textOf } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { fill, onPair, received, receivedBytes, receivedText } from '../../support/stream.js';

const reason = new Error('given up');

describe('an aborted receive', () => {
  it(
    'rejects with the reason of the signal, and takes nothing',
    onPair(async (left, right) => {
      const controller = new AbortController();
      const { signal } = controller;
      const all = [
        right.receive(10, { signal }),
        right.receiveExactly(10, { signal }),
        right.untilReadable({ signal }),
      ];
      controller.abort(reason);
      for (const one of all) await assert.rejects(one, reason);
      await left.send(Buffer.from('x'));
      assert.equal(await receivedText(right), 'x');
    }),
  );

  it(
    'is not even started by a signal that was aborted before',
    onPair(async (left, right) => {
      await left.send(Buffer.from('x'));
      const signal = AbortSignal.abort(reason);
      await assert.rejects(right.receive(1, { signal }), reason);
      await assert.rejects(right.receiveExactly(1, { signal }), reason);
      await assert.rejects(right.untilReadable({ signal }), reason);
      assert.equal(await receivedText(right), 'x');
    }),
  );

  it(
    'leaves the calls before and after it in place',
    onPair(async (left, right) => {
      const controller = new AbortController();
      const before = receivedText(right);
      const aborted = right.receive(10, { signal: controller.signal });
      const later = right.receiveExactly(1);
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      await left.send(Buffer.from('1'));
      assert.equal(await before, '1');
      await left.send(Buffer.from('2'));
      assert.equal((await received(later)).bytes.toString(), '2');
    }),
  );
});

describe('a receiveExactly that is aborted half way', () => {
  it(
    'leaves its bytes and descriptors to the next receive',
    onPair(async (left, right) => {
      using file = openFile('file');
      const controller = new AbortController();
      const aborted = right.receiveExactly(10, { descriptors: 3, signal: controller.signal });
      await left.send(Buffer.from('abc'), [file]);
      await turns();
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      await left.send(Buffer.from('def'));
      using message = await received(right.receiveExactly(6, { descriptors: 1 }));
      assert.equal(message.bytes.toString(), 'abcdef');
      assert.deepEqual(message.descriptors.map(textOf), ['file']);
    }),
  );

  it(
    'shows them to peek and untilReadable',
    onPair(async (left, right) => {
      const controller = new AbortController();
      const aborted = right.receiveExactly(10, { signal: controller.signal });
      await left.send(Buffer.from('abc'));
      await turns();
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      assert.equal(right.peek()?.toString(), 'abc');
      assert.equal(right.peek(1)?.toString(), 'a');
      await right.untilReadable();
      assert.equal(await receivedText(right), 'abc');
    }),
  );

  it(
    'gives them out in pieces, the descriptors with the first piece',
    onPair(async (left, right) => {
      using file = openFile('file');
      const controller = new AbortController();
      const aborted = right.receiveExactly(10, { descriptors: 3, signal: controller.signal });
      await left.send(Buffer.from('abc'), [file]);
      await turns();
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      using first = await received(right.receive(1));
      assert.equal(first.bytes.toString(), 'a');
      assert.deepEqual(takeTexts(first.takeDescriptors()), ['file']);
      assert.equal((await receivedBytes(right, 2)).toString(), 'bc');
    }),
  );

  it(
    'gives them at once to a receive that waits after it',
    onPair(async (left, right) => {
      const controller = new AbortController();
      const aborted = right.receiveExactly(10, { signal: controller.signal });
      const next = receivedText(right);
      await left.send(Buffer.from('abc'));
      await turns();
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      assert.equal(await isPending(next), false);
      assert.equal(await next, 'abc');
    }),
  );

  it(
    'gives them to the next receive even when the socket has used its turns',
    onPair(async (left, right) => {
      const controller = new AbortController();
      const aborted = right.receiveExactly(200, { signal: controller.signal });
      await left.send(Buffer.from('x'.repeat(100)));
      await turns();
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      for (let count = 0; count < 100; count++) {
        const next = right.receive(1);
        assert.equal(await isPending(next), false, `receive ${count} hangs`);
        assert.equal((await received(next)).bytes.toString(), 'x');
      }
    }),
  );

  it(
    'can be aborted again and again',
    onPair(async (left, right) => {
      using file = openFile('file');
      for (const text of ['a', 'b', 'c']) {
        const controller = new AbortController();
        const aborted = right.receiveExactly(10, { descriptors: 3, signal: controller.signal });
        await left.send(Buffer.from(text), [file]);
        await turns();
        controller.abort(reason);
        await assert.rejects(aborted, reason);
      }
      using message = await received(right.receive());
      assert.equal(message.bytes.toString(), 'abc');
      assert.equal(message.descriptors.length, 3);
    }),
  );

  it(
    'closes its descriptors when the socket is destroyed',
    onPair(async (left, right) => {
      using file = openFile('file');
      const controller = new AbortController();
      const aborted = right.receiveExactly(10, { descriptors: 3, signal: controller.signal });
      await left.send(Buffer.from('abc'), [file]);
      await turns();
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      right.destroy();
    }),
  );

  it(
    'does not let the socket be released, since its bytes would be lost',
    onPair(async (left, right) => {
      const controller = new AbortController();
      const aborted = right.receiveExactly(10, { signal: controller.signal });
      await left.send(Buffer.from('abc'));
      await turns();
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      assert.throws(() => right.release(), { code: 'ERR_BYTES_ALREADY_READ' });
      assert.equal(await receivedText(right), 'abc');
      right.release().close();
    }),
  );
});

describe('an aborted send', () => {
  it(
    'sends nothing while it is queued, and its descriptors stay with the caller',
    onPair(async (left, right) => {
      using file = openFile('file');
      const { taken, waiting } = await fill(left);
      const controller = new AbortController();
      const aborted = left.send(Buffer.from('never'), [file], { signal: controller.signal });
      const later = left.send(Buffer.from('later'));
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      assert.equal(textOf(file), 'file');
      const filler = await receivedBytes(right, taken + 16_384);
      assert.equal(
        filler.every((byte) => byte === 0x66),
        true,
      );
      await waiting;
      await later;
      using message = await received(right.receive());
      assert.equal(message.bytes.toString(), 'later');
      assert.equal(message.descriptors.length, 0);
    }),
  );

  it(
    'is still finished once a part of it is sent, so that the stream is not broken',
    onPair(async (left, right) => {
      const bytes = Buffer.alloc(2_000_000, 'abcdefg');
      const controller = new AbortController();
      const send = left.send(bytes, [], { signal: controller.signal });
      assert.equal(await isPending(send), true);
      controller.abort(reason);
      assert.equal((await receivedBytes(right, bytes.length)).equals(bytes), true);
      await send;
    }),
  );

  it(
    'is not even started by a signal that was aborted before',
    onPair(async (left, right) => {
      using file = openFile('file');
      await assert.rejects(
        left.send(Buffer.from('x'), [file], { signal: AbortSignal.abort(reason) }),
        reason,
      );
      assert.equal(right.peek(), null);
      assert.equal(textOf(file), 'file');
    }),
  );

  it(
    'lets close() finish when it was the last waiting send',
    onPair(async (left, right) => {
      const controller = new AbortController();
      const { waiting, taken } = await fill(left);
      const aborted = left.send(Buffer.from('never'), [], { signal: controller.signal });
      const closed = left.close();
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      await receivedBytes(right, taken + 16_384);
      await waiting;
      await closed;
      assert.equal(await right.receive(), null);
    }),
  );
});

describe('a signal', () => {
  it(
    'keeps no listener of an operation that is over',
    onPair(async (left, right) => {
      const { signal } = new AbortController();
      const waiting = right.receiveExactly(2, { signal });
      await left.send(Buffer.from('ab'), [], { signal });
      await waiting;
      const readable = right.untilReadable({ signal });
      await left.send(Buffer.from('ab'), [], { signal });
      await readable;
      await right.receive(10, { signal });

      const big = left.send(Buffer.alloc(1_000_000), [], { signal });
      await turns();
      await receivedBytes(right, 1_000_000);
      await big;
      const rejected = right.receive(1, { signal });
      right.destroy();
      await assert.rejects(rejected);
      assert.equal(getEventListeners(signal, 'abort').length, 0);
    }),
  );
});
