// DescriptorStream: descriptors beside the bytes of a Node stream.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { pipeline } from 'node:stream/promises';
import { describe, it } from 'node:test';

import { DescriptorStream, type Descriptor, type StreamSocket } from '../../../src/fd/index.js';
import { openFile, takeTexts, textOf } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { inConnectionEvent } from '../../support/node-net.js';
import { onPair, received, receivedText } from '../../support/stream.js';

const x = Buffer.from('x');

/** Writes, and waits until the kernel has it. */
function written(stream: DescriptorStream, text: string, fds: readonly Descriptor[] = []): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.writeWithFds(Buffer.from(text), fds, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

/** The events of a stream, in order: 'data abc', 'fds a,b', 'end', 'error ERR_X', 'close'. */
function recorded(stream: DescriptorStream): string[] {
  const events: string[] = [];
  stream.on('data', (bytes: Buffer) => events.push(`data ${bytes.toString()}`));
  stream.on('fds', (descriptors: Descriptor[]) => events.push(`fds ${takeTexts(descriptors).join()}`));
  stream.on('end', () => events.push('end'));
  stream.on('error', (error: NodeJS.ErrnoException) => events.push(`error ${String(error.code)}`));
  stream.on('close', () => events.push('close'));
  return events;
}

/** The body of a test that gets two streams, connected. */
function onStreams(
  body: (left: DescriptorStream, right: DescriptorStream) => Promise<void>,
): () => Promise<void> {
  return onPair(async (leftSocket, rightSocket) => {
    const left = new DescriptorStream(leftSocket);
    const right = new DescriptorStream(rightSocket);
    try {
      await body(left, right);
    } finally {
      left.destroy();
      right.destroy();
    }
  });
}

describe('a DescriptorStream', () => {
  it(
    "brings bytes in order, and 'fds' before the data that they came with",
    onStreams(async (left, right) => {
      const events = recorded(right);
      using first = openFile('first');
      using second = openFile('second');
      for (const [text, fds] of [
        ['one ', []],
        ['two ', [first, second]],
        ['three ', [second]],
        ['four', []],
      ] as const) {
        await written(left, text, fds);
        await turns();
      }
      left.end();
      await once(right, 'end');
      assert.deepEqual(events, [
        'data one ',
        'fds first,second',
        'data two ',
        'fds second',
        'data three ',
        'data four',
        'end',
      ]);
    }),
  );

  it(
    "brings 'fds' before bytes that were glued to theirs",
    onStreams(async (left, right) => {
      using file = openFile('file');
      left.write('before ');
      await written(left, 'with', [file]);
      const events = recorded(right);
      await once(right, 'data');
      assert.deepEqual(events, ['fds file', 'data before with']);
    }),
  );

  it(
    'closes descriptors and is destroyed when its fds event has no listener',
    onStreams(async (left, right) => {
      using file = openFile('file');
      await written(left, 'x', [file, file]);
      right.resume();
      const [error] = (await once(right, 'error')) as [NodeJS.ErrnoException];
      assert.equal(error.code, 'ERR_UNEXPECTED_DESCRIPTORS');
      assert.equal(right.socket.closed, true);
    }),
  );

  it(
    'keeps the order when everything has to wait, also corked',
    onStreams(async (left, right) => {
      const events = recorded(right);
      const files = Array.from({ length: 20 }, (_, index) => openFile(`${index}`));
      left.cork();
      for (const [index, file] of files.entries()) {
        left.writeWithFds(Buffer.from(`${index};`), [file]);
        left.write('-');
        file.close();
      }
      await turns();
      assert.equal(events.length, 0);
      left.uncork();
      left.end();
      await once(right, 'end');
      const fds = events.filter((event) => event.startsWith('fds'));
      assert.deepEqual(
        fds,
        files.map((_, index) => `fds ${index}`),
      );
      const data = events.filter((event) => event.startsWith('data')).map((event) => event.slice(5));
      assert.equal(data.join(''), files.map((_, index) => `${index};-`).join(''));
      for (const [index] of files.entries()) {
        const at = events.indexOf(`fds ${index}`);
        assert.ok(events[at + 1]?.includes(`${index};`), `the data after the descriptors of ${index}`);
      }
    }),
  );

  it(
    'sends a chunk that is the same Buffer as one with descriptors without them',
    onStreams(async (left, right) => {
      const events = recorded(right);
      using file = openFile('file');
      left.writeWithFds(x, [file]);
      left.write(x);
      left.writeWithFds(x, []);
      left.end(x);
      await once(right, 'end');
      assert.deepEqual(
        events.filter((event) => event.startsWith('fds')),
        ['fds file'],
      );
    }),
  );

  it(
    'pushes back, and drains',
    onStreams(async (left, right) => {
      assert.equal(left.write(Buffer.alloc(2_000_000)), false);
      const drained = once(left, 'drain');
      assert.equal(await isPending(drained), true);
      let length = 0;
      right.on('data', (bytes: Buffer) => (length += bytes.length));
      await drained;
      left.end();
      await once(right, 'end');
      assert.equal(length, 2_000_000);
    }),
  );

  it(
    'stays half open, until both sides have ended',
    onStreams(async (left, right) => {
      const [leftEvents, rightEvents] = [recorded(left), recorded(right)];
      left.end('last');
      await once(right, 'end');
      await written(right, 'answer');
      right.end();
      await Promise.all([once(left, 'close'), once(right, 'close')]);
      assert.deepEqual(leftEvents, ['data answer', 'end', 'close']);
      assert.deepEqual(rightEvents, ['data last', 'end', 'close']);
      assert.equal(left.socket.closed && right.socket.closed, true);
    }),
  );

  it(
    'ends with its peer when it may not be half open',
    onPair(async (left, right) => {
      const stream = new DescriptorStream(left, { allowHalfOpen: false });
      stream.resume();
      await right.end();
      await once(stream, 'close');
      assert.equal(await right.receive(), null);
    }),
  );

  it(
    'works in a pipeline',
    onPair(async (left, right) => {
      const echo = new DescriptorStream(left);
      const echoing = pipeline(echo, echo);
      const send = right.send(Buffer.alloc(1_000_000, 'abc')).then(() => right.end());
      let length = 0;
      for await (const message of right) length += message.bytes.length;
      await send;
      await echoing;
      assert.equal(length, 1_000_000);
    }),
  );

  it(
    'lends what it passes: the caller may close it at once, or keep it open',
    onStreams(async (left, right) => {
      const events = recorded(right);
      using kept = openFile('kept');
      const closed = openFile('closed');
      left.writeWithFds(x, [kept, closed]);
      closed.close();
      await once(right, 'data');
      assert.equal(events[0], 'fds kept,closed');
      assert.equal(textOf(kept), 'kept');
    }),
  );

  it(
    'moves a net.Socket',
    onPair(async (left, right) => {
      const stream = new DescriptorStream(left);
      await inConnectionEvent('tcp', async ({ client, socket }) => {
        client.write('in the kernel');
        await new Promise((resolve) => stream.writeWithFds(x, [socket], resolve));
        assert.equal(socket.destroyed, true);
        using message = await received(right.receive());
        const there = message.takeDescriptor().toSocket();
        assert.equal(String((await once(there, 'data'))[0]), 'in the kernel');
        there.destroy();
      });
      stream.destroy();
    }),
  );
});

describe('writeWithFds', () => {
  it(
    'refuses what cannot be passed, and the stream still works',
    onStreams(async (left, right) => {
      const events = recorded(right);
      const closed = openFile('closed');
      closed.close();
      assert.throws(() => left.writeWithFds(x, [closed]), { code: 'ERR_DESCRIPTOR_CLOSED' });
      assert.throws(() => left.writeWithFds(x, [-1]), TypeError);
      using file = openFile('file');
      assert.throws(() => left.writeWithFds(Buffer.alloc(0), [file]), TypeError);
      assert.throws(() => left.writeWithFds(x, Array<Descriptor>(254).fill(file)), {
        code: 'ERR_TOO_MANY_DESCRIPTORS',
      });
      await written(left, 'x', [file]);
      await once(right, 'data');
      assert.deepEqual(events, ['fds file', 'data x']);
    }),
  );

  it(
    'refuses when the stream has ended or is destroyed',
    onStreams(async (left, right) => {
      using file = openFile('file');
      left.end();
      right.destroy();
      for (const stream of [left, right]) {
        assert.throws(() => stream.writeWithFds(x, [file]), { code: 'ERR_CLOSED' });
      }
      left.resume();
      await once(left, 'close');
    }),
  );
});

describe('a DescriptorStream that is destroyed', () => {
  /** A stream whose socket is full, with descriptors that wait. */
  function stuffed(socket: StreamSocket, files: readonly Descriptor[]): DescriptorStream {
    const stream = new DescriptorStream(socket);
    stream.on('error', () => undefined);
    stream.write(Buffer.alloc(1_000_000));
    for (const file of files) stream.writeWithFds(x, [file, file]);
    return stream;
  }

  it(
    'leaks none of the descriptors that it still had to send',
    onPair(async (left) => {
      using first = openFile('first');
      using second = openFile('second');
      const stream = stuffed(left, [first, second]);
      await turns();
      stream.destroy();
      await once(stream, 'close');
      assert.deepEqual([first, second].map(textOf), ['first', 'second']);
    }),
  );

  it(
    'leaks none of these when its peer goes',
    onPair(async (left, right) => {
      using file = openFile('file');
      const stream = stuffed(left, [file]);
      await turns();
      right.destroy();
      const [error] = (await once(stream, 'error')) as [NodeJS.ErrnoException];
      assert.equal(error.code, 'ERR_PEER_GONE');
      assert.equal(stream.destroyed, true);
    }),
  );

  it(
    'leaks none that were on their way to it',
    onPair(async (left, right) => {
      using file = openFile('file');
      const stream = new DescriptorStream(right);
      stream.on('fds', () => assert.fail('no listener gets them'));
      await left.send(x, [file]);
      stream.read(0); // receives at once, and would emit in the next tick
      stream.destroy();
      await once(stream, 'close');
      await turns();
    }),
  );

  it(
    'gives back a net.Socket that it had not sent yet',
    onPair(async (left) => {
      await inConnectionEvent('tcp', async ({ client, socket }) => {
        const stream = stuffed(left, []);
        stream.writeWithFds(x, [socket]);
        client.write('to here');
        await turns();
        assert.equal(socket.bytesRead, 0);
        stream.destroy();
        assert.equal(String((await once(socket, 'data'))[0]), 'to here');
      });
    }),
  );

  it(
    'destroys its socket, so that the peer sees the end',
    onPair(async (left, right) => {
      const stream = new DescriptorStream(left);
      stream.destroy();
      assert.equal(left.closed, true);
      assert.equal(await receivedText(right), null);
    }),
  );
});
