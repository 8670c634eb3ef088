// TakeoverChannel: the messages between two generations over a real socket, its end, and invalid messages.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { StreamSocket } from '../../../src/fd/index.js';
import { encodeFrame } from '../../../src/handoff/index.js';
import {
  TakeoverChannel,
  type OutgoingMessage,
  type TakeoverMessage,
} from '../../../src/dispatcher/internal.js';
import { failsWith } from '../../support/errors.js';
import { openFile, takeTexts } from '../../support/files.js';
import { isPending } from '../../support/loop.js';
import { onPair } from '../../support/stream.js';

function frame(message: unknown): Buffer {
  return encodeFrame(Buffer.from(JSON.stringify(message)));
}

/** The next message with the texts of the files that came with it, which are closed. */
async function heard(channel: TakeoverChannel): Promise<[TakeoverMessage, ...string[]] | undefined> {
  const received = await channel.receive();
  return received && [received.message, ...takeTexts(received.descriptors)];
}

/** Sends a frame one byte at a time, and a file with each of some of them. */
async function trickle(
  socket: StreamSocket,
  bytes: Buffer,
  files: Readonly<Record<number, string>>,
): Promise<void> {
  for (const [index, byte] of bytes.entries()) {
    const text = files[index];
    using file = text === undefined ? undefined : openFile(text);
    await socket.send(Buffer.of(byte), file ? [file] : []);
  }
}

const listener: OutgoingMessage = {
  type: 'listener',
  id: 7,
  key: 'own 127.0.0.1:0',
  isOwn: true,
  accepted: 3,
  removesFile: false,
};

describe('a TakeoverChannel', () => {
  it(
    'delivers messages in order, each with its descriptors, and then the end',
    onPair(async (left, right) => {
      const [old, next] = [new TakeoverChannel(left), new TakeoverChannel(right)];
      using first = openFile('a');
      using second = openFile('b');
      await old.send(listener, [first, second]);
      await old.send({ type: 'all' });
      old[Symbol.dispose]();
      assert.deepEqual(await heard(next), [listener, 'a', 'b']);
      assert.deepEqual(await heard(next), [{ type: 'all' }]);
      assert.equal(await heard(next), undefined);
    }),
  );

  it(
    'assembles a message that comes byte by byte, with the descriptors of its first byte',
    onPair(async (left, right) => {
      const bytes = frame(listener);
      const receiving = heard(new TakeoverChannel(right));
      await trickle(left, bytes, { 0: 'with the first' });
      assert.deepEqual(await receiving, [listener, 'with the first']);
    }),
  );

  it(
    'accepts no descriptor with the payload, and closes those that came before',
    onPair(async (left, right) => {
      const refused = assert.rejects(
        new TakeoverChannel(right).receive(),
        failsWith('ERR_UNEXPECTED_DESCRIPTORS'),
      );
      await trickle(left, frame(listener).subarray(0, 6), { 0: 'with the first', 5: 'with the payload' });
      await refused;
    }),
  );

  it(
    'reads nothing of the next message',
    onPair(async (left, right) => {
      const next = new TakeoverChannel(right);
      await left.send(Buffer.concat([frame({ type: 'ready' }), frame({ type: 'started' })]));
      assert.deepEqual(await heard(next), [{ type: 'ready' }]);
      assert.equal(right.peek()?.toString('latin1'), frame({ type: 'started' }).toString('latin1'));
    }),
  );

  it(
    'ignores fields that a later release has added',
    onPair(async (left, right) => {
      await left.send(frame({ ...listener, colour: 'green' }));
      assert.deepEqual(await heard(new TakeoverChannel(right)), [listener]);
    }),
  );

  it(
    'ends after what a peer had sent before it died, even if the peer had not read everything',
    onPair(async (left, right) => {
      const next = new TakeoverChannel(right);
      await next.send({ type: 'ready' });
      await new TakeoverChannel(left).send({ type: 'go' });
      left.destroy();
      assert.deepEqual(await heard(next), [{ type: 'go' }]);
      assert.equal(await heard(next), undefined);
    }),
  );

  for (const [where, length] of [
    ['length', 2],
    ['payload', 9],
  ] as const) {
    it(
      `reports when the peer dies inside the ${where} of a message, and closes its descriptors`,
      onPair(async (left, right) => {
        using file = openFile('x');
        await left.send(frame(listener).subarray(0, length), [file]);
        left.destroy();
        await assert.rejects(new TakeoverChannel(right).receive(), failsWith('ERR_EOF'));
      }),
    );
  }

  it(
    'reports when the peer dies between the length and the payload, and closes the descriptors',
    onPair(async (left, right) => {
      using file = openFile('x');
      await left.send(frame(listener).subarray(0, 4), [file]);
      left.destroy();
      await assert.rejects(new TakeoverChannel(right).receive(), failsWith('ERR_EOF', /inside a message/));
    }),
  );

  it(
    'stops waiting when its signal is aborted',
    onPair(async (_left, right) => {
      const late = new AbortController();
      const receiving = new TakeoverChannel(right).receive(late.signal);
      assert.equal(await isPending(receiving), true);
      late.abort(new Error('late'));
      await assert.rejects(receiving, /late/);
    }),
  );

  const wrong: readonly (readonly [what: string, bytes: Buffer, message: RegExp])[] = [
    ['no bytes', Buffer.alloc(4), /announces 0 bytes/],
    ['more bytes than a message has', Buffer.from('01000001', 'hex'), /announces 16777217 bytes/],
    ['what is not JSON', encodeFrame(Buffer.from('{"type":')), /is not JSON/],
    ['an unknown type', frame({ type: 'give-me-everything' }), /Invalid takeover message/],
    ['a field of a wrong type', frame({ ...listener, accepted: '3' }), /accepted/],
    ['a negative count', frame({ ...listener, accepted: -1 }), /accepted/],
    ['no field that is needed', frame({ type: 'control' }), /removesFile/],
  ];
  for (const [what, bytes, message] of wrong) {
    it(
      `refuses a message with ${what}, and closes its descriptors`,
      onPair(async (left, right) => {
        using file = openFile('x');
        await left.send(bytes, [file]);
        await assert.rejects(new TakeoverChannel(right).receive(), failsWith('ERR_PROTOCOL', message));
      }),
    );
  }
});
