// listen at paths and abstract names: which files it replaces, and which files it leaves.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { lstat, readFile, rename, symlink, writeFile } from 'node:fs/promises';
import { createSocket } from 'node:dgram';
import { describe, it } from 'node:test';

import { connect, Descriptor, listen, StreamSocket } from '../../../src/fd/index.js';
import { native } from '../../../src/fd/native.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { causedBy } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';
import { isPending } from '../../support/loop.js';
import { leaveSocketFile } from '../../support/listeners.js';
import { fromPython, python, withoutPython } from '../../support/python.js';
import { receivedText } from '../../support/stream.js';

const x = Buffer.from('x');

/** The body of a test that gets the path of a directory of its own. */
function inDirectory(body: (path: string) => Promise<void>): () => Promise<void> {
  return keepsDescriptors(async () => {
    await using directory = await temporaryDirectory();
    await body(directory.path);
  });
}

async function inode(path: string): Promise<number | undefined> {
  return (await lstat(path).catch(() => undefined))?.ino;
}

describe('listen at a path', () => {
  it(
    'takes connections until it is closed, and leaves no file',
    inDirectory(async (directory) => {
      const path = `${directory}/s`;
      const acceptor = await listen(path);
      assert.deepEqual(acceptor.address, { path });
      using client = await connect(path);
      using server = new StreamSocket(await acceptor.accept());
      await client.send(x);
      assert.equal(await receivedText(server), 'x');
      assert.deepEqual(client.remoteAddress, { path });
      await acceptor.close();
      assert.equal(await inode(path), undefined);
      await assert.rejects(connect(path), causedBy('ERR_ADDRESS_MISSING', 'ENOENT', /start the server/));
    }),
  );

  it(
    'is for its own user by default; a mode can allow others',
    inDirectory(async (directory) => {
      for (const [mode, expected] of [
        [undefined, 0o600],
        [0o666, 0o666],
        [0o660, 0o660],
      ] as const) {
        await using acceptor = await listen(`${directory}/s`, mode === undefined ? {} : { mode });
        assert.equal(acceptor.closed, false);
        assert.equal((await lstat(`${directory}/s`)).mode & 0o777, expected);
      }
    }),
  );

  it(
    'replaces the file of a listener that ended',
    inDirectory(async (directory) => {
      const path = `${directory}/s`;
      await leaveSocketFile(path);
      await assert.rejects(connect(path), causedBy('ERR_CONNECTION_REFUSED', 'ECONNREFUSED', /left from/));
      await using acceptor = await listen(path);
      using client = await connect(path);
      using accepted = await acceptor.accept();
      assert.deepEqual(accepted.localAddress, client.remoteAddress);
    }),
  );

  it(
    'refuses a path at which a process listens, and names the process',
    inDirectory(async (directory) => {
      const path = `${directory}/s`;
      await using first = await listen(path);
      const file = await inode(path);
      await assert.rejects(listen(path), {
        code: 'ERR_ADDRESS_IN_USE',
        message: new RegExp(`process ${process.pid} listens`),
      });
      assert.equal(await inode(path), file);
      (await first.accept()).close(); // the probe
      using client = await connect(path);
      using accepted = await first.accept();
      assert.equal(accepted.closed || client.closed, false);
    }),
  );

  it(
    'refuses a path whose listener has a full backlog, and names the process all the same',
    inDirectory(async (directory) => {
      const path = `${directory}/s`;
      await using first = await listen(path, { backlog: 0 });
      using client = await connect(path);
      await assert.rejects(listen(path), {
        code: 'ERR_ADDRESS_IN_USE',
        message: new RegExp(`process ${process.pid} listens there, and the backlog is full`),
      });
      assert.equal(first.closed || client.closed, false);
    }),
  );

  it(
    'replaces no file that is not the socket of a listener',
    inDirectory(async (directory) => {
      const inUse = { code: 'ERR_ADDRESS_IN_USE', message: /is not replaced/ };
      await writeFile(`${directory}/file`, 'precious');
      await assert.rejects(listen(`${directory}/file`), inUse);
      assert.equal(await readFile(`${directory}/file`, 'utf8'), 'precious');

      await assert.rejects(listen(directory), inUse);

      await leaveSocketFile(`${directory}/stale`);
      await symlink(`${directory}/stale`, `${directory}/link`);
      await assert.rejects(listen(`${directory}/link`), inUse);
      assert.equal((await lstat(`${directory}/link`)).isSymbolicLink(), true);
    }),
  );

  it(
    'replaces no dangling link',
    inDirectory(async (directory) => {
      await symlink(`${directory}/nowhere`, `${directory}/link`);
      await assert.rejects(listen(`${directory}/link`), { code: 'ERR_ADDRESS_IN_USE' });
      assert.equal((await lstat(`${directory}/link`)).isSymbolicLink(), true);
    }),
  );

  it(
    'replaces no socket of a datagram service',
    { skip: withoutPython },
    inDirectory(async (directory) => {
      using alive = await fromPython(`
service = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
service.bind("${directory}/s")
socket.send_fds(channel, [b"x"], [service.fileno()])`);
      assert.equal(alive.descriptors[0]?.describe().kind, 'datagram');
      const file = await inode(`${directory}/s`);
      await assert.rejects(listen(`${directory}/s`), {
        code: 'ERR_ADDRESS_IN_USE',
        message: /is not replaced/,
      });
      assert.equal(await inode(`${directory}/s`), file);
    }),
  );

  it(
    'fails when the directory does not exist, and names it',
    inDirectory(async (directory) => {
      await assert.rejects(
        listen(`${directory}/none/s`),
        causedBy('ERR_ADDRESS_MISSING', 'ENOENT', /directory .*none does not exist/),
      );
      await writeFile(`${directory}/file`, '');
      await assert.rejects(listen(`${directory}/file/s`), causedBy('ERR_ADDRESS', 'ENOTDIR'));
    }),
  );

  it(
    'accepts a path of 107 bytes, and refuses one of 108',
    inDirectory(async (directory) => {
      const longest = `${directory}/`.padEnd(107, 's');
      assert.equal(Buffer.byteLength(longest), 107);
      await using acceptor = await listen(longest);
      using client = await connect(longest);
      assert.deepEqual(acceptor.address, { path: longest });
      assert.deepEqual(client.remoteAddress, { path: longest });
      const tooLong = causedBy('ERR_ADDRESS', 'ENAMETOOLONG');
      await assert.rejects(
        listen(`${longest}s`),
        causedBy('ERR_ADDRESS', 'ENAMETOOLONG', /108 bytes.*at most 107/),
      );
      await assert.rejects(connect(`${longest}s`), tooLong);
      // Bytes count, not characters.
      await assert.rejects(listen(`${longest.slice(0, -1)}ü`), tooLong);
    }),
  );
});

