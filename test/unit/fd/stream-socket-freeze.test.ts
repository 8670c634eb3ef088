// A frozen StreamSocket: it sends and receives nothing until it thaws, and waiting messages can move to another process.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';

import type { Unsent } from '../../../src/fd/internal.js';
import { failsWith } from '../../support/errors.js';
import { openFile, textOf } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { onPair, received, receivedBytes, receivedText } from '../../support/stream.js';

/** Each as its bytes, and the texts of its files. */
function texts(unsent: readonly Unsent[]): string[][] {
  return unsent.map(({ bytes, descriptors }) => [Buffer.from(bytes).toString(), ...descriptors.map(textOf)]);
}

describe('a frozen StreamSocket', () => {
  it(
    'receives nothing until it thaws, whether the receive began before or after the freeze',
    onPair(async (left, right) => {
      const before = receivedText(right);
      right.freeze();
      await left.send(Buffer.from('hello'));
      assert.equal(await isPending(before), true);
      assert.equal(right.peek()?.toString(), 'hello');
      right.thaw();
      assert.equal(await before, 'hello');
      right.freeze();
      await left.send(Buffer.from('again'));
      const later = receivedText(right);
      assert.equal(await isPending(later), true);
      right.thaw();
      assert.equal(await later, 'again');
    }),
  );

  it(
    'sends nothing until it thaws, and then everything in order',
    onPair(async (left, right) => {
      left.freeze();
      using file = openFile('file');
      const sends = [left.send(Buffer.from('one ')), left.send(Buffer.from('two'), [file], { kept: true })];
      await turns();
      assert.equal(right.peek(), null);
      left.thaw();
      await Promise.all(sends);
      assert.equal((await receivedBytes(right, 4)).toString(), 'one ');
      using message = await received(right.receive());
      assert.deepEqual([message.bytes.toString(), message.descriptors.map(textOf)], ['two', ['file']]);
    }),
  );

  it(
    'lists what is unsent: the rest of a message that was sent in part, and whole messages with their descriptors',
    onPair(async (left, right) => {
      // More than the kernel takes.
      const large = randomBytes(1_000_000);
      using file = openFile('file');
      const sends = [left.send(large), left.send(Buffer.from('last'), [file], { kept: true })];
      left.freeze();
      const [rest, ...others] = left.unsent();
      assert.ok(rest);
      assert.deepEqual(rest.descriptors, []);
      assert.deepEqual(texts(others), [['last', 'file']]);
      // What the kernel has taken and what it has not taken are together everything, and nothing twice.
      const taken = large.length - rest.bytes.length;
      assert.ok(taken > 0 && taken < large.length);
      assert.ok(large.equals(Buffer.concat([await receivedBytes(right, taken), rest.bytes])));
      assert.equal(right.peek(), null);
      left.thaw();
      await Promise.all([...sends, receivedBytes(right, rest.bytes.length + 'last'.length)]);
      assert.deepEqual(left.unsent(), []);
    }),
  );

  it(
    'rejects waiting calls when it is destroyed, and does not go on when it is thawed',
    onPair(async (left, right) => {
      left.freeze();
      const sending = left.send(Buffer.from('never'));
      const receiving = left.receive();
      left.destroy();
      await assert.rejects(sending, failsWith('ERR_CLOSED'));
      await assert.rejects(receiving, failsWith('ERR_CLOSED'));
      left.thaw();
      assert.throws(() => {
        left.freeze();
      }, failsWith('ERR_CLOSED'));
      assert.equal(await receivedText(right), null);
    }),
  );
});
