// StreamSocket: what happens to bytes and descriptors that are sent.
import assert from 'node:assert/strict';
import { fstatSync } from 'node:fs';
import { describe, it, mock } from 'node:test';

import { connect, Descriptor, listen, MAX_DESCRIPTORS, StreamSocket } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failing } from '../../support/failing-calls.js';
import { causedBy } from '../../support/errors.js';
import { NOBODYS_NUMBER, openFile, takeTexts, textOf } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { fill, onPair, received, receivedBytes, receivedText } from '../../support/stream.js';

describe('a send', () => {
  it(
    'is served in the order of the calls',
    onPair(async (left, right) => {
      const files = ['0', '1', '2', '3'].map(openFile);
      const sends = files.map((file, index) => left.send(Buffer.from(String(index)), [file]));
      for (const file of files) {
        using message = await received(right.receive());
        assert.equal(message.bytes.toString(), textOf(file));
        assert.deepEqual(message.descriptors.map(textOf), [textOf(file)]);
      }
      await Promise.all(sends);
      takeTexts(files);
    }),
  );

  it(
    'keeps the order when it has to wait',
    onPair(async (left, right) => {
      const { taken, waiting } = await fill(left);
      const files = Array.from({ length: 100 }, (_, index) => openFile(`file ${index}`));
      const sends = files.map((file, index) => left.send(Buffer.of(index), [file]));
      assert.equal(await isPending(Promise.race([waiting, ...sends])), true);
      await receivedBytes(right, taken + 16_384);
      for (let index = 0; index < files.length; index++) {
        using message = await received(right.receive());
        assert.deepEqual([...message.bytes], [index]);
        assert.deepEqual(message.descriptors.map(textOf), [`file ${index}`]);
      }
      await Promise.all(sends);
      takeTexts(files);
    }),
  );

  it(
    'lends a descriptor: it stays open here and is the same file there',
    onPair(async (left, right) => {
      using file = openFile('file');
      await left.send(Buffer.from('x'), [file]);
      using message = await received(right.receive());
      using there = message.takeDescriptor();
      assert.notEqual(there.fd, file.fd);
      assert.equal(fstatSync(there.fd).ino, fstatSync(file.fd).ino);
      assert.equal(textOf(file), 'file');
    }),
  );

  it(
    'passes the right file when its owner closes it at once and its number is taken again',
    onPair(async (left, right) => {
      const { taken, waiting } = await fill(left);
      const file = openFile('the right one');
      const send = left.send(Buffer.from('x'), [file]);
      const { fd } = file;
      file.close();
      using wrong = openFile('the wrong one');
      assert.equal(wrong.fd, fd);
      await receivedBytes(right, taken + 16_384);
      await waiting;
      await send;
      using message = await received(right.receive());
      assert.deepEqual(message.descriptors.map(textOf), ['the right one']);
    }),
  );

  it(
    'passes bare numbers too, and the same file as often as it is named',
    onPair(async (left, right) => {
      using file = openFile('file');
      await left.send(Buffer.from('x'), [file.fd, file, file.fd]);
      using message = await received(right.receive());
      assert.deepEqual(message.descriptors.map(textOf), ['file', 'file', 'file']);
    }),
  );

  it(
    'does not touch a buffer that the caller reuses after it has settled',
    onPair(async (left, right) => {
      const bytes = Buffer.from('first');
      await left.send(bytes);
      bytes.fill('x');
      assert.equal(await receivedText(right), 'first');
    }),
  );

  it(
    'of nothing does nothing',
    onPair(async (left, right) => {
      await left.send(Buffer.alloc(0));
      assert.equal(right.peek(), null);
    }),
  );

  it(
    'counts as unread until the other end has received it',
    onPair(async (left, right) => {
      const unread = [left.unreadBytes];
      await left.send(Buffer.from('x'));
      unread.push(left.unreadBytes);
      await received(right.receive());
      unread.push(left.unreadBytes);
      assert.deepEqual(
        unread.map((bytes) => bytes > 0),
        [false, true, false],
      );
    }),
  );
});

