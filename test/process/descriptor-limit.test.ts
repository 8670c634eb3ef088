// A process at its descriptor limit: nothing is half done, nothing leaks, and it goes on when there is room.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { connect, type Descriptor, type TcpAddress } from '../../src/fd/index.js';
import { Child } from '../support/child.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { openFile } from '../support/files.js';
import { received } from '../support/stream.js';

const LIMIT = 64;
const ERR_DESCRIPTOR_LIMIT = 'ERR_DESCRIPTOR_LIMIT';

/** A child with few descriptors, which runs one step of the fixture. */
function limited(step: string): Child {
  return new Child('limit', { args: [step], descriptorLimit: LIMIT });
}

describe('a process at its descriptor limit', () => {
  it(
    'is told that descriptors were lost, keeps none, gets the bytes, and works again when it has room',
    keepsDescriptors(async () => {
      using file = openFile('file');
      await using child = limited('receive');
      assert.equal(await child.next(), 'full');
      await child.channel.send(Buffer.from('glued '));
      await child.channel.send(Buffer.from('x'), [file, file, file]);
      assert.deepEqual(await child.next(), { code: 'ERR_DESCRIPTORS_LOST', open: 0 });
      assert.equal(await child.next(), 'glued x with 0');
      assert.equal(await child.next(), 'free');
      await child.channel.send(Buffer.from('y'), [file, file, file]);
      assert.equal(await child.next(), 'y with 3');
      assert.equal(await child.exit, 0);
    }),
  );

  it(
    'closes the descriptors that came before, when those of a later part are lost',
    keepsDescriptors(async () => {
      using file = openFile('file');
      await using child = limited('receiveExactly');
      assert.equal(await child.next(), 'full');
      await child.channel.send(Buffer.from('ab'), [file]);
      await child.channel.send(Buffer.from('cd'), [file, file, file]);
      assert.deepEqual(await child.next(), { code: 'ERR_DESCRIPTORS_LOST', open: 0 });
      assert.equal(await child.next(), 'abcd with 0');
      assert.equal(await child.exit, 0);
    }),
  );

  it(
    'leaves connections in the backlog, warns, and accepts them when it has room',
    keepsDescriptors(async () => {
      await using child = limited('accept');
      const address = await child.next<TcpAddress>();
      using first = await connect(address);
      using second = await connect(address);
      await child.channel.send(Buffer.from('connected'));
      assert.deepEqual(await child.next(), { code: ERR_DESCRIPTOR_LIMIT, pending: true });
      assert.equal(await child.next(), 1);
      assert.equal(await child.next(), 1);
      assert.equal(await child.exit, 0);
      assert.deepEqual([await first.receive(), await second.receive()], [null, null]);
    }),
  );

  it(
    'is not kept alive by an unreferenced acceptor for which connections wait',
    keepsDescriptors(async () => {
      await using child = limited('acceptUnreferenced');
      using client = await connect(await child.next<TcpAddress>());
      await child.channel.send(Buffer.from('connected'));
      assert.equal(await child.next(), 'unreferenced');
      assert.equal(await child.exit, 0);
      assert.equal(client.closed, false);
    }),
  );

  it(
    'refuses a send that has to wait and cannot keep its descriptors, and loses nothing',
    keepsDescriptors(async () => {
      await using child = limited('send');
      const count = await child.next<number>();
      const taken: Descriptor[] = [];
      const arrived: number[] = [];
      // One of them waits, since there was room for one duplicate; the two behind it were refused.
      while (arrived.length < count - 2) {
        using message = await received(child.channel.receive());
        arrived.push(...message.bytes);
        taken.push(...message.takeDescriptors());
      }
      const outcomes = await child.next<string[]>();
      assert.deepEqual(outcomes.slice(-3), ['done', ERR_DESCRIPTOR_LIMIT, ERR_DESCRIPTOR_LIMIT]);
      assert.equal(outcomes.filter((outcome) => outcome === 'done').length, count - 2);
      assert.deepEqual(
        arrived,
        Array.from({ length: count - 2 }, (_, index) => index % 256),
      );
      assert.equal(taken.length, count - 2);
      for (const descriptor of taken) descriptor.close();
      using last = await received(child.channel.receive());
      assert.deepEqual([last.bytes.toString(), last.descriptors.length], ['again', 1]);
      assert.equal(await child.exit, 0);
    }),
  );

  it(
    'is told so by whatever makes a descriptor, and keeps what it has',
    keepsDescriptors(async () => {
      await using child = limited('make');
      assert.deepEqual(await child.next(), {
        socketPair: ERR_DESCRIPTOR_LIMIT,
        listen: ERR_DESCRIPTOR_LIMIT,
        connect: ERR_DESCRIPTOR_LIMIT,
        duplicate: ERR_DESCRIPTOR_LIMIT,
        toServer: ERR_DESCRIPTOR_LIMIT,
        toFileHandle: ERR_DESCRIPTOR_LIMIT,
      });
      assert.equal(await child.next(), 'works again');
      assert.equal(await child.exit, 0);
    }),
  );
});
