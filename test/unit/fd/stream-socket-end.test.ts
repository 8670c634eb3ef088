// StreamSocket: the ways in which it ends, here and at the other end.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { describe, it } from 'node:test';

import { connect, listen, StreamSocket } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { causedBy } from '../../support/errors.js';
import { openFile, textOf } from '../../support/files.js';
import { isPending } from '../../support/loop.js';
import { fill, onPair, received, receivedBytes, receivedText } from '../../support/stream.js';

const ERR_CLOSED = { code: 'ERR_CLOSED' };
const ERR_PEER_GONE = { code: 'ERR_PEER_GONE' };

describe('close', () => {
  it(
    'finishes what is being sent',
    onPair(async (left, right) => {
      using file = openFile('file');
      const { taken, waiting } = await fill(left);
      const last = left.send(Buffer.from('last'), [file]);
      const closed = left.close();
      assert.equal(await isPending(closed), true);
      await receivedBytes(right, taken + 16_384);
      using message = await received(right.receive());
      assert.equal(message.bytes.toString(), 'last');
      assert.deepEqual(message.descriptors.map(textOf), ['file']);
      await Promise.all([waiting, last, closed]);
      assert.equal(left.closed, true);
      assert.equal(await right.receive(), null);
    }),
  );

  it(
    'rejects waiting receives at once, even while sends wait',
    onPair(async (left) => {
      const { waiting } = await fill(left);
      const receives = [left.receive(), left.receiveExactly(3), left.untilReadable()];
      const closed = left.close();
      await Promise.all(receives.map((receive) => assert.rejects(receive, ERR_CLOSED)));
      assert.equal(await isPending(closed), true);
      left.destroy();
      await assert.rejects(waiting, ERR_CLOSED);
      await closed;
    }),
  );

  it(
    'lets nothing new begin while it waits',
    onPair(async (left, right) => {
      const { taken, waiting } = await fill(left);
      const closed = left.close();
      await assert.rejects(left.send(Buffer.from('x')), ERR_CLOSED);
      await assert.rejects(left.receive(), ERR_CLOSED);
      assert.throws(() => left.release(), ERR_CLOSED);
      await receivedBytes(right, taken + 16_384);
      await Promise.all([waiting, closed]);
      assert.equal(await right.receive(), null);
    }),
  );

  it(
    'ends when the peer goes and the sends fail',
    onPair(async (left, right) => {
      const { waiting } = await fill(left);
      const closed = left.close();
      right.destroy();
      await assert.rejects(waiting, ERR_PEER_GONE);
      await closed;
      assert.equal(left.closed, true);
    }),
  );

  it(
    'is cut short by destroy',
    onPair(async (left) => {
      const { waiting } = await fill(left);
      const closed = left.close();
      left.destroy();
      await assert.rejects(waiting, ERR_CLOSED);
      await closed;
    }),
  );

  it(
    'can be called twice, and at the same time',
    onPair(async (left) => {
      await Promise.all([left.close(), left.close()]);
      await left.close();
      left.destroy();
    }),
  );

  it(
    'is what `await using` does',
    onPair(async (left, right) => {
      const bytes = Buffer.alloc(1_000_000);
      const receive = receivedBytes(right, bytes.length);
      {
        await using socket = left;
        socket.send(bytes).catch(assert.ifError);
      }
      assert.equal((await receive).length, bytes.length);
    }),
  );
});

