// StreamSocket: what a receive returns, and what it leaves in place.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';

import { openFile, takeTexts, textOf } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { onPair, received, receivedText } from '../../support/stream.js';

describe('a receive', () => {
  it(
    'delivers bytes and descriptors as they were sent',
    onPair(async (left, right) => {
      using first = openFile('first');
      using second = openFile('second');
      await left.send(Buffer.from('both'), [first, second]);
      using message = await received(right.receive());
      assert.equal(message.bytes.toString(), 'both');
      assert.deepEqual(message.descriptors.map(textOf), ['first', 'second']);
    }),
  );

  it(
    'waits for bytes that have not come yet',
    onPair(async (left, right) => {
      const receive = receivedText(right);
      assert.equal(await isPending(receive), true);
      await left.send(Buffer.from('late'));
      assert.equal(await receive, 'late');
    }),
  );

  it(
    'is served in the order of the calls',
    onPair(async (left, right) => {
      const texts = Promise.all([
        received(right.receive(1)),
        received(right.receiveExactly(3, { descriptors: 3 })),
        received(right.receive(2)),
        received(right.receiveExactly(1)),
      ]);
      await left.send(Buffer.from('abbbccd'));
      assert.deepEqual(
        (await texts).map(({ bytes }) => bytes.toString()),
        ['a', 'bbb', 'cc', 'd'],
      );
    }),
  );

  it(
    'takes no more bytes than asked for',
    onPair(async (left, right) => {
      await left.send(Buffer.from('abcdef'));
      using message = await received(right.receive(2));
      assert.equal(message.bytes.toString(), 'ab');
      const node = right.release().toSocket();
      const [rest] = (await once(node, 'data')) as [Buffer];
      assert.equal(rest.toString(), 'cdef');
      node.destroy();
    }),
  );

  it(
    'reads nothing without a receive, so that another process finds every byte',
    onPair(async (left, right) => {
      const first = receivedText(right); // makes it watch the socket
      await left.send(Buffer.from('first'));
      await first;
      await left.send(Buffer.from('second'));
      const untouched = left.unreadBytes;
      await turns();
      assert.equal(left.unreadBytes, untouched);
      assert.notEqual(untouched, 0);
    }),
  );

  it(
    'ends after a message with descriptors, and may bring the bytes before it',
    onPair(async (left, right) => {
      using file = openFile('file');
      await left.send(Buffer.from('before,'));
      await left.send(Buffer.from('with,'), [file]);
      await left.send(Buffer.from('later'));
      using message = await received(right.receive());
      assert.equal(message.bytes.toString(), 'before,with,');
      assert.deepEqual(message.descriptors.map(textOf), ['file']);
      using rest = await received(right.receive());
      assert.equal(rest.bytes.toString(), 'later');
      assert.equal(rest.descriptors.length, 0);
    }),
  );

  it(
    'keeps two messages with descriptors apart',
    onPair(async (left, right) => {
      using first = openFile('first');
      using second = openFile('second');
      await left.send(Buffer.from('1'), [first]);
      await left.send(Buffer.from('2'), [second]);
      for (const [bytes, text] of [
        ['1', 'first'],
        ['2', 'second'],
      ]) {
        using message = await received(right.receive());
        assert.equal(message.bytes.toString(), bytes);
        assert.deepEqual(message.descriptors.map(textOf), [text]);
      }
    }),
  );

  it(
    'brings the descriptors with the first byte of a message that is read in pieces',
    onPair(async (left, right) => {
      using file = openFile('file');
      await left.send(Buffer.from('abc'), [file]);
      using first = await received(right.receive(1));
      assert.deepEqual(first.descriptors.map(textOf), ['file']);
      using rest = await received(right.receive());
      assert.equal(rest.bytes.toString(), 'bc');
      assert.equal(rest.descriptors.length, 0);
    }),
  );

  it(
    'brings null at the end of the stream, again and again',
    onPair(async (left, right) => {
      await left.send(Buffer.from('last'));
      await left.close();
      assert.equal(await receivedText(right), 'last');
      assert.equal(await right.receive(), null);
      assert.equal(await right.receive(), null);
    }),
  );

  it(
    'refuses a length that is not a number of bytes',
    onPair(async (left, right) => {
      left.destroy();
      for (const length of [0, -1, 1.5, NaN, Infinity]) {
        await assert.rejects(right.receive(length), TypeError);
        await assert.rejects(right.receiveExactly(length), TypeError);
        assert.throws(() => right.peek(length), TypeError);
      }
    }),
  );
});

