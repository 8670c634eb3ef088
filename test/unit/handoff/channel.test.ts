// Channel: frames and descriptors over a real socket, one after the other, until it ends.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { StreamSocket, type Descriptor } from '../../../src/fd/index.js';
import { Channel, encodeFrame } from '../../../src/handoff/index.js';
import { failsWith } from '../../support/errors.js';
import { openFile, takeTexts } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { onPair } from '../../support/stream.js';

function frame(text: string): Buffer {
  return encodeFrame(Buffer.from(text));
}

/** Reads until the end. A frame `N` takes N descriptors; the result has their texts. */
async function readAll(socket: StreamSocket): Promise<string[]> {
  const told: string[] = [];
  const channel = new Channel(socket);
  try {
    await channel.read((payload, take) => {
      const text = payload.toString();
      const count = Number.parseInt(text);
      const group = count > 0 ? take(count) : [];
      told.push(group === 'lost' ? `${text} lost` : [text, ...takeTexts(group)].join(' '));
      return undefined;
    });
  } finally {
    channel.socket.destroy();
  }
  return told;
}

function withFiles(
  texts: readonly string[],
  body: (files: readonly Descriptor[]) => Promise<void>,
): Promise<void> {
  const files = texts.map(openFile);
  const sent = body(files);
  for (const file of files) file.close();
  return sent;
}

describe('a Channel that is sent more than it can handle', () => {
  const cases = [
    { what: '64 frames', share: 64, payload: 'x', count: 2000 },
    { what: '64 KiB, and what comes in one frame', share: 2, payload: 'x'.repeat(60_000), count: 20 },
  ];
  for (const { what, share, payload, count } of cases) {
    it(
      `handles ${what} in a turn of the event loop`,
      onPair(async (left, right) => {
        const sent = left.send(Buffer.concat(Array<Buffer>(count).fill(frame(payload))));
        let handled = 0;
        const reading = new Channel(right).read(() => {
          handled++;
          return undefined;
        });
        for (let before = 0; handled < count; before = handled) {
          await turns(1);
          assert.ok(handled - before <= share, `${handled - before} were handled in a turn`);
        }
        await sent;
        left.destroy();
        await reading;
      }),
    );
  }
});