describe('destroy', () => {
  it(
    'rejects all waiting calls, and closes the descriptors that were to be sent',
    onPair(async (left) => {
      const { waiting } = await fill(left);
      using file = openFile('file');
      const send = left.send(Buffer.from('x'), [file, file]);
      const receive = left.receive();
      left.destroy();
      for (const one of [waiting, send, receive]) await assert.rejects(one, ERR_CLOSED);
      assert.equal(textOf(file), 'file');
    }),
  );

  it(
    'closes the descriptors of a half-finished receive',
    onPair(async (left, right) => {
      using file = openFile('file');
      const receive = right.receiveExactly(3, { descriptors: 1 });
      await left.send(Buffer.from('x'), [file]);
      assert.equal(await isPending(receive), true);
      right.destroy();
      await assert.rejects(receive, ERR_CLOSED);
    }),
  );

  it(
    'passes its reason on',
    onPair(async (left) => {
      const reason = new Error('why');
      const receive = left.receive();
      left.destroy(reason);
      await assert.rejects(receive, reason);
    }),
  );

  it(
    'leaves a socket that answers everything with ERR_CLOSED, and can be called twice',
    onPair(async (left) => {
      left.destroy();
      left.destroy();
      assert.equal(left.closed, true);
      await assert.rejects(left.send(Buffer.from('x')), ERR_CLOSED);
      await assert.rejects(left.receive(), ERR_CLOSED);
      await assert.rejects(left.receiveExactly(1), ERR_CLOSED);
      await assert.rejects(left.untilReadable(), ERR_CLOSED);
      await assert.rejects(left.end(), ERR_CLOSED);
      assert.throws(() => left.peek(), ERR_CLOSED);
      assert.throws(() => left.release(), ERR_CLOSED);
      assert.throws(() => left.fd, { code: 'ERR_DESCRIPTOR_CLOSED' });
      left.ref().unref();
      await left.close();
    }),
  );

  it(
    'lets the peer read what was sent before, and then the end',
    onPair(async (left, right) => {
      await left.send(Buffer.from('last'));
      left.destroy();
      assert.equal(await receivedText(right), 'last');
      assert.equal(await right.receive(), null);
    }),
  );
});

describe('end', () => {
  it(
    'ends one direction, after everything that was sent before',
    onPair(async (left, right) => {
      const { taken, waiting } = await fill(left);
      const ended = left.end();
      assert.equal(await isPending(ended), true);
      await receivedBytes(right, taken + 16_384);
      await waiting;
      await ended;
      assert.equal(await right.receive(), null);
      await right.send(Buffer.from('answer'));
      assert.equal(await receivedText(left), 'answer');
      await assert.rejects(left.send(Buffer.from('x')), ERR_PEER_GONE);
      await left.end();
    }),
  );
});

describe('release', () => {
  it(
    'gives the descriptor away, and closes the socket without it',
    onPair(async (left, right) => {
      using descriptor = left.release();
      assert.equal(left.closed, true);
      await assert.rejects(left.receive(), ERR_CLOSED);
      using again = new StreamSocket(descriptor);
      await again.send(Buffer.from('x'));
      assert.equal(await receivedText(right), 'x');
    }),
  );

  it(
    'refuses while a call waits, and the socket still works',
    onPair(async (left, right) => {
      const receive = receivedText(left);
      assert.throws(() => left.release(), { code: 'ERR_BYTES_ALREADY_READ' });
      await right.send(Buffer.from('x'));
      assert.equal(await receive, 'x');

      const { taken, waiting } = await fill(left);
      assert.throws(() => left.release(), { code: 'ERR_BYTES_UNSENT' });
      await receivedBytes(right, taken + 16_384);
      await waiting;
      left.release().close();
    }),
  );
});