describe('a send beyond the buffer', () => {
  it(
    'waits until the peer reads',
    onPair(async (left, right) => {
      const { taken, waiting } = await fill(left);
      using file = openFile('file');
      const later = left.send(Buffer.from('later'), [file]);
      assert.equal(await isPending(Promise.race([waiting, later])), true);
      await receivedBytes(right, taken + 16_384);
      await waiting;
      await later;
      using message = await received(right.receive());
      assert.equal(message.bytes.toString(), 'later');
      assert.deepEqual(message.descriptors.map(textOf), ['file']);
    }),
  );

  it(
    'delivers 5 MB, and the descriptors once',
    onPair(async (left, right) => {
      const bytes = Buffer.alloc(5_000_000, 'every byte once, ');
      const files = ['a', 'b', 'c'].map(openFile);
      const send = left.send(bytes, files);
      takeTexts(files); // closed here before most of it is sent
      using message = await received(right.receiveExactly(bytes.length, { descriptors: 3 }));
      await send;
      assert.equal(message.bytes.equals(bytes), true);
      assert.deepEqual(message.descriptors.map(textOf), ['a', 'b', 'c']);
      assert.equal(right.peek(), null);
    }),
  );

  it(
    'delivers its descriptors once when it waited before its first byte, too',
    onPair(async (left, right) => {
      const { taken, waiting } = await fill(left);
      using file = openFile('file');
      const bytes = Buffer.alloc(2_000_000, 'abcdefg');
      const send = left.send(bytes, [file]);
      await receivedBytes(right, taken + 16_384);
      await waiting;
      using message = await received(right.receiveExactly(bytes.length, { descriptors: 3 }));
      await send;
      assert.equal(message.bytes.equals(bytes), true);
      assert.deepEqual(message.descriptors.map(textOf), ['file']);
    }),
  );

  it(
    'is rejected when its bytes are detached while it waits, and later messages are sent',
    onPair(async (left, right) => {
      using file = openFile('file');
      const { taken, waiting } = await fill(left);
      const bytes = new Uint8Array(100);
      const rejected = assert.rejects(left.send(bytes, [file]), TypeError);
      const later = left.send(Buffer.from('later'));
      structuredClone(bytes, { transfer: [bytes.buffer] });
      await receivedBytes(right, taken + 16_384);
      await Promise.all([waiting, rejected, later]);
      assert.equal(await receivedText(right), 'later');
    }),
  );

  it(
    'ends the sending when its bytes are detached after the first: half a message cannot be repaired',
    onPair(async (left, right) => {
      const bytes = new Uint8Array(2_000_000);
      const rejected = assert.rejects(left.send(bytes), TypeError);
      const later = assert.rejects(left.send(Buffer.from('later')), TypeError);
      structuredClone(bytes, { transfer: [bytes.buffer] });
      const reading = (async () => {
        for await (const message of right) assert.equal(message.bytes.includes('later'), false);
      })();
      await Promise.all([rejected, later]);
      await assert.rejects(left.send(Buffer.from('later')), TypeError);
      left.destroy();
      await reading;
    }),
  );

  it(
    'delivers what two ends send each other at the same time',
    onPair(async (left, right) => {
      const bytes = Buffer.alloc(3_000_000, 'abcdefg');
      const sends = [left.send(bytes), right.send(bytes)];
      const [there, here] = await Promise.all([
        receivedBytes(right, bytes.length),
        receivedBytes(left, bytes.length),
      ]);
      await Promise.all(sends);
      assert.equal(there.equals(bytes) && here.equals(bytes), true);
    }),
  );
});