describe('a Channel', () => {
  it(
    'brings frames with their descriptors, in order, until the stream ends',
    onPair(async (left, right) => {
      const channel = new Channel(left);
      await channel.post(frame('none'));
      await withFiles(['a', 'b'], (files) => channel.post(frame('2'), files));
      await withFiles(['c'], (files) => channel.post(frame('1'), files));
      await channel.post(frame('the last'));
      left.destroy();
      assert.deepEqual(await readAll(right), ['none', '2 a b', '1 c', 'the last']);
    }),
  );

  it(
    'gives a frame its descriptors also when the rest of the frame comes later, after the next descriptors',
    onPair(async (left, right) => {
      const reading = readAll(right);
      await withFiles(['a'], (files) => left.send(frame('1').subarray(0, 2), files));
      await withFiles(['b', 'c'], (files) =>
        left.send(Buffer.concat([frame('1').subarray(2), frame('2').subarray(0, 1)]), files),
      ).catch(() => undefined);
      await left.send(frame('2').subarray(1));
      left.destroy();
      assert.deepEqual(await reading, ['1 a', '2 b c']);
    }),
  );

  it(
    'waits for the promise of a handler before it reads on',
    onPair(async (left, right) => {
      const told: string[] = [];
      let finish: (() => void) | undefined;
      const reading = new Channel(right).read((payload) => {
        told.push(payload.toString());
        return new Promise((resolve) => (finish = resolve));
      });
      await left.send(Buffer.concat([frame('first'), frame('second')]));
      assert.equal(await isPending(reading), true);
      assert.deepEqual(told, ['first']);
      finish?.();
      await isPending(reading);
      assert.deepEqual(told, ['first', 'second']);
      finish?.();
      left.destroy();
      await reading;
    }),
  );

  it(
    'brings what a peer had sent before it died, although the peer had not read everything',
    onPair(async (left, right) => {
      await right.send(Buffer.from('unread'));
      await left.send(frame('last words'));
      left.destroy();
      assert.deepEqual(await readAll(right), ['last words']);
    }),
  );

  it(
    'closes every descriptor that was not taken, however it ends',
    onPair(async (left, right) => {
      await withFiles(['a', 'b'], (files) => left.send(frame('none'), files));
      await withFiles(['c'], (files) => left.send(frame('2').subarray(0, 3), files));
      left.destroy();
      assert.deepEqual(await readAll(right), ['none']);
    }),
  );

  it(
    'gives a frame in two pieces its descriptors, and the next frame those of the second piece',
    onPair(async (left, right) => {
      await withFiles(['a', 'b'], (files) => left.send(frame('2').subarray(0, 3), files));
      await left.send(frame('2').subarray(3));
      await withFiles(['c'], (files) => left.send(frame('1'), files));
      left.destroy();
      assert.deepEqual(await readAll(right), ['2 a b', '1 c']);
    }),
  );

  it(
    'fails when descriptors come with the third byte of a frame, and closes them',
    onPair(async (left, right) => {
      const reading = readAll(right);
      for (const byte of frame('2').subarray(0, 3)) {
        await withFiles(['a'], (files) => left.send(Buffer.of(byte), files));
      }
      await assert.rejects(reading, failsWith('ERR_PROTOCOL', /no frame announced/));
    }),
  );

  it(
    'stops when its handler throws, and can go on after that frame',
    onPair(async (left, right) => {
      await left.send(frame('first'));
      await withFiles(['a', 'b'], (files) => left.send(Buffer.concat([frame('2'), frame('last')]), files));
      left.destroy();
      const channel = new Channel(right);
      const told: string[] = [];
      for (const word of ['first', '2', 'last']) {
        const reading = channel.read((payload) => {
          told.push(payload.toString());
          throw new RangeError('of the handler');
        });
        await assert.rejects(reading, RangeError, word);
      }
      await channel.read(() => assert.fail('nothing is left'));
      assert.deepEqual(told, ['first', '2', 'last']);
      channel.socket.destroy();
    }),
  );

  it(
    'reads no further than the whole frames when it is frozen, and returns the part of the next one',
    onPair(async (left, right) => {
      const told: string[] = [];
      let finish: (() => void) | undefined;
      const channel = new Channel(right);
      const reading = channel.read((payload) => {
        told.push(payload.toString());
        return new Promise((resolve) => (finish = resolve));
      });
      await left.send(Buffer.concat([frame('one'), frame('two'), frame('three').subarray(0, 6)]));
      await isPending(reading);
      const freezing = channel.freeze();
      await left.send(frame('three').subarray(6));
      assert.equal(await isPending(freezing), true);
      finish?.();
      assert.equal(await isPending(freezing), true);
      finish?.();
      assert.deepEqual(await freezing, frame('three').subarray(0, 6));
      assert.deepEqual(told, ['one', 'two']);

      // Another owner continues with the socket, and with the bytes that were read.
      const next = new Channel(new StreamSocket(right.duplicate()), { partial: await freezing });
      left.destroy();
      await next.read((payload) => {
        told.push(payload.toString());
        return undefined;
      });
      assert.deepEqual(told, ['one', 'two', 'three']);
      next.socket.destroy();
      right.destroy();
      await assert.rejects(reading, failsWith('ERR_CLOSED'));
    }),
  );

  it(
    'goes on where it was when it is frozen and thaws',
    onPair(async (left, right) => {
      const told: string[] = [];
      const channel = new Channel(right);
      const reading = channel.read((payload) => {
        told.push(payload.toString());
        return undefined;
      });
      await left.send(frame('one').subarray(0, 5));
      await isPending(reading);
      assert.deepEqual(await channel.freeze(), frame('one').subarray(0, 5));
      await left.send(frame('one').subarray(5));
      left.destroy();
      assert.equal(await isPending(reading), true);
      right.thaw();
      await reading;
      assert.deepEqual(told, ['one']);
    }),
  );

  it(
    'fails at unexpected descriptors, and closes them',
    onPair(async (left, right) => {
      await withFiles(['a'], (files) => left.send(Buffer.of(0), files));
      const reading = new Channel(right, { mostDescriptors: () => 0 }).read(() => undefined);
      await assert.rejects(reading, failsWith('ERR_PROTOCOL', /passed descriptors/));
    }),
  );
});
