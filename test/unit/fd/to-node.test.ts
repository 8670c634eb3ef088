// Giving a descriptor to Node: the right object for each kind. A descriptor of a wrong kind stays with its owner.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { createServer as createHttpServer, get, type IncomingMessage } from 'node:http';
import { createServer, Server, Socket, type AddressInfo } from 'node:net';
import { describe, it } from 'node:test';

import { connect, Descriptor, listen, socketPair, type TcpAddress } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { openFile, textOf } from '../../support/files.js';
import { turns } from '../../support/loop.js';
import { fromPython, withoutPython } from '../../support/python.js';
import { onPair, receivedText } from '../../support/stream.js';

type FiveDescriptors = readonly [Descriptor, Descriptor, Descriptor, Descriptor, Descriptor];

const targets = ['toSocket', 'toServer', 'toDatagramSocket', 'toFileHandle'] as const;

/** Tries every target but the right ones: each names the kind and leaves the descriptor alone. */
async function refusesAllBut(
  descriptor: Descriptor,
  kind: RegExp,
  ...right: (typeof targets)[number][]
): Promise<void> {
  for (const target of targets) {
    if (right.includes(target)) continue;
    await assert.rejects(async () => descriptor[target](), { code: 'ERR_WRONG_KIND', message: kind });
    assert.equal(descriptor.closed, false);
  }
}

describe('a descriptor of the wrong kind', () => {
  it(
    'is refused, the error names its kind, and it stays with its owner',
    keepsDescriptors(async () => {
      const [left, right] = socketPair();
      using stream = left.release();
      using other = right;
      using file = openFile('file');
      using directory = new Descriptor(openSync('/', 'r'));
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      await refusesAllBut(stream, /kind stream$/, 'toSocket');
      await refusesAllBut(file, /kind file$/, 'toFileHandle');
      await refusesAllBut(directory, /kind directory$/, 'toFileHandle');
      using listening = acceptor.duplicate();
      await refusesAllBut(listening, /kind listener$/, 'toServer');
      assert.equal(other.closed, false);
    }),
  );

  it(
    'is refused also when it came from Python',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      using message = await fromPython(`
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)
read, write = os.pipe()
socket.send_fds(channel, [b"x"], [read, udp.fileno(), unix.fileno(), packets.fileno(), netlink.fileno()])`);
      const [pipe, udp, unix, packets, netlink] = message.descriptors as FiveDescriptors;
      await refusesAllBut(pipe, /kind pipe$/, 'toSocket', 'toFileHandle');
      await refusesAllBut(udp, /kind datagram$/, 'toDatagramSocket');
      await refusesAllBut(unix, /kind datagram/);
      await refusesAllBut(packets, /kind socket$/);
      await refusesAllBut(netlink, /kind datagram/);
    }),
  );
});

describe('toSocket', () => {
  it(
    'gives a net.Socket that reads and writes',
    onPair(async (left, right) => {
      const socket = left.release().toSocket();
      await right.send(Buffer.from('in'));
      assert.equal(String((await once(socket, 'data'))[0]), 'in');
      socket.end('out');
      assert.equal(await receivedText(right), 'out');
      await right.end();
      await once(socket, 'close');
    }),
  );

  it(
    'reads nothing with pauseOnCreate, so that it can still be passed on',
    onPair(async (left, right) => {
      const [channel, receiver] = socketPair();
      using passes = channel;
      using takes = receiver;
      await right.send(Buffer.from('untouched'));
      const socket = left.release().toSocket({ pauseOnCreate: true });
      await turns();
      assert.equal(socket.bytesRead, 0);
      await passes.send(Buffer.from('x'), [socket]);
      using message = await takes.receive();
      const again = message?.takeDescriptor().toSocket();
      assert.ok(again);
      assert.equal(String((await once(again, 'data'))[0]), 'untouched');
      again.destroy();
    }),
  );

  it(
    'keeps the writing side open with allowHalfOpen',
    onPair(async (left, right) => {
      const socket = left.release().toSocket({ allowHalfOpen: true });
      await right.end();
      socket.resume();
      await once(socket, 'end');
      socket.end('still written');
      assert.equal(await receivedText(right), 'still written');
      assert.equal(await right.receive(), null);
    }),
  );
});

describe('toServer', () => {
  it(
    'makes the given server listen, also an HTTP server, and it gets the connections that waited',
    keepsDescriptors(async () => {
      const acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const { port } = acceptor.address as TcpAddress;
      const http = createHttpServer((_, response) => response.end('hello'));
      const asked = new Promise<IncomingMessage>((resolve, reject) => {
        get({ host: '127.0.0.1', port, agent: false }, resolve).on('error', reject);
      });
      const server = await acceptor.duplicate().toServer(http);
      assert.equal(server, http);
      await acceptor.close();
      assert.deepEqual((server.address() as AddressInfo).port, port);
      let body = '';
      for await (const chunk of await asked) body += String(chunk);
      assert.equal(body, 'hello');
      http.close();
      await once(http, 'close');
    }),
  );

  it(
    'refuses a server that listens already; the server and the descriptor still work',
    keepsDescriptors(async () => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const busy = createServer((socket) => socket.end('busy')).listen(0, '127.0.0.1');
      await once(busy, 'listening');
      using listening = acceptor.duplicate();
      await assert.rejects(listening.toServer(busy), TypeError);
      assert.deepEqual(busy.eventNames(), ['connection']);
      using client = await connect({ host: '127.0.0.1', port: (busy.address() as AddressInfo).port });
      assert.equal(await receivedText(client), 'busy');
      assert.equal(acceptor.closed, false);
      client.destroy();
      busy.close();
      await once(busy, 'close');
    }),
  );
});

describe('toServer with a server whose listen throws', () => {
  it(
    'rejects with that error, and leaves no listener and no descriptor behind',
    keepsDescriptors(async () => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using listening = acceptor.duplicate();
      const error = new Error('thrown');
      const server = new Server();
      server.listen = () => {
        throw error;
      };
      await assert.rejects(listening.toServer(server), error);
      assert.deepEqual(server.eventNames(), []);
      assert.equal(listening.closed, false);
    }),
  );
});

describe('toFileHandle', () => {
  it(
    'gives a FileHandle that owns the descriptor',
    keepsDescriptors(async () => {
      const descriptor = openFile('file');
      using duplicate = descriptor.duplicate();
      const handle = await descriptor.toFileHandle();
      assert.equal(descriptor.closed, true);
      await handle.write('more', 4);
      assert.equal(textOf(duplicate), 'filemore');
      await handle.close();
    }),
  );
});

describe('toNodeObject', () => {
  it(
    'finds the object that fits',
    keepsDescriptors(async () => {
      const acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const [left, right] = socketPair();
      using other = right;
      const server = await acceptor.duplicate().toNodeObject();
      const socket = await left.release().toNodeObject();
      const file = await openFile('file').toNodeObject();
      await acceptor.close();
      assert.ok(server instanceof Server && socket instanceof Socket);
      assert.equal(file.constructor.name, 'FileHandle');
      socket.destroy();
      server.close();
      await once(server, 'close');
      if ('readFile' in file) await file.close();
      assert.equal(other.closed, false);
    }),
  );

  it(
    'rejects, and does not throw, when the descriptor is closed',
    keepsDescriptors(async () => {
      const closed = openFile('closed');
      closed.close();
      await assert.rejects(closed.toNodeObject(), { code: 'ERR_DESCRIPTOR_CLOSED' });
    }),
  );
});
