// What a board keeps mapped, and what ends its heartbeat: the process, a worker thread, the garbage collector.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, readSync } from 'node:fs';
import { describe, it } from 'node:test';
import { Worker } from 'node:worker_threads';

import { BOARD_WORDS } from '../../src/fd/board.js';
import { native } from '../../src/fd/native.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { runFixture, type Ended } from './support.js';

const WORKERS = 20;

function play(scene: string, ...nodeFlags: string[]): Promise<Ended> {
  return runFixture('board-scene', [scene], nodeFlags);
}

function countMappings(): number {
  return readFileSync('/proc/self/maps', 'utf8').split('memfd:passfd-board').length - 1;
}

/** What a board has, without a mapping of it. */
function readBoard(fd: number): Int32Array {
  const words = new Int32Array(BOARD_WORDS);
  assert.equal(readSync(fd, words, 0, words.byteLength, 0), words.byteLength);
  return words;
}

describe('a process with boards', () => {
  it(
    'ends by itself while it beats',
    keepsDescriptors(async () => {
      assert.deepEqual(await play('beating'), { code: 0, signal: null, stdout: '', stderr: '' });
    }),
  );

  it(
    'exits while it beats, with a hundred others mapped',
    keepsDescriptors(async () => {
      assert.deepEqual(await play('exits'), { code: 7, signal: null, stdout: '', stderr: '' });
    }),
  );
});

describe('the garbage collector', () => {
  for (const [scene, left] of [
    ['maps and forgets', '0 mapped\n'],
    ['moves its heartbeat', '1 mapped\n0 mapped\n'],
    ['moves the memory to another ArrayBuffer', '0 mapped\n'],
    ['uses a page that only the heartbeat refers to', '1 mapped'],
  ] as const) {
    it(
      `unmaps what is not used any more when a process ${scene}`,
      keepsDescriptors(async () => {
        const { code, stdout, stderr } = await play(scene, '--expose-gc');
        assert.deepEqual([code, stdout, stderr], [0, left, '']);
      }),
    );
  }
});

describe('a worker thread that beats', () => {
  for (const ends of ['by itself', 'in the middle'] as const) {
    it(
      `leaves a loop that is not awake and no mapping when it ends ${ends}, twenty at a time`,
      keepsDescriptors(async () => {
        const before = countMappings();
        const fds = Array.from({ length: WORKERS }, () => native.boardCreate());
        await Promise.all(
          fds.map(async (fd) => {
            const worker = new Worker(new URL('./fixtures/board-worker.js', import.meta.url), {
              workerData: { fd, ends },
            });
            const exit = once(worker, 'exit');
            await once(worker, 'message');
            if (ends === 'in the middle') assert.equal(await worker.terminate(), 1);
            assert.deepEqual(await exit, [ends === 'by itself' ? 0 : 1]);
          }),
        );
        assert.equal(countMappings(), before);
        for (const fd of fds) {
          const [since, count = 0] = readBoard(fd);
          assert.equal(since, 0);
          assert.ok(count > 0);
          native.close(fd);
        }
      }),
    );
  }
});

describe('misuse of a board', () => {
  it('is refused: memory that is none, and arguments of another kind', () => {
    for (const memory of [
      new ArrayBuffer(4096),
      new Int32Array(1024),
      new Proxy({}, {}),
      {},
      1,
      'x',
      undefined,
    ]) {
      assert.throws(() => native.boardBeat(memory as ArrayBuffer), { name: 'TypeError' });
    }
    assert.throws(() => native.boardMap(-1), { name: 'TypeError' });
  });
});