describe('a receive that says how many descriptors may come', () => {
  it(
    'closes all when more come, and leaves the bytes to the next receive',
    onPair(async (left, right) => {
      using file = openFile('file');
      for (const descriptors of [0, 1]) {
        await left.send(Buffer.from('x'), [file, file]);
        await assert.rejects(right.receive(10, { descriptors }), { code: 'ERR_UNEXPECTED_DESCRIPTORS' });
        assert.equal(await receivedText(right), 'x');
      }
      await left.send(Buffer.from('y'), [file, file]);
      using message = await received(right.receive(10, { descriptors: 2 }));
      assert.equal(message.descriptors.length, 2);
    }),
  );

  it(
    'accepts only a whole number of them',
    onPair(async (_, right) => {
      for (const descriptors of [-1, 0.5, Number.NaN]) {
        await assert.rejects(right.receive(1, { descriptors }), TypeError);
        await assert.rejects(right.receiveExactly(1, { descriptors }), TypeError);
      }
    }),
  );
});

describe('receiveExactly', () => {
  it(
    'puts together what comes byte by byte, with the descriptors among it',
    onPair(async (left, right) => {
      const receive = received(right.receiveExactly(26, { descriptors: 26 }));
      for (let letter = 0; letter < 26; letter++) {
        using file = openFile(String(letter));
        await left.send(Buffer.of(97 + letter), letter % 5 === 0 ? [file] : []);
        assert.equal(await isPending(receive), letter < 25);
      }
      using message = await receive;
      assert.equal(message.bytes.toString(), 'abcdefghijklmnopqrstuvwxyz');
      assert.deepEqual(takeTexts(message.takeDescriptors()), ['0', '5', '10', '15', '20', '25']);
    }),
  );

  it(
    'puts together what already waits in several messages',
    onPair(async (left, right) => {
      using file = openFile('file');
      for (const text of ['a', 'b', 'c', 'd']) await left.send(Buffer.from(text), [file]);
      using message = await received(right.receiveExactly(3, { descriptors: 3 }));
      assert.equal(message.bytes.toString(), 'abc');
      assert.equal(message.descriptors.length, 3);
      using rest = await received(right.receiveExactly(1, { descriptors: 1 }));
      assert.equal(rest.descriptors.length, 1);
    }),
  );

  it(
    'accepts no descriptor without the option, and leaves the bytes to the next receive',
    onPair(async (left, right) => {
      using file = openFile('file');
      const receive = right.receiveExactly(4);
      await left.send(Buffer.from('ab'));
      await left.send(Buffer.from('c'), [file]);
      await assert.rejects(receive, { code: 'ERR_UNEXPECTED_DESCRIPTORS' });
      await left.send(Buffer.from('d'));
      assert.equal((await received(right.receiveExactly(4))).bytes.toString(), 'abcd');
    }),
  );

  it(
    'accepts the given number of descriptors in all, together or one by one',
    onPair(async (left, right) => {
      using file = openFile('file');
      const receive = right.receiveExactly(4, { descriptors: 3 });
      await left.send(Buffer.from('a'), [file, file]);
      await left.send(Buffer.from('b'), [file]);
      assert.equal(await isPending(receive), true);
      await left.send(Buffer.from('c'), [file]);
      await assert.rejects(receive, { code: 'ERR_UNEXPECTED_DESCRIPTORS' });
    }),
  );

  it(
    'counts the descriptors that an earlier receive had put back',
    onPair(async (left, right) => {
      using file = openFile('file');
      const controller = new AbortController();
      const aborted = right.receiveExactly(4, { descriptors: 1, signal: controller.signal });
      await left.send(Buffer.from('a'), [file]);
      await turns();
      controller.abort();
      await assert.rejects(aborted, { name: 'AbortError' });
      await assert.rejects(right.receiveExactly(1), { code: 'ERR_UNEXPECTED_DESCRIPTORS' });
      assert.equal(await receivedText(right), 'a');
    }),
  );

  it(
    'takes more than the first allocation as it comes',
    onPair(async (left, right) => {
      const bytes = Buffer.alloc(3_000_001, '0123456789abc');
      const send = left.send(bytes);
      using message = await received(right.receiveExactly(bytes.length));
      await send;
      assert.equal(message.bytes.equals(bytes), true);
    }),
  );

  it(
    'takes no memory for a length that is only announced',
    onPair(async (left, right) => {
      const before = process.memoryUsage().arrayBuffers;
      const receive = right.receiveExactly(Number.MAX_SAFE_INTEGER);
      assert.ok(process.memoryUsage().arrayBuffers - before < 4_000_000);
      left.destroy();
      assert.equal(await receive, null);
    }),
  );

  it(
    'brings null when the stream ends before the first byte',
    onPair(async (left, right) => {
      left.destroy();
      assert.equal(await right.receiveExactly(4), null);
    }),
  );

  it(
    'rejects with ERR_EOF when the stream ends early, and closes the descriptors that had come',
    onPair(async (left, right) => {
      using file = openFile('file');
      await left.send(Buffer.from('abc'), [file]);
      await left.close();
      await assert.rejects(right.receiveExactly(4, { descriptors: 1 }), {
        code: 'ERR_EOF',
        message: /3 of 4/,
      });
    }),
  );
});

