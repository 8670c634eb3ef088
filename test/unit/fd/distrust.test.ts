// Descriptors that a distrusted peer passes or makes slow to close: this thread never waits for them.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { closeAll, connect, listen, socketPair, StreamSocket } from '../../../src/fd/index.js';
import { keepsDescriptors, openDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { openFile, temporaryDirectory } from '../../support/files.js';
import { withoutPython } from '../../support/python.js';
import { passSlow, slowCloses } from '../../support/slow-close.js';
import { received } from '../../support/stream.js';

/** A user that has nothing to do with these tests. */
const USER = 4711;

async function until(fact: () => boolean): Promise<void> {
  while (!fact()) await nextTurn();
}

describe('a distrusted descriptor', () => {
  it(
    'is closed by a thread: a slow close makes only that thread wait',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      const end = await passSlow(there);
      there.destroy();
      here.distrust(USER);
      const message = await received(here.receive());
      const [slow] = message.takeDescriptors();
      assert.equal(slow?.account, USER);
      closeAll([slow]);
      assert.equal(slow.closed, true);
      const other = here.duplicate();
      other.close();
      assert.equal(slowCloses(), 2);
      here.trust();
      here.destroy();
      await end();
      await until(() => slowCloses() === 0);
    }),
  );

  it(
    'is closed at once when it is trusted again, and by default',
    keepsDescriptors(() => {
      const before = openDescriptors();
      openFile('a').close();
      const descriptor = openFile('b');
      descriptor.distrust(USER);
      descriptor.trust();
      descriptor.close();
      assert.deepEqual(openDescriptors(), before);
    }),
  );

  it(
    'stays distrusted with its next owner',
    keepsDescriptors(() => {
      const [left, right] = socketPair();
      const descriptor = left.release();
      descriptor.distrust(USER);
      const moved = descriptor.move();
      const socket = new StreamSocket(moved);
      using released = socket.release();
      using duplicate = released.duplicate();
      assert.deepEqual([descriptor.closed, moved.closed, duplicate.account], [true, true, USER]);
      right.destroy();
    }),
  );
});

describe('a stream socket of a distrusted peer', () => {
  it(
    'receives the bytes before an unexpected descriptor, then fails, and then ends',
    keepsDescriptors(async () => {
      const [left, right] = socketPair();
      right.distrust(USER);
      await left.send(Buffer.from('before'));
      {
        using file = openFile('a');
        await left.send(Buffer.from('with'), [file]);
      }
      const before = openDescriptors();
      assert.equal((await received(right.receive(undefined, { descriptors: 0 }))).bytes.toString(), 'before');
      await assert.rejects(
        right.receive(undefined, { descriptors: 0 }),
        failsWith('ERR_UNEXPECTED_DESCRIPTORS'),
      );
      assert.deepEqual(openDescriptors(), before);
      assert.equal((await received(right.receive(undefined, { descriptors: 0 }))).bytes.toString(), 'with');
      assert.equal(await right.receive(), null);
      left.destroy();
      right.destroy();
    }),
  );

  it(
    'receives exactly the bytes asked for when an expected descriptor follows',
    keepsDescriptors(async () => {
      const [left, right] = socketPair();
      right.distrust(USER);
      await left.send(Buffer.from('hello'));
      {
        using file = openFile('a');
        await left.send(Buffer.from('custody'), [file]);
      }
      assert.equal((await received(right.receiveExactly(5))).bytes.toString(), 'hello');
      using message = await received(right.receive());
      assert.deepEqual([message.bytes.toString(), message.descriptors.length], ['custody', 1]);
      left.destroy();
      right.destroy();
    }),
  );

  it(
    'is closed while a slow descriptor is in its queue, without waiting',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      const end = await passSlow(there);
      there.destroy();
      here.distrust(USER);
      here.destroy();
      assert.equal(slowCloses(), 1);
      await end();
      await until(() => slowCloses() === 0);
    }),
  );
});

describe('a listening Unix socket of distrusted peers', () => {
  it(
    'is closed while a slow descriptor is in its backlog, and close waits for at most a second',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const acceptor = await listen(`${directory.path}/socket`);
      acceptor.distrustPeers(() => undefined);
      const client = await connect(`${directory.path}/socket`);
      const end = await passSlow(client);
      client.destroy();
      await acceptor.close();
      assert.equal(slowCloses(), 1);
      await end();
      await until(() => slowCloses() === 0);
    }),
  );

  it(
    'gives each connection to the account of its user',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      await using acceptor = await listen(`${directory.path}/socket`);
      acceptor.distrustPeers(() => undefined);
      using client = await connect(`${directory.path}/socket`);
      using connection = await acceptor.accept();
      assert.equal(client.closed, false);
      assert.equal(connection.account, process.geteuid?.());
    }),
  );
});
