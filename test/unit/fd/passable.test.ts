// Node objects that can be passed: which lend their descriptor, which give it away, and which are refused.
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { connect as connectNode, createServer, Socket } from 'node:net';
import { describe, it } from 'node:test';
import { TLSSocket } from 'node:tls';

import { StreamSocket, type Passable } from '../../../src/fd/index.js';
import { turns } from '../../support/loop.js';
import { inConnectionEvent, transports } from '../../support/node-net.js';
import { fill, onPair, received, receivedBytes, receivedText } from '../../support/stream.js';

const x = Buffer.from('x');

for (const transport of transports) {
  describe(`a net.Socket over ${transport} that is passed`, () => {
    it(
      'moves: it is destroyed here, and its client sees no end',
      onPair(async (left, right) => {
        await inConnectionEvent(transport, async ({ client, socket }) => {
          await left.send(x, [socket]);
          assert.equal(socket.destroyed, true);
          using message = await received(right.receive());
          using there = new StreamSocket(message.takeDescriptor());
          await there.send(Buffer.from('from there'));
          const [chunk] = (await once(client, 'data')) as [Buffer];
          assert.equal(chunk.toString(), 'from there');
          assert.equal(client.readableEnded, false);
        });
      }),
    );

    for (const pauseOnConnect of [false, true]) {
      it(
        `loses no byte that came while it waited to be sent${pauseOnConnect ? ' (pauseOnConnect)' : ''}`,
        onPair(async (left, right) => {
          const { taken, waiting } = await fill(left);
          await inConnectionEvent(
            transport,
            async ({ client, socket }) => {
              client.write('in the kernel');
              socket.on('data', () => {
                throw new Error('A byte was read here');
              });
              const sent = left.send(x, [socket]);
              await turns();
              assert.equal(socket.destroyed, false);
              assert.equal(socket.bytesRead, 0);
              await receivedBytes(right, taken + 16_384);
              await waiting;
              await sent;
              assert.equal(socket.destroyed, true);
              using message = await received(right.receive());
              using there = new StreamSocket(message.takeDescriptor());
              assert.equal(await receivedText(there), 'in the kernel');
            },
            { pauseOnConnect },
          );
        }),
      );
    }

    it(
      'is refused when bytes of it were read, and works on here',
      onPair(async (left, right) => {
        await inConnectionEvent(transport, async ({ client, socket }) => {
          client.write('read');
          await once(socket, 'data');
          await assert.rejects(left.send(x, [socket]), { code: 'ERR_BYTES_ALREADY_READ' });
          assert.equal(right.peek(), null);
          client.write('more');
          assert.equal(String((await once(socket, 'data'))[0]), 'more');
        });
      }),
    );

    it(
      'is refused when bytes of it were read and not delivered yet',
      onPair(async (left) => {
        await inConnectionEvent(transport, async ({ client, socket }) => {
          client.write('read');
          await once(socket, 'readable');
          assert.equal(socket.readableLength, 4);
          await assert.rejects(left.send(x, [socket]), { code: 'ERR_BYTES_ALREADY_READ' });
          assert.equal(String(socket.read()), 'read');
        });
      }),
    );

    it(
      'is refused while bytes written to it wait here, and they arrive',
      onPair(async (left, right) => {
        await inConnectionEvent(transport, async ({ client, socket }) => {
          const bytes = Buffer.alloc(8_000_000, 'abcdefg');
          socket.write(bytes);
          assert.notEqual(socket.writableLength, 0);
          await assert.rejects(left.send(x, [socket]), { code: 'ERR_BYTES_UNSENT' });
          assert.equal(right.peek(), null);
          let length = 0;
          for await (const chunk of client) {
            length += (chunk as Buffer).length;
            if (length === bytes.length) break;
          }
        });
      }),
    );

    it(
      'is refused when it was ended',
      onPair(async (left) => {
        await inConnectionEvent(transport, async ({ socket }) => {
          socket.end();
          await assert.rejects(left.send(x, [socket]), { code: 'ERR_BYTES_UNSENT' });
        });
      }),
    );

    it(
      'works on here, and reads on, when the send fails',
      onPair(async (left, right) => {
        await inConnectionEvent(transport, async ({ client, socket }) => {
          right.destroy();
          await assert.rejects(left.send(x, [socket]), { code: 'ERR_PEER_GONE' });
          assert.equal(socket.destroyed, false);
          client.write('to here');
          assert.equal(String((await once(socket, 'data'))[0]), 'to here');
          socket.write('from here');
          assert.equal(String((await once(client, 'data'))[0]), 'from here');
        });
      }),
    );

    const endings = {
      'the send is aborted': (_left, _right, controller) => {
        controller.abort();
      },
      'the peer goes': (_left, right) => {
        right.destroy();
      },
      'the channel is destroyed': (left) => {
        left.destroy();
      },
    } satisfies Record<
      string,
      (left: StreamSocket, right: StreamSocket, controller: AbortController) => void
    >;

    for (const [how, giveUp] of Object.entries(endings)) {
      it(
        `works on here when it waited to be sent and ${how}`,
        onPair(async (left, right) => {
          const { waiting } = await fill(left);
          const filled = waiting.catch(() => undefined);
          await inConnectionEvent(transport, async ({ client, socket }) => {
            const controller = new AbortController();
            const sent = left.send(x, [socket], { signal: controller.signal });
            client.write('to here');
            await turns();
            assert.equal(socket.bytesRead, 0);
            giveUp(left, right, controller);
            await assert.rejects(sent);
            assert.equal(String((await once(socket, 'data'))[0]), 'to here');
          });
          left.destroy();
          await filled;
        }),
      );
    }

    it(
      'reads nothing here while it waits to be sent, even when it is resumed, and then goes with every byte',
      onPair(async (left, right) => {
        for (const pauseOnConnect of [false, true]) {
          const { taken, waiting } = await fill(left);
          await inConnectionEvent(
            transport,
            async ({ client, socket }) => {
              client.write('in the kernel');
              const sent = left.send(x, [socket]);
              socket.on('data', () => assert.fail('a byte was read here'));
              socket.pause().resume();
              await turns();
              assert.equal(socket.bytesRead, 0);
              await receivedBytes(right, taken + 16_384);
              await Promise.all([waiting, sent]);
              using message = await received(right.receive());
              using there = new StreamSocket(message.takeDescriptor());
              assert.equal(await receivedText(there), 'in the kernel');
            },
            { pauseOnConnect },
          );
        }
      }),
    );

    for (const pauseOnConnect of [false, true]) {
      it(
        `reads on here when it was resumed while it waited, and is not sent${pauseOnConnect ? ' (pauseOnConnect)' : ''}`,
        onPair(async (left) => {
          const { waiting } = await fill(left);
          const filled = waiting.catch(() => undefined);
          await inConnectionEvent(
            transport,
            async ({ client, socket }) => {
              client.write('to here');
              const controller = new AbortController();
              const sent = left.send(x, [socket], { signal: controller.signal });
              const data = once(socket, 'data');
              socket.resume();
              await turns();
              controller.abort();
              await assert.rejects(sent);
              assert.equal(String((await data)[0]), 'to here');
            },
            { pauseOnConnect },
          );
          left.destroy();
          await filled;
        }),
      );
    }

    it(
      'is not sent when it was written to or destroyed while it waited, and later messages are sent',
      onPair(async (left, right) => {
        for (const code of ['ERR_BYTES_UNSENT', 'ERR_NOT_PASSABLE']) {
          const { taken, waiting } = await fill(left);
          await inConnectionEvent(transport, async ({ client, socket }) => {
            client.pause();
            const sent = assert.rejects(left.send(x, [socket]), { code });
            const later = left.send(Buffer.from('later'));
            if (code === 'ERR_NOT_PASSABLE') socket.destroy();
            else socket.write(Buffer.alloc(8_000_000));
            await receivedBytes(right, taken + 16_384);
            await Promise.all([waiting, sent, later]);
            using message = await received(right.receive());
            assert.equal(message.bytes.toString(), 'later');
            assert.equal(message.descriptors.length, 0);
          });
        }
      }),
    );

    it(
      'has one receiver: it is refused while it is being passed, and works on when it was not',
      onPair(async (left, right) => {
        await inConnectionEvent(transport, async ({ client, socket }) => {
          const refused = { code: 'ERR_NOT_PASSABLE' };
          await assert.rejects(left.send(x, [socket, socket]), refused);
          const { waiting } = await fill(left);
          const controller = new AbortController();
          const first = left.send(x, [socket], { signal: controller.signal });
          await assert.rejects(left.send(x, [socket]), refused);
          await assert.rejects(right.send(x, [socket]), refused);
          controller.abort();
          await assert.rejects(first, { name: 'AbortError' });
          client.write('to here');
          assert.equal(String((await once(socket, 'data'))[0]), 'to here');
          left.destroy();
          await assert.rejects(waiting, { code: 'ERR_CLOSED' });
        });
      }),
    );

    it(
      'stays here when another of the same message cannot be passed',
      onPair(async (left, right) => {
        await inConnectionEvent(transport, async ({ client, socket }) => {
          for (const wrong of [new Socket(), -1]) {
            await assert.rejects(left.send(x, [socket, wrong]));
          }
          client.write('to here');
          assert.equal(String((await once(socket, 'data'))[0]), 'to here');
          assert.equal(right.peek(), null);
        });
      }),
    );
  });
}

