// Board: memory that two processes share, its heartbeat in this process, and the queue of a listening socket.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer, Socket, type AddressInfo } from 'node:net';
import { describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { connect, Descriptor, listen, socketPair } from '../../../src/fd/index.js';
import { beat, Board, BOARD_WORDS, boardClock, queueLength } from '../../../src/fd/internal.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { openFile, temporaryDirectory } from '../../support/files.js';

const loopback = { host: '127.0.0.1', port: 0 };

/** Words of the heartbeat. */
const AWAKE_SINCE = 0;
const TURNS = 1;

/** The time of a loop may be that of a coarse clock, which is late by this at most (uv__hrtime in libuv). */
const LATE_MS = 1;

/** A board whose descriptor is closed already. */
function newBoard(): Board {
  const { board, descriptor } = Board.create();
  descriptor.close();
  return board;
}

describe('a board', () => {
  it(
    'is all zero at first, and shows in every mapping what was written in one',
    keepsDescriptors(() => {
      const { board, descriptor } = Board.create();
      using other = Board.map(descriptor);
      descriptor.close();
      assert.equal(board.words.length, BOARD_WORDS);
      assert.ok(board.words.every((word) => word === 0));
      Atomics.store(board.words, BOARD_WORDS - 1, -5);
      assert.equal(Atomics.load(other.words, BOARD_WORDS - 1), -5);
    }),
  );

  it(
    'leaves an array usable that was taken before it was disposed of, and shares nothing with the one after',
    keepsDescriptors(() => {
      const { board, descriptor } = Board.create();
      using other = Board.map(descriptor);
      descriptor.close();
      const { words } = board;
      board[Symbol.dispose]();
      board[Symbol.dispose]();
      assert.equal(board.closed, true);
      Atomics.store(words, 20, 7);
      assert.equal(Atomics.load(other.words, 20), 7);
      Atomics.store(board.words, 20, 8);
      assert.equal(Atomics.load(other.words, 20), 7);
    }),
  );

  it(
    'is not mapped from a descriptor that is none, which stays with the caller',
    keepsDescriptors(() => {
      using file = openFile('x'.repeat(4 * BOARD_WORDS));
      using device = new Descriptor(openSync('/dev/null', 'r+'));
      const [one, other] = socketPair();
      using socket = one.release();
      for (const descriptor of [file, device, socket]) {
        assert.throws(() => Board.map(descriptor), failsWith('ERR_WRONG_KIND', /is not a board/));
        assert.equal(descriptor.closed, false);
      }
      other.destroy();
    }),
  );

  it(
    'is not mapped where it can only be read',
    keepsDescriptors(() => {
      const { board, descriptor } = Board.create();
      board[Symbol.dispose]();
      using reading = new Descriptor(openSync(`/proc/self/fd/${descriptor.fd}`, 'r'));
      assert.throws(() => Board.map(reading), failsWith('ERR_WRONG_KIND', /is not a board/));
      descriptor.close();
    }),
  );

  it('is not mapped from a descriptor that is closed', () => {
    const { board, descriptor } = Board.create();
    board[Symbol.dispose]();
    descriptor.close();
    assert.throws(() => Board.map(descriptor), failsWith('ERR_DESCRIPTOR_CLOSED'));
  });
});

describe('the clock of a board', () => {
  it('runs as the monotonic clock in milliseconds, within 31 bits', () => {
    const before = process.hrtime.bigint();
    const now = boardClock();
    const after = process.hrtime.bigint();
    const modulo = (nanoseconds: bigint): number => Number((nanoseconds / 1_000_000n) % (1n << 31n));
    assert.ok(now >= modulo(before) && now <= modulo(after), `${modulo(before)} ${now} ${modulo(after)}`);
  });
});

describe('the heartbeat', () => {
  it('counts the turns of the event loop', async () => {
    using board = newBoard();
    const heartbeat = beat(board);
    const before = Atomics.load(board.words, TURNS);
    for (let turn = 0; turn < 5; turn++) await nextTurn();
    assert.equal(Atomics.load(board.words, TURNS) - before, 5);
    heartbeat[Symbol.dispose]();
  });

  it('has the time at which the loop woke up, in every kind of callback', async () => {
    using board = newBoard();
    const start = boardClock() - LATE_MS;
    const heartbeat = beat(board);
    const check = (): void => {
      const since = Atomics.load(board.words, AWAKE_SINCE);
      assert.ok(since >= start && since <= boardClock(), `${start} ${since} ${boardClock()}`);
    };
    check();
    await new Promise((resolve) => setImmediate(resolve));
    check();
    await new Promise((resolve) => setTimeout(resolve, 1));
    check();
    await (await open('/dev/null')).close();
    check();
    await using server = createServer((socket) => {
      check();
      socket.once('data', () => {
        check();
        socket.end('x');
      });
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const client = new Socket().connect((server.address() as AddressInfo).port, '127.0.0.1');
    client.write('x');
    await once(client, 'data');
    check();
    client.destroy();
    heartbeat[Symbol.dispose]();
  });

  it('ends when it is disposed of, and then shows no loop that is awake', async () => {
    using board = newBoard();
    const heartbeat = beat(board);
    await nextTurn();
    heartbeat[Symbol.dispose]();
    const turns = Atomics.load(board.words, TURNS);
    for (let turn = 0; turn < 5; turn++) await nextTurn();
    assert.equal(Atomics.load(board.words, TURNS), turns);
    assert.equal(Atomics.load(board.words, AWAKE_SINCE), 0);
    heartbeat[Symbol.dispose]();
  });

  it('moves to the board of a second call, goes on counting there, and is not ended by the first object', async () => {
    using first = newBoard();
    using second = newBoard();
    const former = beat(first);
    await nextTurn();
    const heartbeat = beat(second);
    former[Symbol.dispose]();
    const turns = Atomics.load(first.words, TURNS);
    assert.ok(turns > 0);
    assert.equal(Atomics.load(second.words, TURNS), turns);
    await nextTurn();
    assert.ok(Atomics.load(second.words, TURNS) > turns);
    assert.ok(Atomics.load(second.words, AWAKE_SINCE) > 0);
    assert.equal(Atomics.load(first.words, TURNS), turns);
    assert.equal(Atomics.load(first.words, AWAKE_SINCE), 0);
    heartbeat[Symbol.dispose]();
  });

  it('goes on when its board is disposed of', async () => {
    const board = newBoard();
    const { words } = board;
    const heartbeat = beat(board);
    board[Symbol.dispose]();
    const turns = Atomics.load(words, TURNS);
    await nextTurn();
    assert.ok(Atomics.load(words, TURNS) > turns);
    heartbeat[Symbol.dispose]();
  });

  it('does not begin on a board that was disposed of', () => {
    const board = newBoard();
    board[Symbol.dispose]();
    assert.throws(() => beat(board), failsWith('ERR_CLOSED'));
  });
});

describe('the length of the queue', () => {
  for (const waiting of [0, 1, 3]) {
    it(
      `is ${waiting} for a TCP socket at which ${waiting} clients wait`,
      keepsDescriptors(async () => {
        await using acceptor = await listen(loopback);
        const clients = await Promise.all(Array.from({ length: waiting }, () => connect(acceptor.address)));
        // The last part of the handshake may still be on its way.
        while (queueLength(acceptor.fd) < waiting) await nextTurn();
        assert.equal(queueLength(acceptor.fd), waiting);
        for (const accepted of acceptor.acceptNow()) accepted.close();
        assert.equal(queueLength(acceptor.fd), 0);
        for (const client of clients) client.destroy();
      }),
    );

    it(
      `is ${Math.min(waiting, 1)} for a Unix socket at which ${waiting} clients wait`,
      keepsDescriptors(async () => {
        await using directory = await temporaryDirectory();
        await using acceptor = await listen(`${directory.path}/s`);
        const clients = await Promise.all(Array.from({ length: waiting }, () => connect(acceptor.address)));
        assert.equal(queueLength(acceptor.fd), Math.min(waiting, 1));
        for (const accepted of acceptor.acceptNow()) accepted.close();
        assert.equal(queueLength(acceptor.fd), 0);
        for (const client of clients) client.destroy();
      }),
    );
  }

  it(
    'is an error for what is no socket, and for a closed descriptor',
    keepsDescriptors(() => {
      using file = openFile('x');
      const { fd } = file;
      assert.throws(
        () => queueLength(fd),
        failsWith('ERR_SYSTEM', /getsockopt failed on descriptor \d+: ENOTSOCK/),
      );
      file.close();
      assert.throws(() => queueLength(fd), failsWith('ERR_DESCRIPTOR_CLOSED'));
    }),
  );
});