describe('a peer that is gone', () => {
  it(
    'fails the send, and all that wait after it',
    onPair(async (left, right) => {
      using file = openFile('file');
      const { waiting } = await fill(left);
      const later = [left.send(Buffer.from('x'), [file]), left.send(Buffer.from('y'))];
      right.destroy();
      for (const send of [waiting, ...later]) await assert.rejects(send, ERR_PEER_GONE);
      await assert.rejects(left.send(Buffer.from('x'), [file]), causedBy('ERR_PEER_GONE', 'EPIPE'));
      assert.equal(textOf(file), 'file');
    }),
  );

  it(
    'is reported once as a reset when it left bytes unread, and then as the end',
    onPair(async (left, right) => {
      await left.send(Buffer.from('never read'));
      await right.send(Buffer.from('before'));
      right.destroy();
      assert.equal(await receivedText(left), 'before');
      await assert.rejects(left.receive(), causedBy('ERR_PEER_GONE', 'ECONNRESET'));
      assert.equal(await left.receive(), null);
    }),
  );

  it(
    'rejects a waiting receive, also a half-finished one',
    onPair(async (left, right) => {
      using file = openFile('file');
      await left.send(Buffer.from('never read'));
      const receive = left.receiveExactly(10, { descriptors: 1 });
      await right.send(Buffer.from('part'), [file]);
      assert.equal(await isPending(receive), true);
      right.destroy();
      await assert.rejects(receive, ERR_PEER_GONE);
    }),
  );

  it(
    'is reported when a TCP connection was reset',
    keepsDescriptors(async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      const connection = once(server, 'connection') as Promise<[Socket]>;
      const { port } = server.address() as { port: number };
      using client = await connect({ host: '127.0.0.1', port });
      const [socket] = await connection;
      const receive = client.receive();
      assert.equal(await isPending(receive), true);
      socket.resetAndDestroy();
      await assert.rejects(receive, causedBy('ERR_PEER_GONE', 'ECONNRESET'));
      assert.equal(await client.receive(), null);
      server.close();
      await once(server, 'close');
    }),
  );
});

describe('shutdown', () => {
  it(
    'lets the other end send no more, and still delivers what had come',
    onPair(async (left, right) => {
      using file = openFile('file');
      await right.send(Buffer.from('before'), [file]);
      left.shutdown();
      await assert.rejects(right.send(Buffer.from('after')), ERR_PEER_GONE);
      await assert.rejects(left.send(Buffer.from('after')), ERR_PEER_GONE);
      using message = await received(left.receive());
      assert.equal(message.bytes.toString(), 'before');
      assert.deepEqual(message.descriptors.map(textOf), ['file']);
      assert.equal(await left.receive(), null);
      assert.equal(await right.receive(), null);
    }),
  );

  it(
    'counts for every holder of the socket',
    onPair(async (left, right) => {
      using holder = new StreamSocket(left.duplicate());
      await right.send(Buffer.from('before'));
      left.shutdown();
      left.destroy();
      await assert.rejects(right.send(Buffer.from('after')), ERR_PEER_GONE);
      await assert.rejects(holder.send(Buffer.from('after')), ERR_PEER_GONE);
      assert.equal(await receivedText(holder), 'before');
      assert.equal(await holder.receive(), null);
    }),
  );

  it(
    'ends a receive that waits',
    onPair(async (left) => {
      const receive = left.receive();
      assert.equal(await isPending(receive), true);
      left.shutdown();
      assert.equal(await receive, null);
    }),
  );

  it(
    'ends a send that waits',
    onPair(async (left) => {
      const { waiting } = await fill(left);
      left.shutdown();
      await assert.rejects(waiting, ERR_PEER_GONE);
    }),
  );

  it(
    'does nothing when the connection is over, and throws when the socket is closed',
    onPair((left, right) => {
      left.shutdown();
      left.shutdown();
      right.destroy();
      left.shutdown();
      left.destroy();
      assert.throws(() => {
        left.shutdown();
      }, ERR_CLOSED);
    }),
  );

  it(
    'resets what a TCP peer sends later, after delivering what had come',
    keepsDescriptors(async () => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using client = await connect(acceptor.address);
      using served = new StreamSocket(await acceptor.accept());
      await client.send(Buffer.from('before'));
      await served.untilReadable();
      served.shutdown();
      assert.equal(await receivedText(served), 'before');
      assert.equal(await served.receive(), null);
      assert.equal(await client.receive(), null);
      await client.send(Buffer.from('first'));
      await assert.rejects(async () => {
        for (;;) await client.send(Buffer.from('more'));
      }, ERR_PEER_GONE);
      served.shutdown();
    }),
  );
});
