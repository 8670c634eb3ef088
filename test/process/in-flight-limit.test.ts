// Too many descriptors in flight (ETOOMANYREFS): the kernel refuses more until some are received, and does not tell when.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Child } from '../support/child.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { received } from '../support/stream.js';

const LIMIT = 64;
const SENDS = 80;

const skip =
  process.getuid?.() === 0 ? false : 'needs root: its own limit is per user, so the child becomes another';

describe('a sender with too many descriptors in flight', { skip }, () => {
  it(
    'waits, and all of them arrive in order once the receiver reads',
    keepsDescriptors(async () => {
      await using child = new Child('in-flight', { args: [String(SENDS)], descriptorLimit: LIMIT });
      const sent = await child.next<number>();
      assert.ok(sent >= LIMIT && sent < SENDS, `${sent} were sent at once`);
      const arrived: number[] = [];
      while (arrived.length < SENDS) {
        using message = await received(child.channel.receive());
        assert.equal(message.descriptors.length, message.bytes.length);
        arrived.push(...message.bytes);
      }
      assert.deepEqual(
        arrived,
        Array.from({ length: SENDS }, (_, index) => index),
      );
      assert.equal(await child.next(), SENDS);
      assert.equal(await child.exit, 0);
    }),
  );

  it(
    'does not keep its process alive when its socket is unreferenced',
    keepsDescriptors(async () => {
      await using child = new Child('in-flight', { args: [String(SENDS), 'leave'], descriptorLimit: LIMIT });
      const sent = await child.next<number>();
      assert.equal(await child.exit, 0);
      for (let index = 0; index < sent; index++) {
        using message = await received(child.channel.receive());
        assert.deepEqual([...message.bytes], [index]);
      }
      assert.equal(await child.channel.receive(), null);
    }),
  );
});