describe('a message', () => {
  it(
    'carries 253 descriptors and no more',
    onPair(async (left, right) => {
      using file = openFile('file');
      assert.equal(MAX_DESCRIPTORS, 253);
      await left.send(Buffer.from('x'), Array<Descriptor>(253).fill(file));
      using message = await received(right.receive());
      assert.equal(message.descriptors.length, 253);
      await assert.rejects(left.send(Buffer.from('x'), Array<Descriptor>(254).fill(file)), {
        code: 'ERR_TOO_MANY_DESCRIPTORS',
      });
      assert.equal(right.peek(), null);
    }),
  );

  it(
    'needs a byte for its descriptors to travel with',
    onPair(async (left, right) => {
      using file = openFile('file');
      await assert.rejects(left.send(Buffer.alloc(0), [file]), TypeError);
      assert.equal(right.peek(), null);
    }),
  );

  it(
    'takes bytes only',
    onPair(async (left) => {
      for (const wrong of ['text', [1, 2], new Uint16Array(2), null, undefined, 7]) {
        await assert.rejects(left.send(wrong as unknown as Uint8Array), TypeError);
      }
    }),
  );

  it(
    'passes all of its descriptors or none',
    onPair(async (left, right) => {
      using file = openFile('file');
      const closed = openFile('closed');
      closed.close();
      await assert.rejects(left.send(Buffer.from('x'), [file, closed]), { code: 'ERR_DESCRIPTOR_CLOSED' });
      await assert.rejects(left.send(Buffer.from('x'), [file, NOBODYS_NUMBER]), {
        code: 'ERR_DESCRIPTOR_CLOSED',
      });
      for (const wrong of [-1, 1.5, 2 ** 31, 2 ** 32, NaN, '3', null, undefined, {}]) {
        await assert.rejects(left.send(Buffer.from('x'), [file, wrong as number]), TypeError);
      }
      assert.equal(right.peek(), null);
      assert.equal(textOf(file), 'file');
    }),
  );

  it(
    'with a number that is not open is refused when it has to wait, too',
    onPair(async (left) => {
      using file = openFile('file');
      const { waiting } = await fill(left);
      await assert.rejects(left.send(Buffer.from('x'), [file, NOBODYS_NUMBER]), {
        code: 'ERR_DESCRIPTOR_CLOSED',
      });
      assert.equal(await isPending(waiting), true);
      left.destroy();
      await assert.rejects(waiting, { code: 'ERR_CLOSED' });
    }),
  );
});

describe('a TCP connection', () => {
  it(
    'carries bytes, and refuses descriptors',
    keepsDescriptors(async () => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using client = await connect(acceptor.address);
      using server = new StreamSocket(await acceptor.accept());
      using file = openFile('file');
      assert.equal(client.carriesDescriptors, false);
      await assert.rejects(client.send(Buffer.from('x'), [file]), { code: 'ERR_NO_DESCRIPTOR_PASSING' });
      const bytes = Buffer.alloc(3_000_000, 'abcdefg');
      const send = client.send(bytes);
      assert.equal((await receivedBytes(server, bytes.length)).equals(bytes), true);
      await send;
      assert.deepEqual(server.remoteAddress, client.localAddress);
    }),
  );
});

describe('a StreamSocket', () => {
  it(
    'accepts only a connected stream socket; other descriptors stay with the caller',
    keepsDescriptors(async () => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using file = openFile('file');
      using listening = acceptor.duplicate();
      for (const wrong of [file, listening]) {
        assert.throws(() => new StreamSocket(wrong), {
          code: 'ERR_WRONG_KIND',
          message: /of kind (file|listener)$/,
        });
        assert.equal(wrong.closed, false);
      }
      const closed = openFile('closed');
      closed.close();
      assert.throws(() => new StreamSocket(closed), { code: 'ERR_DESCRIPTOR_CLOSED' });
    }),
  );

  it(
    'takes over its descriptor, so that the giver cannot close it',
    onPair(async (left, right) => {
      using giver = left.release();
      using taker = new StreamSocket(giver);
      assert.equal(giver.closed, true);
      giver.close();
      await taker.send(Buffer.from('x'));
      assert.equal(await receivedText(right), 'x');
    }),
  );

  it(
    'reports the process at the other end',
    onPair((left) => {
      assert.deepEqual(left.peer, { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() });
      assert.deepEqual(left.localAddress, { path: '' });
      assert.deepEqual(left.remoteAddress, { path: '' });
      assert.equal(left.carriesDescriptors, true);
    }),
  );
});

