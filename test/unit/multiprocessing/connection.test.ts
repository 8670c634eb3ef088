// A Connection whose other end breaks the format, is slow or hangs up, and a Listener with silent clients.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { connect, socketPair, type StreamSocket } from '../../../src/fd/index.js';
import {
  Client,
  Connection,
  Listener,
  Pipe,
  recvHandle,
  sendHandle,
  type ConnectionOptions,
} from '../../../src/multiprocessing/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { openFile, temporaryDirectory, textOf } from '../../support/files.js';

/** A connection, and the bare socket at its other end. */
function withPeer(
  body: (connection: Connection, peer: StreamSocket) => Promise<void>,
  options?: ConnectionOptions,
): () => Promise<void> {
  return keepsDescriptors(async () => {
    const [near, far] = socketPair();
    using connection = new Connection(near, options);
    using peer = far;
    await body(connection, peer);
  });
}

function hex(text: string): Buffer {
  return Buffer.from(text, 'hex');
}

describe('a Connection', () => {
  it(
    'puts a frame together from single bytes',
    withPeer(async (connection, peer) => {
      const received = connection.recvBytes();
      for (const byte of hex('0000000568656c6c6f')) await peer.send(Buffer.of(byte));
      assert.equal((await received).toString(), 'hello');
    }),
  );

  for (const [what, bytes] of [
    ['announces a negative length', 'fffffffe'],
    ['ends inside a length', '0000'],
    ['ends between a length and its payload', '00000005'],
    ['ends inside a payload', '0000000568'],
  ] as const) {
    it(
      `closes with ERR_FRAME when the other end ${what}`,
      withPeer(async (connection, peer) => {
        await peer.send(hex(bytes));
        await peer.end();
        await assert.rejects(connection.recvBytes(), failsWith('ERR_FRAME'));
        assert.ok(connection.closed);
      }),
    );
  }

  it(
    'fails with ERR_EOF when the other end closes between two frames',
    withPeer(async (connection, peer) => {
      peer.destroy();
      await assert.rejects(connection.recv(), failsWith('ERR_EOF'));
    }),
  );

  it(
    'closes with ERR_FRAME_TOO_LARGE at a length over its limit, before any of it has come',
    withPeer(
      async (connection, peer) => {
        await peer.send(hex('0000000b'));
        await assert.rejects(connection.recvBytes(), failsWith('ERR_FRAME_TOO_LARGE'));
        assert.ok(connection.closed);
      },
      { maxFrameBytes: 10 },
    ),
  );

  it(
    'closes at descriptors inside a frame, and closes them',
    withPeer(async (connection, peer) => {
      using file = openFile('file');
      await peer.send(hex('0000000168'), [file]);
      await assert.rejects(connection.recvBytes(), failsWith('ERR_UNEXPECTED_DESCRIPTORS'));
      assert.ok(connection.closed);
    }),
  );

  it(
    'closes at the first descriptor inside a frame, before the frame is whole',
    withPeer(async (connection, peer) => {
      using file = openFile('file');
      const receiving = connection.recvBytes();
      await peer.send(hex('0000100061'));
      await peer.send(Buffer.of(1), [file]);
      await assert.rejects(receiving, failsWith('ERR_UNEXPECTED_DESCRIPTORS'));
      assert.ok(connection.closed);
    }),
  );

  it(
    'closes at a frame where a handle is expected',
    withPeer(async (connection, peer) => {
      await peer.send(hex('0000000168'));
      await assert.rejects(recvHandle(connection), failsWith('ERR_HANDLE'));
      assert.ok(connection.closed);
    }),
  );

  it(
    'loses nothing of a frame whose receive is aborted in the middle',
    withPeer(async (connection, peer) => {
      const givenUp = new AbortController();
      const first = connection.recvBytes(undefined, { signal: givenUp.signal });
      await peer.send(hex('000000056865'));
      await connection.socket.untilReadable({ signal: AbortSignal.abort() }).catch(() => undefined);
      givenUp.abort();
      await assert.rejects(first, { name: 'AbortError' });
      await peer.send(hex('6c6c6f'));
      assert.equal((await connection.recvBytes()).toString(), 'hello');
    }),
  );

  it(
    'serves receives at the same time in the order of their calls, handles among them',
    keepsDescriptors(async () => {
      const [near, far] = Pipe();
      using left = near;
      using right = far;
      using file = openFile('file');
      const received = [right.recv(), right.recv()] as const;
      const handle = recvHandle(right);
      const last = right.recv();
      await Promise.all([left.send(1), left.send('two'), sendHandle(left, file), left.send([3])]);
      assert.deepEqual(await Promise.all(received), [1, 'two']);
      using arrived = await handle;
      assert.equal(textOf(arrived), 'file');
      assert.deepEqual(await last, [3]);
    }),
  );

  it(
    'aborts a receive while another one waits before it',
    withPeer(async (connection, peer) => {
      const before = connection.recvBytes();
      const givenUp = new AbortController();
      const later = connection.recvBytes(undefined, { signal: givenUp.signal });
      givenUp.abort();
      await assert.rejects(later, { name: 'AbortError' });
      const late = connection.recvBytes(undefined, { signal: AbortSignal.abort() });
      await assert.rejects(late, { name: 'AbortError' });
      await peer.send(hex('0000000161'));
      assert.equal((await before).toString(), 'a');
    }),
  );

  it(
    'has one direction at each end of a Pipe(false)',
    keepsDescriptors(async () => {
      const [reader, writer] = Pipe(false);
      using receives = reader;
      using sends = writer;
      await sends.send('one way');
      assert.equal(await receives.recv(), 'one way');
      await assert.rejects(receives.send(1), failsWith('ERR_WRONG_KIND'));
      await assert.rejects(sends.recv(), failsWith('ERR_WRONG_KIND'));
    }),
  );
});

describe('a Listener', () => {
  it(
    'accepts a client among more silent clients than it has handshakes, and refuses silent ones',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/s`;
      await using listener = await Listener(path, { authkey: 'key' });
      const refused: string[] = [];
      listener.on('refused', ({ code }) => refused.push(code));
      const accepted = listener.accept();
      const silent = await Promise.all(Array.from({ length: 70 }, () => connect(path)));
      using client = await Client(path, { authkey: 'key' });
      using connection = await accepted;
      await client.send('let in');
      assert.equal(await connection.recv(), 'let in');
      assert.ok(refused.length > 0);
      assert.deepEqual([...new Set(refused)], ['ERR_HANDSHAKE_TIMEOUT']);
      for (const socket of silent) socket.destroy();
    }),
  );

  it(
    'refuses a client that is silent longer than the handshake timeout',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/s`;
      await using listener = await Listener(path, { authkey: 'key', handshakeTimeoutMs: 1 });
      const refused = new Promise<string>((resolve) =>
        listener.on('refused', ({ code }) => {
          resolve(code);
        }),
      );
      const accepted = assert.rejects(listener.accept(), failsWith('ERR_CLOSED'));
      using silent = await connect(path);
      assert.equal(await refused, 'ERR_HANDSHAKE_TIMEOUT');
      assert.equal(silent.closed, false);
      await listener.close();
      await accepted;
    }),
  );
});
