// The Node-API layer: what its functions return, what they write, and that no argument can crash the process.
import assert from 'node:assert/strict';
import { fstatSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { MAX_DESCRIPTORS, NAME_LENGTH, native, RESULTS_LENGTH } from '../../src/fd/native.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { errno, openPair, receiveByte, runFixture, sendByte, untilReadable, withPair } from './support.js';

describe('the addon', () => {
  it(
    'fails, and never crashes, with any garbage as arguments',
    keepsDescriptors(async () => {
      const { code, signal, stdout, stderr } = await runFixture('misuse', []);
      assert.deepEqual({ code, signal, stderr }, { code: 0, signal: null, stderr: '' });
      const outcome = JSON.parse(stdout) as { calls: number; wrong: string[]; leaked: string[] };
      assert.deepEqual({ wrong: outcome.wrong, leaked: outcome.leaked }, { wrong: [], leaked: [] });
      assert.ok(outcome.calls > 50_000, `only ${outcome.calls} calls`);
    }),
  );

  it('exports what its type lists, and nothing else', () => {
    assert.deepEqual(Object.keys(native).sort(), [
      'Poll',
      'accept',
      'address',
      'boardBeat',
      'boardClock',
      'boardCreate',
      'boardMap',
      'close',
      'closeAll',
      'closeLater',
      'closing',
      'closingInAll',
      'connectTcp',
      'connectUnix',
      'describe',
      'duplicate',
      'holdBegin',
      'holdEnd',
      'identify',
      'isCloserFull',
      'isHeld',
      'isNonblocking',
      'listenTcp',
      'listenUnix',
      'lock',
      'lockDirectory',
      'openDiagnostics',
      'peek',
      'peer',
      'pidfdOpen',
      'queueLength',
      'reap',
      'receive',
      'receiveBytes',
      'refuse',
      'send',
      'sendDatagram',
      'sendHandoff',
      'setCloseOnExec',
      'setNonblocking',
      'shutdown',
      'shutdownWrite',
      'socketError',
      'socketPair',
      'takeReceipts',
      'takeRightsOnly',
      'unread',
      'watchReceipts',
      'willAddListener',
      'willCancel',
      'willCloseFirst',
      'willHandOut',
      'willOpen',
      'willPid',
      'willRemoveListener',
      'willSetChannel',
      'willTakeBack',
    ]);
  });

  it(
    'throws a TypeError for a part that is not inside the bytes, or room that is too short, on an open descriptor',
    keepsDescriptors(() =>
      withPair((one, other) => {
        const bytes = new Uint8Array(8);
        const none = new Int32Array(0);
        const results = new Int32Array(RESULTS_LENGTH);
        const name = new Uint8Array(NAME_LENGTH);
        sendByte(one, one);
        for (const [offset, length] of [...partsOutside(8), [0, 0], [-1, 1], [0, -1], [0.5, 1]] as const) {
          assert.throws(() => native.send(one, bytes, offset, length, none, 0), TypeError);
          assert.throws(() => native.receive(other, bytes, offset, length, results), TypeError);
        }
        const calls = [
          () => native.send(one, bytes, 0, 8, none, 1),
          () => native.send(one, bytes, 0, 8, Int32Array.of(one), 2),
          () => native.receive(other, bytes, 0, 8, results.subarray(1)),
          () => native.accept(other, none, 0),
          () => native.accept(other, results, RESULTS_LENGTH + 1),
          () => native.sendDatagram(bytes, bytes, none, 1),
          () => native.closeAll(none, 1),
          () => native.closeAll(results, RESULTS_LENGTH + 1),
          () => native.closeAll(results, -1),
          () => native.socketPair(results.subarray(0, 1)),
          () => native.peer(one, results.subarray(0, 2)),
          () => native.describe(one, results.subarray(0, 2)),
          () => native.address(one, 0, results.subarray(0, 1), name),
          () => native.address(one, 0, results, name.subarray(1)),
        ];
        for (const call of calls) assert.throws(call, TypeError, String(call));
        for (const fd of receiveByte(other)) native.close(fd);
      }),
    ),
  );

  it('names the wrong argument in a TypeError', () => {
    assert.throws(() => native.close(1.5), {
      name: 'TypeError',
      message: 'fd is not an integer from 0 to 2147483647',
    });
    assert.throws(() => native.socketPair(new Int32Array(1)), { name: 'TypeError', message: /^fds is not / });
  });
});

describe('send and receive of the addon', () => {
  it(
    'pass as many descriptors as count says, and only the bytes of the part',
    keepsDescriptors(() =>
      withPair((one, other) => {
        const target = Buffer.from('............');
        const results = new Int32Array(RESULTS_LENGTH).fill(-7);
        const sent = native.send(one, Buffer.from('hello world'), 6, 5, Int32Array.of(one, other, 99_999), 2);
        assert.equal(sent, 5);
        assert.equal(native.receive(other, target, 3, 6, results), 5);
        assert.equal(target.toString(), '...world....');
        const [count, truncated, first = -1, second = -1, ...rest] = results;
        assert.deepEqual([count, truncated], [2, 0]);
        assert.equal(fstatSync(first).ino, fstatSync(one).ino);
        assert.equal(fstatSync(second).ino, fstatSync(other).ino);
        assert.ok(rest.every((number) => number === -7));
        native.close(first);
        native.close(second);
      }),
    ),
  );

  it(
    'pass as many descriptors as the kernel takes, and throw for one more',
    keepsDescriptors(() =>
      withPair((one, other) => {
        sendByte(one, ...Array.from({ length: MAX_DESCRIPTORS }, () => one));
        const received = receiveByte(other);
        assert.equal(new Set(received).size, MAX_DESCRIPTORS);
        for (const fd of received) native.close(fd);
        const tooMany = new Int32Array(MAX_DESCRIPTORS + 1).fill(one);
        assert.throws(
          () => native.send(one, Buffer.from('x'), 0, 1, tooMany, MAX_DESCRIPTORS + 1),
          TypeError,
        );
      }),
    ),
  );

  it(
    'work on shared memory',
    keepsDescriptors(() =>
      withPair((one, other) => {
        const bytes = new Uint8Array(new SharedArrayBuffer(4)).fill(0x79);
        const target = new Uint8Array(new SharedArrayBuffer(8));
        const results = new Int32Array(new SharedArrayBuffer(4 * RESULTS_LENGTH));
        assert.equal(native.send(one, bytes, 0, 4, new Int32Array(0), 0), 4);
        assert.equal(native.receive(other, target, 2, 4, results), 4);
        assert.deepEqual([...target], [0, 0, 0x79, 0x79, 0x79, 0x79, 0, 0]);
      }),
    ),
  );

  it(
    'return a negative errno, and say that no descriptor came',
    keepsDescriptors(() =>
      withPair((one) => {
        const results = new Int32Array(RESULTS_LENGTH).fill(-7);
        assert.equal(native.receive(one, new Uint8Array(1), 0, 1, results), -errno.EAGAIN);
        assert.deepEqual([...results.subarray(0, 2)], [0, 0]);
        assert.equal(native.peek(one, new Uint8Array(1)), -errno.EAGAIN);
        assert.equal(native.peek(one, new Uint8Array(0)), -errno.EINVAL);
      }),
    ),
  );
});

describe('the other functions of the addon', () => {
  it(
    'listen, connect, accept and report the address over TCP',
    keepsDescriptors(async () => {
      const results = new Int32Array(2);
      const name = Buffer.alloc(NAME_LENGTH);
      const fds = new Int32Array(4);
      const listener = native.listenTcp('127.0.0.1', 0, 8, 0);
      assert.equal(native.address(listener, 0, results, name), '127.0.0.1'.length);
      assert.equal(name.toString('latin1', 0, 9), '127.0.0.1');
      const [family, port = 0] = results;
      assert.equal(family, 4);
      const client = native.connectTcp('127.0.0.1', port);
      await untilReadable(listener);
      assert.equal(native.accept(listener, fds, 4), 1);
      assert.equal(native.socketError(client), 0);
      for (const fd of [listener, client, fds[0] ?? -1]) assert.equal(native.close(fd), 0);
    }),
  );

  it(
    'listen, connect and report the name over Unix sockets, byte for byte',
    keepsDescriptors(() => {
      const directory = mkdtempSync(join(tmpdir(), 'passfd-'));
      const path = Buffer.from(join(directory, 'ünix'));
      const name = Buffer.alloc(NAME_LENGTH);
      const listener = native.listenUnix(path, 8, 0o600);
      const client = native.connectUnix(path);
      assert.equal(native.address(client, 1, new Int32Array(2), name), path.length);
      assert.deepEqual(name.subarray(0, path.length), path);
      assert.equal(native.close(client), 0);
      assert.equal(native.close(listener), 0);
      rmSync(directory, { recursive: true });
    }),
  );

  it(
    'describe a descriptor and its peer in numbers',
    keepsDescriptors(() =>
      withPair((one) => {
        const results = new Int32Array(3);
        assert.equal(native.describe(one, results), 0);
        assert.deepEqual([...results], [5, 1, 3]);
        assert.equal(native.peer(one, results), 0);
        assert.deepEqual([...results], [process.pid, process.geteuid?.(), process.getegid?.()]);
      }),
    ),
  );

  it(
    'set and read flags, duplicate, shut down, and count unread bytes',
    keepsDescriptors(() => {
      const [one, other] = openPair();
      assert.equal(native.isNonblocking(one), 0);
      assert.equal(native.setNonblocking(one, 1), 0);
      assert.equal(native.isNonblocking(one), 1);
      sendByte(one);
      assert.ok(native.unread(one) > 0);
      assert.deepEqual(receiveByte(other), []);
      assert.equal(native.unread(one), 0);
      const duplicate = native.duplicate(one);
      assert.equal(native.shutdownWrite(duplicate), 0);
      assert.equal(native.receive(other, new Uint8Array(1), 0, 1, new Int32Array(RESULTS_LENGTH)), 0);
      for (const fd of [one, other, duplicate]) assert.equal(native.close(fd), 0);
      assert.equal(native.close(one), -errno.EBADF);
    }),
  );

  it(
    'close the first of many, also after one fails, and return the first error',
    keepsDescriptors(() => {
      const notOpen = 2 ** 31 - 1;
      const [one, other] = openPair();
      const kept = native.duplicate(one);
      const fds = Int32Array.of(one, notOpen, other, kept);
      assert.equal(native.closeAll(fds, 0), 0);
      assert.equal(native.isNonblocking(one), 0);
      assert.equal(native.closeAll(fds, 3), -errno.EBADF);
      for (const fd of [one, other]) assert.equal(native.isNonblocking(fd), -errno.EBADF);
      assert.equal(native.closeAll(fds.subarray(3), 1), 0);
    }),
  );

  it(
    'lock a directory once',
    keepsDescriptors(() => {
      const directory = mkdtempSync(join(tmpdir(), 'passfd-'));
      const lock = native.lockDirectory(directory);
      assert.ok(lock >= 0);
      assert.equal(native.lockDirectory(directory), -errno.EWOULDBLOCK);
      assert.equal(native.close(lock), 0);
      rmSync(directory, { recursive: true });
    }),
  );

  it(
    'never use the beginning of a text that is too long',
    keepsDescriptors(() => {
      // If it were cut to the buffer's length, it would be a form of 0.0.0.0.
      assert.throws(() => native.listenTcp('0'.repeat(500), 0, 1, 0), TypeError);
      // If they were cut before the last character, which needs two bytes, these would be paths in the temporary directory.
      const directory = tmpdir();
      for (let length = 4090; length < 4100; length++) {
        const prefix = directory + '/'.repeat(length - Buffer.byteLength(directory));
        assert.ok(native.lockDirectory(`${prefix}ü`) < 0, `${length} bytes and a character`);
      }
    }),
  );
});

/** Offsets and lengths that end after as many bytes. */
function partsOutside(bytes: number): [number, number][] {
  const most = 2 ** 31 - 1;
  return [
    [bytes, 1],
    [0, bytes + 1],
    [1, bytes],
    [most, 1],
    [0, most],
    [most, most],
  ];
}
