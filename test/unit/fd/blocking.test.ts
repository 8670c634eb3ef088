// send with `blocking`: connections arrive as accept(2) makes them, for receivers such as Python.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { describe, it } from 'node:test';

import { connect, Descriptor, listen, socketPair, type StreamSocket } from '../../../src/fd/index.js';
import { native } from '../../../src/fd/native.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { isPending, turns } from '../../support/loop.js';
import { inConnectionEvent, transports } from '../../support/node-net.js';
import { fill, onPair, received, receivedBytes } from '../../support/stream.js';

const x = Buffer.from('x');
const blocking = true;

/** A connection with O_NONBLOCK, as an event loop has it. */
function nonblocking(): [Descriptor, StreamSocket] {
  const [left, right] = socketPair();
  const descriptor = left.release();
  descriptor.setNonblocking(true);
  return [descriptor, right];
}

function isNonblocking(descriptor: Descriptor): boolean {
  return native.isNonblocking(descriptor.fd) === 1;
}

describe('a connection that is sent with `blocking`', () => {
  it(
    'arrives blocking; without the option it keeps its flag',
    onPair(async (left, right) => {
      const [given, otherEnd] = nonblocking();
      using connection = given;
      using other = otherEnd;
      for (const options of [{}, { blocking: false }, { blocking }]) {
        await left.send(x, [connection], options);
        using message = await received(right.receive());
        assert.deepEqual(message.descriptors.map(isNonblocking), [options.blocking !== true]);
      }
      assert.equal(other.closed, false);
    }),
  );

  for (const transport of transports) {
    it(
      `arrives blocking when it is a net.Socket, over ${transport}`,
      onPair(async (left, right) => {
        await inConnectionEvent(transport, async ({ socket }) => {
          await left.send(x, [socket], { blocking });
          using message = await received(right.receive());
          assert.deepEqual(message.descriptors.map(isNonblocking), [false]);
        });
      }),
    );
  }

  it(
    'is the only kind that changes: a listening socket keeps the flag that its event loop needs',
    onPair(async (left, right) => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      await left.send(x, [acceptor, server], { blocking });
      using message = await received(right.receive());
      assert.deepEqual(message.descriptors.map(isNonblocking), [true, true]);
      using client = await connect(acceptor.address);
      using accepted = await acceptor.accept();
      assert.equal(client.closed || accepted.closed, false);
      server.close();
      await once(server, 'close');
    }),
  );

  it(
    'is non-blocking again when the send fails at once',
    onPair(async (left, right) => {
      const [given, otherEnd] = nonblocking();
      using connection = given;
      using other = otherEnd;
      await assert.rejects(left.send(x, [connection, -1], { blocking }), TypeError);
      assert.equal(isNonblocking(connection), true);
      right.destroy();
      await assert.rejects(left.send(x, [connection], { blocking }), { code: 'ERR_PEER_GONE' });
      assert.equal(isNonblocking(connection), true);
      assert.equal(other.closed, false);
    }),
  );

  it(
    'arrives blocking when it had to wait and its owner closed it meanwhile',
    onPair(async (left, right) => {
      const { taken, waiting } = await fill(left);
      const [given, otherEnd] = nonblocking();
      using other = otherEnd;
      const send = left.send(x, [given], { blocking });
      given.close();
      await receivedBytes(right, taken + 16_384);
      await Promise.all([waiting, send]);
      using message = await received(right.receive());
      assert.deepEqual(message.descriptors.map(isNonblocking), [false]);
      assert.equal(other.closed, false);
    }),
  );

  it(
    'is non-blocking again when it waited and is not sent, and the next descriptor with its number is not changed',
    onPair(async (left) => {
      const { waiting } = await fill(left);
      const filled = assert.rejects(waiting, { code: 'ERR_CLOSED' });
      const [given, otherEnd] = nonblocking();
      using other = otherEnd;
      using kept = given.duplicate();
      const send = left.send(x, [given], { blocking });
      const { fd } = given;
      given.close();
      const [unrelated, its] = socketPair();
      using stranger = unrelated.release();
      using strangers = its;
      assert.equal(stranger.fd, fd);
      assert.equal(await isPending(send), true);
      left.destroy();
      await assert.rejects(send, { code: 'ERR_CLOSED' });
      await filled;
      assert.deepEqual([isNonblocking(kept), isNonblocking(stranger)], [true, false]);
      assert.equal(other.closed || strangers.closed, false);
    }),
  );
});

describe('a net.Socket that is sent with `blocking` and could not be', () => {
  it(
    'still works here',
    keepsDescriptors(async () => {
      const [left, right] = socketPair();
      using channel = left;
      await inConnectionEvent('tcp', async ({ client, socket }) => {
        right.destroy();
        await assert.rejects(channel.send(x, [socket], { blocking }), { code: 'ERR_PEER_GONE' });
        await turns();
        client.write('to here');
        assert.equal(String((await once(socket, 'data'))[0]), 'to here');
      });
    }),
  );
});
