// Datagrams to a Unix socket of another program, which a Python process makes and passes on to this one.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Descriptor, MAX_DESCRIPTORS, sendDatagram } from '../../../src/fd/index.js';
import { native, RESULTS_LENGTH } from '../../../src/fd/native.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { NOBODYS_NUMBER, openFile, takeTexts, temporaryDirectory } from '../../support/files.js';
import { fromPython, withoutPython } from '../../support/python.js';

const x = Buffer.from('x');

/** A datagram socket that is bound to a path, or to an abstract name with its NUL. */
async function bound(path: string): Promise<Descriptor> {
  using message = await fromPython(
    `own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
own.bind(${JSON.stringify(path).replace('\\u0000', '\\0')})
socket.send_fds(channel, [b'x'], [own.fileno()])`,
  );
  return message.takeDescriptor();
}

/** The next datagram; undefined when none waits. */
function nextFrom({ fd }: Descriptor): { text: string; descriptors: Descriptor[] } | undefined {
  const bytes = Buffer.alloc(1024);
  const results = new Int32Array(RESULTS_LENGTH);
  const length = native.receive(fd, bytes, 0, bytes.length, results);
  if (length < 0) return undefined;
  const [count = 0] = results;
  const descriptors = [...results.subarray(2, 2 + count)].map((number) => new Descriptor(number));
  return { text: bytes.toString('utf8', 0, length), descriptors };
}

describe('sendDatagram', { skip: withoutPython }, () => {
  it(
    'sends one datagram to a path, and one to an abstract name',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      for (const path of [`${directory.path}/d`, `\0${directory.path}`]) {
        using receiver = await bound(path);
        assert.equal(sendDatagram(path, Buffer.from('hello')), true);
        assert.equal(sendDatagram({ path }, x), true);
        assert.deepEqual(nextFrom(receiver), { text: 'hello', descriptors: [] });
        assert.deepEqual(nextFrom(receiver), { text: 'x', descriptors: [] });
      }
    }),
  );

  it(
    'lends descriptors, which arrive with it',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      using receiver = await bound(`${directory.path}/d`);
      using one = openFile('one');
      using other = openFile('other');
      assert.equal(sendDatagram(`${directory.path}/d`, x, [one, other]), true);
      assert.deepEqual(takeTexts(nextFrom(receiver)?.descriptors ?? []), ['one', 'other']);
      assert.equal(one.closed, false);
    }),
  );

  it(
    'returns false when the queue is full, and true when there is room again',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/d`;
      using receiver = await bound(path);
      using file = openFile('kept');
      while (sendDatagram(path, x));
      assert.equal(sendDatagram(path, x, [file]), false);
      assert.equal(nextFrom(receiver)?.text, 'x');
      assert.equal(sendDatagram(path, x), true);
    }),
  );

  it(
    'fails for an address without a receiver, and for messages that cannot be sent',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/d`;
      assert.throws(() => sendDatagram(path, x), failsWith('ERR_ADDRESS_MISSING', /d: ENOENT/));
      using receiver = await bound(path);
      assert.throws(() => sendDatagram(path, Buffer.alloc(1 << 22)), failsWith('ERR_SYSTEM', /EMSGSIZE/));
      assert.throws(
        () => sendDatagram(path, x, [NOBODYS_NUMBER]),
        failsWith('ERR_DESCRIPTOR_CLOSED', /one of its descriptors is not open/),
      );
      const tooMany = Array.from({ length: MAX_DESCRIPTORS + 1 }, () => 0);
      assert.throws(() => sendDatagram(path, x, tooMany), failsWith('ERR_TOO_MANY_DESCRIPTORS'));
      assert.throws(() => sendDatagram(path, Buffer.alloc(0)), TypeError);
      assert.throws(() => sendDatagram('', x), TypeError);
      assert.equal(nextFrom(receiver), undefined);
      receiver.close();
      assert.throws(() => sendDatagram(path, x), failsWith('ERR_CONNECTION_REFUSED'));
    }),
  );

  it(
    'never sends its own socket in place of a closed descriptor with the same number',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      using receiver = await bound(`${directory.path}/d`);
      using file = openFile('closed');
      const number = file.fd;
      file.close();
      assert.throws(
        () => sendDatagram(`${directory.path}/d`, x, [number]),
        failsWith('ERR_DESCRIPTOR_CLOSED'),
      );
      assert.equal(nextFrom(receiver), undefined);
    }),
  );
});
