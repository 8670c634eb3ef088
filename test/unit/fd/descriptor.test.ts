// Descriptor: an open descriptor with exactly one owner, and what the kernel reports about it.
import assert from 'node:assert/strict';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { describe, it } from 'node:test';

import { describe as describeFd } from '../../../src/fd/descriptor.js';
import {
  connect,
  Descriptor,
  listen,
  PassfdError,
  socketPair,
  type TcpAddress,
} from '../../../src/fd/index.js';
import { native } from '../../../src/fd/native.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { causedBy } from '../../support/errors.js';
import { NOBODYS_NUMBER, openFile, textOf } from '../../support/files.js';
import { withoutIpv6 } from '../../support/listeners.js';
import { fromPython, withoutPython } from '../../support/python.js';

const ERR_DESCRIPTOR_CLOSED = { code: 'ERR_DESCRIPTOR_CLOSED' };

/** Every call that only asks about a descriptor. */
const uses: Record<string, (descriptor: Descriptor) => unknown> = {
  fd: (descriptor) => descriptor.fd,
  describe: (descriptor) => descriptor.describe(),
  localAddress: (descriptor) => descriptor.localAddress,
  remoteAddress: (descriptor) => descriptor.remoteAddress,
  setNonblocking: (descriptor) => {
    descriptor.setNonblocking(true);
  },
  duplicate: (descriptor) => descriptor.duplicate(),
  release: (descriptor) => descriptor.release(),
  toSocket: (descriptor) => descriptor.toSocket(),
  toServer: (descriptor) => descriptor.toServer(),
  toDatagramSocket: (descriptor) => descriptor.toDatagramSocket(),
  toFileHandle: (descriptor) => descriptor.toFileHandle(),
  toNodeObject: (descriptor) => descriptor.toNodeObject(),
};

describe('a Descriptor', () => {
  for (const [name, use] of Object.entries(uses)) {
    it(
      `that was closed or given away refuses ${name}`,
      keepsDescriptors(async () => {
        const closed = openFile('closed');
        closed.close();
        const released = openFile('released');
        closeSync(released.release());
        for (const gone of [closed, released]) {
          await assert.rejects(async () => {
            await use(gone);
          }, ERR_DESCRIPTOR_CLOSED);
          assert.equal(gone.closed, true);
        }
      }),
    );
  }

  it(
    'is closed once, and a second close does not hit the next descriptor with its number',
    keepsDescriptors(() => {
      const first = openFile('first');
      const { fd } = first;
      first.close();
      using second = openFile('second');
      assert.equal(second.fd, fd);
      first.close();
      first[Symbol.dispose]();
      assert.equal(textOf(second), 'second');
    }),
  );

  it(
    'is closed at the end of its block by `using`, and not when it was released before',
    keepsDescriptors(() => {
      let kept: number;
      {
        using closed = openFile('closed');
        using released = openFile('released');
        kept = released.release();
        assert.equal(closed.closed, false);
      }
      assert.equal(fstatSync(kept).isFile(), true);
      closeSync(kept);
    }),
  );

  it(
    'that other code has closed fails with ERR_DESCRIPTOR_CLOSED',
    keepsDescriptors(() => {
      const descriptor = openFile('file');
      closeSync(descriptor.fd);
      assert.throws(
        () => descriptor.describe(),
        causedBy('ERR_DESCRIPTOR_CLOSED', 'EBADF', /other code closed it/),
      );
      assert.throws(() => descriptor.duplicate(), causedBy('ERR_DESCRIPTOR_CLOSED', 'EBADF'));
      assert.throws(
        () => {
          descriptor.close();
        },
        causedBy('ERR_DESCRIPTOR_CLOSED', 'EBADF'),
      );
      descriptor.close();
    }),
  );

  it(
    'has a duplicate with its own number and owner',
    keepsDescriptors(() => {
      const original = openFile('file');
      using duplicate = original.duplicate();
      assert.notEqual(duplicate.fd, original.fd);
      assert.equal(fstatSync(duplicate.fd).ino, fstatSync(original.fd).ino);
      original.close();
      assert.equal(textOf(duplicate), 'file');
    }),
  );

  it('takes only numbers that a descriptor can have', () => {
    for (const wrong of [-1, 1.5, NaN, Infinity, 2 ** 31, 2 ** 32, '3', null, undefined, {}]) {
      assert.throws(() => new Descriptor(wrong as number), TypeError);
    }
    assert.throws(() => new Descriptor(NOBODYS_NUMBER).describe(), ERR_DESCRIPTOR_CLOSED);
  });

  it(
    'shares O_NONBLOCK with its duplicates',
    keepsDescriptors(() => {
      const [left, right] = socketPair();
      using descriptor = left.release();
      using other = right.release();
      using duplicate = descriptor.duplicate();
      descriptor.setNonblocking(true);
      assert.deepEqual(
        [duplicate, other].map(({ fd }) => native.isNonblocking(fd)),
        [1, 0],
      );
      duplicate.setNonblocking(false);
      assert.equal(native.isNonblocking(descriptor.fd), 0);
    }),
  );
});

