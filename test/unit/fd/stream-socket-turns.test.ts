// StreamSocket: a busy peer does not keep everything else in the process from running.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';

import { socketPair } from '../../../src/fd/index.js';
import { openFile } from '../../support/files.js';
import { isPending } from '../../support/loop.js';
import { onPair, received, receivedText } from '../../support/stream.js';

describe('a socket that always has something to read', () => {
  it(
    'gives timers and other sockets their turn',
    onPair(async (left, right) => {
      const [otherLeft, otherRight] = socketPair();
      using from = otherLeft;
      using to = otherRight;
      const signal = AbortSignal.timeout(1);
      const others: (string | null)[] = [];
      const other = receivedText(to).then((text) => others.push(text));
      await from.send(Buffer.from('other'));
      for (let messages = 0; others.length === 0 || !signal.aborted; messages++) {
        assert.ok(messages < 1_000_000, 'the loop starves the rest');
        await left.send(Buffer.from('x'));
        await receivedText(right);
      }
      await other;
    }),
  );

  it(
    'gives them their turn when the bytes had come before',
    onPair(async (left, right) => {
      const COUNT = 200;
      for (let sent = 0; sent < COUNT; sent++) await left.send(Buffer.from('x'));
      let count = 0;
      const turnAfter = setImmediate().then(() => count);
      for (; count < COUNT; count++) await right.receive(1);
      assert.notEqual(await turnAfter, COUNT);
    }),
  );
});

describe('a receiveExactly of what came in many messages', () => {
  it(
    'gives the event loop its turn',
    onPair(async (left, right) => {
      const COUNT = 200;
      using file = openFile('file');
      for (let sent = 0; sent < COUNT; sent++) await left.send(Buffer.from('x'), [file]);
      const order: string[] = [];
      await Promise.all([
        received(right.receiveExactly(COUNT, { descriptors: COUNT })).then((message) => {
          using all = message;
          order.push(`${all.descriptors.length} descriptors`);
        }),
        setImmediate().then(() => order.push('turn')),
      ]);
      assert.deepEqual(order, ['turn', `${COUNT} descriptors`]);
    }),
  );
});

describe('a socket that always takes what is sent', () => {
  it(
    'gives the event loop its turn',
    onPair(async (left, right) => {
      const COUNT = 200;
      let count = 0;
      const turnAfter = setImmediate().then(() => count);
      for (; count < COUNT; count++) await left.send(Buffer.from('x'));
      assert.notEqual(await turnAfter, COUNT);
      await received(right.receiveExactly(COUNT));
    }),
  );
});

describe('a peer that is gone after many messages', () => {
  it(
    'is read to the end, and the reset is reported after the last message',
    onPair(async (left, right) => {
      using file = openFile('file');
      const first = received(right.receive());
      await isPending(first);
      await right.send(Buffer.from('never read'));
      for (let sent = 0; sent < 200; sent++) await left.send(Buffer.from('x'), [file]);
      left.destroy();
      (await first).close();
      for (let count = 1; count < 200; count++) {
        const next = received(right.receive());
        assert.equal(await isPending(next), false, `receive ${count} hangs`);
        (await next).close();
      }
      await assert.rejects(right.receive(), { code: 'ERR_PEER_GONE' });
      assert.equal(await right.receive(), null);
    }),
  );
});

describe('a socket that is polled', () => {
  it(
    'receives what has come when it is polled, and not before',
    onPair(async (left, right) => {
      right.setPolled(true);
      await left.send(Buffer.from('early'));
      const first = receivedText(right);
      assert.equal(await isPending(first), true, 'also what was there before');
      right.poll();
      assert.equal(await first, 'early');
      const second = receivedText(right);
      right.poll();
      assert.equal(await isPending(second), true, 'there was nothing');
      await left.send(Buffer.from('late'));
      assert.equal(await isPending(second), true);
      right.poll();
      assert.equal(await second, 'late');
    }),
  );

  it(
    'receives by itself again when polling is off',
    onPair(async (left, right) => {
      right.setPolled(true);
      const waiting = receivedText(right);
      await left.send(Buffer.from('x'));
      assert.equal(await isPending(waiting), true);
      right.setPolled(false);
      assert.equal(await waiting, 'x');
      right.setPolled(true);
      const last = receivedText(right);
      left.destroy();
      assert.equal(await isPending(last), true);
      right.setPolled(false);
      assert.equal(await last, null);
    }),
  );

  it(
    'sends as usual, and can be closed',
    onPair(async (left, right) => {
      right.setPolled(true);
      await right.send(Buffer.from('x'));
      assert.equal(await receivedText(left), 'x');
      const waiting = right.receive();
      right.destroy();
      await assert.rejects(waiting, { code: 'ERR_CLOSED' });
      right.poll();
      right.setPolled(false);
    }),
  );
});