describe('a net.Socket that has no connection to pass', () => {
  it(
    'is refused: never connected, connecting, destroyed',
    onPair(async (left, right) => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      const { port } = server.address() as { port: number };
      const connecting = connectNode(port, '127.0.0.1');
      const accepted = once(server, 'connection') as Promise<[Socket]>;
      assert.equal(connecting.connecting, true);
      const refused = { code: 'ERR_NOT_PASSABLE' };
      const refusals = [new Socket(), connecting].map((socket) =>
        assert.rejects(left.send(x, [socket]), refused),
      );
      await once(connecting, 'connect');
      connecting.destroy();
      await assert.rejects(left.send(x, [connecting]), refused);
      await Promise.all(refusals);
      assert.equal(right.peek(), null);
      (await accepted)[0].destroy();
      server.close();
      await once(server, 'close');
    }),
  );

  it(
    'is refused when it is a TLS socket, whose keys cannot be passed',
    onPair(async (left) => {
      await inConnectionEvent('tcp', async ({ client }) => {
        const tls = new TLSSocket(client);
        await assert.rejects(left.send(x, [tls]), { code: 'ERR_NOT_PASSABLE', message: /TLS/ });
        tls.destroy();
      });
    }),
  );
});

describe('a net.Server, a dgram.Socket and a FileHandle that are passed', () => {
  it(
    'stay open here',
    onPair(async (left, right) => {
      const server = createServer().listen(0, '127.0.0.1');
      const datagram = createSocket('udp4').bind(0, '127.0.0.1');
      await Promise.all([once(server, 'listening'), once(datagram, 'listening')]);
      await using file = await open('/dev/null');
      await left.send(x, [server, datagram, file]);
      using message = await received(right.receive());
      assert.deepEqual(
        message.descriptors.map((descriptor) => descriptor.describe().kind),
        ['listener', 'datagram', 'other'],
      );
      assert.equal(server.listening, true);
      const address = message.descriptors[1]?.localAddress as { port: number } | undefined;
      assert.equal(address?.port, datagram.address().port);
      datagram.send('to myself', datagram.address().port, '127.0.0.1');
      assert.equal(String((await once(datagram, 'message'))[0]), 'to myself');
      assert.equal((await file.read()).bytesRead, 0);
      datagram.close();
      server.close();
      await once(server, 'close');
    }),
  );

  it(
    'are refused when they are not open',
    onPair(async (left, right) => {
      const server = createServer().listen(0, '127.0.0.1');
      const datagram = createSocket('udp4').bind(0, '127.0.0.1');
      await Promise.all([once(server, 'listening'), once(datagram, 'listening')]);
      const file = await open('/dev/null');
      server.close();
      datagram.close();
      await file.close();
      const unbound = createSocket('udp4');
      const refused: Passable[] = [server, datagram, file, createServer(), unbound];
      for (const passable of refused) {
        await assert.rejects(left.send(x, [passable]), { code: 'ERR_NOT_PASSABLE' });
      }
      assert.equal(right.peek(), null);
      unbound.close();
    }),
  );
});