describe('describe', () => {
  it(
    'distinguishes files, directories and devices, and whether they are readable or writable',
    keepsDescriptors(() => {
      const cases = [
        [openFile('file'), { kind: 'file', readable: true, writable: true }],
        [new Descriptor(openSync('/', 'r')), { kind: 'directory', readable: true, writable: false }],
        [new Descriptor(openSync('/dev/null', 'w')), { kind: 'other', readable: false, writable: true }],
      ] as const;
      for (const [opened, expected] of cases) {
        using descriptor = opened;
        assert.deepEqual(descriptor.describe(), expected);
      }
    }),
  );

  it(
    'distinguishes connections and listening sockets, by family',
    keepsDescriptors(async () => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using client = await connect(acceptor.address);
      using accepted = await acceptor.accept();
      const [left, right] = socketPair();
      using first = left;
      using second = right;
      const both = { readable: true, writable: true };
      assert.deepEqual(describeFd(acceptor.fd), { kind: 'listener', family: 'ipv4', ...both });
      assert.deepEqual(describeFd(client.fd), { kind: 'stream', family: 'ipv4', ...both });
      assert.deepEqual(accepted.describe(), { kind: 'stream', family: 'ipv4', ...both });
      assert.deepEqual(describeFd(first.fd), { kind: 'stream', family: 'unix', ...both });
      second.destroy();
      assert.deepEqual(describeFd(first.fd), { kind: 'stream', family: 'unix', ...both });
    }),
  );

  it(
    'describes pipes, terminals, datagram sockets, memfds and epolls that Python made',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      using message = await fromPython(`
import select
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
poll = select.epoll()
socket.send_fds(channel, [b"x"], [*os.pipe(), *os.openpty(), udp.fileno(), unix.fileno(), packets.fileno(),
  os.memfd_create("m"), poll.fileno()])`);
      assert.deepEqual(
        message.descriptors.map((descriptor) => {
          const { kind, family = '', readable, writable } = descriptor.describe();
          return `${kind} ${family} ${readable ? 'r' : ''}${writable ? 'w' : ''}`;
        }),
        [
          'pipe  r',
          'pipe  w',
          'tty  rw',
          'tty  rw',
          'datagram ipv4 rw',
          'datagram unix rw',
          'socket unix rw',
          'file  rw',
          'other  rw',
        ],
      );
    }),
  );
});

describe('the addresses of a Descriptor', () => {
  for (const { host, skip } of [
    { host: '127.0.0.1', skip: false },
    { host: '::1', skip: withoutIpv6 },
  ]) {
    it(
      `are those of both ends, over ${host}`,
      { skip },
      keepsDescriptors(async () => {
        await using acceptor = await listen({ host, port: 0 });
        using client = await connect(acceptor.address);
        using accepted = await acceptor.accept();
        assert.deepEqual(accepted.localAddress, acceptor.address);
        assert.deepEqual(accepted.remoteAddress, client.localAddress);
        assert.equal((accepted.remoteAddress as TcpAddress).host, host);
      }),
    );
  }

  it(
    'exist for sockets only',
    keepsDescriptors(async () => {
      using file = openFile('file');
      assert.throws(() => file.localAddress, causedBy('ERR_SYSTEM', 'ENOTSOCK'));
      assert.throws(() => file.remoteAddress, causedBy('ERR_SYSTEM', 'ENOTSOCK'));
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using listening = acceptor.duplicate();
      assert.throws(() => listening.remoteAddress, causedBy('ERR_PEER_GONE', 'ENOTCONN'));
    }),
  );
});

describe('a PassfdError', () => {
  it('is an Error with a code, a message and a cause', () => {
    const cause = new Error('cause');
    const error = new PassfdError('ERR_CLOSED', 'message', { cause });
    assert.ok(error instanceof Error);
    assert.deepEqual(
      [error.name, error.code, error.message, error.cause],
      ['PassfdError', 'ERR_CLOSED', 'message', cause],
    );
  });
});