/** Lets this much time pass for the timers of a test. */
async function pass(ms: number): Promise<void> {
  const STEP_MS = 100;
  for (let passed = 0; passed < ms; passed += STEP_MS) {
    mock.timers.tick(STEP_MS);
    await turns(1);
  }
}

describe('a send that the kernel refuses, without an event for when to try again', () => {
  const clock = { apis: ['setTimeout'] as 'setTimeout'[] };

  it(
    'fails with a code when the kernel has no memory for 10 s, and no sooner',
    onPair(async (left) => {
      using file = openFile('file');
      using calls = failing('send', left.fd, 'ENOMEM');
      mock.timers.enable(clock);
      try {
        const sending = left.send(Buffer.from('x'), [file]);
        const failed = assert.rejects(sending, causedBy('ERR_SYSTEM', 'ENOMEM', /no memory/));
        await pass(8_000);
        assert.equal(await isPending(failed), true);
        await pass(8_000);
        await failed;
        assert.ok(calls);
      } finally {
        mock.timers.reset();
      }
    }),
  );

  it(
    'has the full time for memory after it has waited for others to receive',
    onPair(async (left, right) => {
      using file = openFile('file');
      const refused = failing('send', left.fd, 'ENOBUFS');
      mock.timers.enable(clock);
      try {
        const sending = left.send(Buffer.from('x'), [file]);
        await pass(20_000);
        refused[Symbol.dispose]();
        using lacking = failing('send', left.fd, 'ENOMEM');
        await pass(8_000);
        assert.equal(await isPending(sending), true);
        lacking[Symbol.dispose]();
        await pass(100);
        await sending;
        using message = await received(right.receive());
        assert.equal(message.descriptors.length, 1);
      } finally {
        mock.timers.reset();
      }
    }),
  );

  it(
    'has the full time for memory after an earlier send waited for it and was aborted',
    onPair(async (left) => {
      using file = openFile('file');
      const abort = new AbortController();
      using lacking = failing('send', left.fd, 'ENOMEM');
      mock.timers.enable(clock);
      try {
        const { signal } = abort;
        const first = assert.rejects(left.send(Buffer.from('x'), [file], { signal }));
        const second = left.send(Buffer.from('y'), [file]);
        await pass(8_000);
        abort.abort();
        await first;
        await pass(8_000);
        assert.equal(await isPending(second), true);
        lacking[Symbol.dispose]();
        await pass(100);
        await second;
      } finally {
        mock.timers.reset();
      }
    }),
  );

  it(
    'waits without a limit for others to receive, and warns once',
    onPair(async (left, right) => {
      using file = openFile('file');
      const refused = failing('send', left.fd, 'ENOBUFS');
      const warnings: unknown[] = [];
      const warn = (warning: Error & { code?: string }): void => void warnings.push(warning.code);
      process.on('warning', warn);
      mock.timers.enable(clock);
      try {
        const sending = left.send(Buffer.from('x'), [file]);
        await pass(4_000);
        assert.deepEqual(warnings, []);
        await pass(60_000);
        assert.equal(await isPending(sending), true);
        assert.deepEqual(warnings, ['ERR_IN_FLIGHT_LIMIT']);
        refused[Symbol.dispose]();
        await pass(100);
        await sending;
        using message = await received(right.receive());
        assert.equal(message.descriptors.length, 1);
      } finally {
        mock.timers.reset();
        process.off('warning', warn);
        refused[Symbol.dispose]();
      }
    }),
  );

  for (const [what, end] of [
    [
      'its signal',
      (_: StreamSocket, controller: AbortController): void => {
        controller.abort();
      },
    ],
    [
      'the end of its socket',
      (socket: StreamSocket): void => {
        socket.destroy();
      },
    ],
  ] as const) {
    it(
      `ends its wait by ${what}`,
      onPair(async (left) => {
        using file = openFile('file');
        using refused = failing('send', left.fd, 'ENOBUFS');
        const controller = new AbortController();
        const sending = left.send(Buffer.from('x'), [file], { signal: controller.signal });
        const failed = assert.rejects(sending);
        end(left, controller);
        await failed;
        assert.ok(refused);
      }),
    );
  }
});