describe('close of an Acceptor', () => {
  it(
    'does not remove a file that another process has put there',
    inDirectory(async (directory) => {
      const path = `${directory}/s`;
      const first = await listen(path);
      await rename(path, `${directory}/moved`);
      await using second = await listen(path);
      const file = await inode(path);
      await first.close();
      assert.equal(await inode(path), file);
      using client = await connect(path);
      using accepted = await second.accept();
      assert.equal(accepted.closed || client.closed, false);

      const third = await listen(`${directory}/t`);
      await rename(`${directory}/t`, `${directory}/u`);
      await writeFile(`${directory}/t`, 'precious');
      await third.close();
      assert.equal(await readFile(`${directory}/t`, 'utf8'), 'precious');
    }),
  );

  it(
    'resolves together with a second call, and the path is free',
    inDirectory(async (directory) => {
      const path = `${directory}/s`;
      const acceptor = await listen(path);
      const first = acceptor.close();
      await acceptor.close();
      assert.equal(await inode(path), undefined);
      await (await listen(path)).close();
      await first;
    }),
  );

  it(
    'succeeds when the file is already gone',
    inDirectory(async (directory) => {
      const acceptor = await listen(`${directory}/s`);
      await rename(`${directory}/s`, `${directory}/gone`);
      await acceptor.close();
      await acceptor.close();
    }),
  );
});

