// FrameReader: cuts a stream that arrives in any pieces into frames, and finds the descriptors of each.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { Descriptor } from '../../../src/fd/index.js';
import { FrameReader } from '../../../src/handoff/frame-reader.js';
import { encodeFrame } from '../../../src/handoff/index.js';
import { MAX_PAYLOAD_BYTES } from '../../../src/handoff/messages.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { openFile, takeTexts } from '../../support/files.js';

const words = ['a', 'frame', 'x'.repeat(300), '{"type":"ready"}'];
const stream = Buffer.concat(words.map((word) => encodeFrame(Buffer.from(word))));

/** Every frame that is complete. */
function wordsIn(reader: FrameReader): string[] {
  const found: string[] = [];
  for (let payload = reader.next(); payload; payload = reader.next()) found.push(payload.toString());
  return found;
}

function files(...texts: string[]): Descriptor[] {
  return texts.map(openFile);
}

describe('a FrameReader', () => {
  it('finds the frames, in whatever pieces they come', () => {
    for (const size of [1, 2, 3, 4, 5, 7, 100, stream.length]) {
      const reader = new FrameReader();
      const found: string[] = [];
      for (let start = 0; start < stream.length; start += size) {
        reader.pushBytes(stream.subarray(start, start + size));
        found.push(...wordsIn(reader));
      }
      assert.deepEqual(found, words, String(size));
    }
  });

  it('returns a frame when its last byte has come, and not before', () => {
    const reader = new FrameReader();
    reader.pushBytes(stream.subarray(0, 4));
    assert.equal(reader.next(), undefined);
    reader.pushBytes(stream.subarray(4, 5));
    assert.equal(reader.next()?.toString(), 'a');
    assert.equal(reader.next(), undefined);
  });

  it('keeps a frame unchanged by the frames after it', () => {
    const reader = new FrameReader();
    reader.pushBytes(Buffer.from(stream));
    const first = reader.next();
    const second = reader.next();
    reader.pushBytes(Buffer.from(stream));
    assert.deepEqual([first?.toString(), second?.toString()], ['a', 'frame']);
  });

  it('takes frames up to the limit, and fails for a longer one as soon as its length has come', () => {
    const reader = new FrameReader();
    reader.pushBytes(encodeFrame(Buffer.alloc(MAX_PAYLOAD_BYTES)));
    assert.equal(reader.next()?.length, MAX_PAYLOAD_BYTES);
    for (const length of [0, MAX_PAYLOAD_BYTES + 1, 0x7fff_ffff, 0xffff_ffff]) {
      const broken = new FrameReader();
      const header = Buffer.alloc(4);
      header.writeUInt32BE(length);
      broken.pushBytes(header.subarray(0, 3));
      assert.equal(broken.next(), undefined);
      broken.pushBytes(header.subarray(3));
      assert.throws(() => broken.next(), failsWith('ERR_PROTOCOL', new RegExp(`announces ${length} bytes`)));
    }
  });

  it(
    'returns groups of descriptors in the order in which they came',
    keepsDescriptors(() => {
      const reader = new FrameReader();
      reader.pushGroup(files('1', '2'));
      reader.pushGroup(files('3'));
      const first = reader.takeGroup(2);
      const second = reader.takeGroup(1);
      assert.ok(first !== 'lost' && second !== 'lost');
      assert.deepEqual([takeTexts(first), takeTexts(second)], [['1', '2'], ['3']]);
    }),
  );

  it(
    'reports that a group was lost, and goes on with the next one',
    keepsDescriptors(() => {
      const reader = new FrameReader();
      reader.pushGroup('lost');
      reader.pushGroup(files('2'));
      assert.equal(reader.takeGroup(200), 'lost');
      const next = reader.takeGroup(1);
      assert.ok(next !== 'lost');
      assert.deepEqual(takeTexts(next), ['2']);
    }),
  );

  it(
    'closes a group that is larger or smaller than announced, and throws',
    keepsDescriptors(() => {
      for (const announced of [1, 3, 0]) {
        const reader = new FrameReader();
        const group = files('1', '2');
        reader.pushGroup(group);
        assert.throws(
          () => reader.takeGroup(announced),
          failsWith('ERR_PROTOCOL', new RegExp(`${announced} descriptors were announced, and 2 came`)),
        );
        assert.ok(group.every(({ closed }) => closed));
      }
    }),
  );

  it('throws when no group came', () => {
    for (const announced of [0, 1]) {
      assert.throws(() => new FrameReader().takeGroup(announced), failsWith('ERR_PROTOCOL', /and 0 came/));
    }
  });

  it(
    'closes what was not taken',
    keepsDescriptors(() => {
      const reader = new FrameReader();
      const group = files('1', '2');
      reader.pushGroup(group);
      reader.pushGroup('lost');
      reader.close();
      reader.close();
      assert.ok(group.every(({ closed }) => closed));
    }),
  );
});
