// A board that another process maps: counts, and the heartbeat of an event loop that waits, is blocked, or is stopped.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { Board, boardClock } from '../../src/fd/internal.js';
import { Child } from '../support/child.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { untilStopped } from '../support/processes.js';

/** Words of the heartbeat. */
const AWAKE_SINCE = 0;
const TURNS = 1;

/** The time of a loop may be that of a coarse clock, which is late by this at most (uv__hrtime in libuv). */
const LATE_MS = 1;

/** Words that the fixture uses: what it was sent, the time at which it blocked, and whether it may go on. */
const COUNT = 20;
const BLOCKED_AT = 21;
const MAY_GO_ON = 22;

/** Turns of the own loop in which another process would have done something. */
const MANY_TURNS = 200;

/** Runs a body with a process that maps the board and beats on it. */
async function withBeating(body: (child: Child, words: Int32Array) => Promise<void>): Promise<void> {
  await using child = new Child('board');
  const { board, descriptor } = Board.create();
  await child.channel.send(Buffer.from('b'), [descriptor]);
  descriptor.close();
  assert.equal(await child.next(), 'mapped');
  await body(child, board.words);
  board[Symbol.dispose]();
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await nextTurn();
}

/** The heartbeat, which stays as it is for many turns of this loop. */
async function standing(words: Int32Array): Promise<[since: number, turns: number]> {
  const read = (): [number, number] => [Atomics.load(words, AWAKE_SINCE), Atomics.load(words, TURNS)];
  const found = read();
  for (let turn = 0; turn < MANY_TURNS; turn++) {
    await nextTurn();
    assert.deepEqual(read(), found);
  }
  return found;
}

describe('a board that another process has mapped', () => {
  it(
    'shows what that process counts, without a message',
    keepsDescriptors(() =>
      withBeating(async (child, words) => {
        await child.channel.send(Buffer.from('count'));
        await until(() => Atomics.load(words, COUNT) === 1);
      }),
    ),
  );

  it(
    'stays when that process is killed',
    keepsDescriptors(() =>
      withBeating(async (child, words) => {
        await child.channel.send(Buffer.from('count'));
        await until(() => Atomics.load(words, COUNT) === 1);
        child.kill();
        await child.exit;
        assert.equal(Atomics.load(words, COUNT), 1);
        Atomics.store(words, COUNT, 2);
      }),
    ),
  );
});

describe('the heartbeat of another process', () => {
  it(
    'shows 0 while its loop waits, and no turns',
    keepsDescriptors(() =>
      withBeating(async (_child, words) => {
        await until(() => Atomics.load(words, AWAKE_SINCE) === 0);
        const [since] = await standing(words);
        assert.equal(since, 0);
      }),
    ),
  );

  for (const where of ['message', 'socket', 'timer', 'immediate', 'job']) {
    it(
      `shows when its loop woke up, as long as a ${where} callback blocks it, and goes on after that`,
      keepsDescriptors(() =>
        withBeating(async (child, words) => {
          await until(() => Atomics.load(words, AWAKE_SINCE) === 0);
          const before = boardClock() - LATE_MS;
          await child.channel.send(Buffer.from(where));
          await until(() => Atomics.load(words, BLOCKED_AT) > 0);
          const [since, turns] = await standing(words);
          assert.ok(since >= before, `${since} is before ${before}`);
          assert.ok(since <= Atomics.load(words, BLOCKED_AT));
          Atomics.store(words, MAY_GO_ON, 1);
          await until(() => Atomics.load(words, TURNS) > turns && Atomics.load(words, AWAKE_SINCE) === 0);
        }),
      ),
    );
  }

  it(
    'stands still while the process is stopped, whatever it is sent',
    keepsDescriptors(() =>
      withBeating(async (child, words) => {
        await until(() => Atomics.load(words, AWAKE_SINCE) === 0);
        const pid = child.pid ?? 0;
        process.kill(pid, 'SIGSTOP');
        await untilStopped(pid);
        await child.channel.send(Buffer.from('count'));
        const [since, turns] = await standing(words);
        assert.equal(since, 0);
        process.kill(pid, 'SIGCONT');
        await until(() => Atomics.load(words, TURNS) > turns && Atomics.load(words, COUNT) === 1);
      }),
    ),
  );
});