describe('an abstract name', () => {
  const name = (): string => `\0passfd-${randomUUID()}`;

  it(
    'has no file, and is free again when it is closed',
    keepsDescriptors(async () => {
      const path = name();
      const acceptor = await listen(path);
      using client = await connect(path);
      using accepted = await acceptor.accept();
      assert.deepEqual(acceptor.address, { path });
      assert.deepEqual(accepted.localAddress, { path });
      assert.deepEqual(client.remoteAddress, { path });
      await assert.rejects(listen(path), causedBy('ERR_ADDRESS_IN_USE', 'EADDRINUSE', /@passfd-/));
      await acceptor.close();
      await assert.rejects(connect(path), causedBy('ERR_CONNECTION_REFUSED', 'ECONNREFUSED'));
      await (await listen(path)).close();
    }),
  );

  it(
    'is used at its exact length, NUL bytes and all',
    keepsDescriptors(async () => {
      const path = name();
      await using acceptor = await listen(path);
      await using longer = await listen(`${path}\0`);
      await using inside = await listen(`${path}\0inside`);
      assert.deepEqual(longer.address, { path: `${path}\0` });
      using client = await connect(`${path}\0inside`);
      using accepted = await inside.accept();
      assert.deepEqual(client.remoteAddress, accepted.localAddress);
      assert.equal(acceptor.closed, false);

      const longest = path.padEnd(108, 'x');
      await using long = await listen(longest);
      assert.deepEqual(long.address, { path: longest });
      await assert.rejects(listen(`${longest}x`), causedBy('ERR_ADDRESS', 'ENAMETOOLONG'));
    }),
  );

  it(
    'is the same name for Python',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      const path = name();
      const literal = JSON.stringify(path).replace('\\u0000', '\\0');
      await using acceptor = await listen(path);
      const [accepted] = await Promise.all([
        acceptor.accept(),
        python(`
import socket
s = socket.socket(socket.AF_UNIX)
s.connect(${literal})
s.sendall(b"hello")`),
      ]);
      using there = new StreamSocket(accepted);
      assert.equal(await receivedText(there), 'hello');

      const other = name();
      const answer = python(`
import socket
s = socket.socket(socket.AF_UNIX)
s.bind(${JSON.stringify(other).replace('\\u0000', '\\0')})
s.listen(1)
s.accept()[0].sendall(b"hello")`);
      using client = await connect(other, { waitForListener: true });
      assert.equal(await receivedText(client), 'hello');
      await answer;
    }),
  );
});

describe('the lock on a directory', () => {
  it(
    'keeps other processes from replacing a file at the same time',
    inDirectory(async (directory) => {
      const path = `${directory}/s`;
      await leaveSocketFile(path);
      const lock = new Descriptor(native.lockDirectory(directory));
      const file = await inode(path);
      const waiting = listen(path);
      assert.equal(await isPending(waiting), true);
      assert.equal(await inode(path), file);
      lock.close();
      await using acceptor = await waiting;
      assert.notEqual(acceptor, undefined);
    }),
  );
});

describe('what is not an address', () => {
  it('is a TypeError', async () => {
    const socket = createSocket('udp4');
    for (const wrong of ['', 7, null, undefined, {}, { path: '' }, { path: 7 }, 'with\0nul', socket]) {
      await assert.rejects(listen(wrong as string), TypeError);
      await assert.rejects(connect(wrong as string), TypeError);
    }
    socket.close();
    for (const options of [{ backlog: -1 }, { backlog: 1.5 }, { mode: -1 }, { mode: 0o1000 }]) {
      await assert.rejects(listen(`\0${randomUUID()}`, options), TypeError);
    }
  });
});