describe('peek', () => {
  it(
    'leaves bytes and descriptors in place',
    onPair(async (left, right) => {
      using file = openFile('file');
      await left.send(Buffer.from('abc'), [file]);
      assert.equal(right.peek()?.toString(), 'abc');
      assert.equal(right.peek(2)?.toString(), 'ab');
      using message = await received(right.receive());
      assert.equal(message.bytes.toString(), 'abc');
      assert.deepEqual(message.descriptors.map(textOf), ['file']);
    }),
  );

  it(
    'distinguishes "nothing yet" from "the end"',
    onPair((left, right) => {
      assert.equal(right.peek(), null);
      left.destroy();
      assert.equal(right.peek()?.length, 0);
    }),
  );
});

describe('untilReadable', () => {
  it(
    'resolves when bytes came, and leaves them',
    onPair(async (left, right) => {
      const readable = right.untilReadable();
      assert.equal(await isPending(readable), true);
      await left.send(Buffer.from('x'));
      await readable;
      await right.untilReadable();
      assert.equal(await receivedText(right), 'x');
    }),
  );

  it(
    'resolves at the end of the stream',
    onPair(async (left, right) => {
      left.destroy();
      await right.untilReadable();
      assert.equal(await right.receive(), null);
    }),
  );

  it(
    'leaves an error to the receive that follows',
    onPair(async (left, right) => {
      await right.send(Buffer.from('never read'));
      left.destroy();
      await right.untilReadable();
      assert.throws(() => right.peek(), { code: 'ERR_PEER_GONE' });
      await right.untilReadable();
      await assert.rejects(right.receive(), { code: 'ERR_PEER_GONE' });
      assert.equal(await right.receive(), null);
    }),
  );
});

describe('iterating over a StreamSocket', () => {
  it(
    'ends with the stream, and closes the descriptors that the body leaves',
    onPair(async (left, right) => {
      using file = openFile('file');
      for (const text of ['1', '2', '3']) await left.send(Buffer.from(text), [file, file]);
      await left.close();
      const seen: string[] = [];
      for await (const message of right) {
        seen.push(message.bytes.toString());
        using taken = message.takeDescriptor();
        assert.equal(textOf(taken), 'file');
      }
      assert.deepEqual(seen, ['1', '2', '3']);
    }),
  );

  it(
    'closes the descriptors that the body leaves when it breaks or throws',
    onPair(async (left, right) => {
      using file = openFile('file');
      await left.send(Buffer.from('1'), [file]);
      for await (const message of right) {
        assert.equal(message.descriptors.length, 1);
        break;
      }
      await left.send(Buffer.from('2'), [file]);
      await assert.rejects(async () => {
        for await (const message of right) throw new Error(message.bytes.toString());
      }, /2/);
    }),
  );
});
