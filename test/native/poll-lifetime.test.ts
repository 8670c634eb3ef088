// What a Poll keeps alive, and what ends it: the process, a worker thread, the garbage collector.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { Worker } from 'node:worker_threads';

import { native } from '../../src/fd/native.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { receiveByte, runFixture, sendByte, withPair, type Ended } from './support.js';

const WORKERS = 20;

function play(scene: string, ...nodeFlags: string[]): Promise<Ended> {
  return runFixture('poll-scene', [scene], nodeFlags);
}

describe('a process with a Poll', () => {
  for (const scene of ['unstarted', 'stopped', 'closed', 'unreferenced']) {
    it(
      `ends by itself when the Poll is ${scene}`,
      keepsDescriptors(async () => {
        assert.deepEqual(await play(scene), { code: 0, signal: null, stdout: '', stderr: '' });
      }),
    );
  }

  for (const scene of ['started', 'referenced again']) {
    it(
      `lives on until the callback when the Poll is ${scene}`,
      keepsDescriptors(async () => {
        assert.deepEqual(await play(scene), { code: 0, signal: null, stdout: 'ready', stderr: '' });
      }),
    );
  }

  it(
    'gets what the callback throws as an uncaughtException, and goes on',
    keepsDescriptors(async () => {
      const ended = await play('throws, and is caught');
      assert.deepEqual(ended, { code: 0, signal: null, stdout: 'from the callback,tick', stderr: '' });
    }),
  );

  it(
    'ends with the error of the callback when it is not caught',
    keepsDescriptors(async () => {
      const { code, signal, stderr } = await play('throws');
      assert.deepEqual({ code, signal }, { code: 1, signal: null });
      assert.match(stderr, /Error: from the callback/);
    }),
  );

  for (const scene of ['exits', 'exits in a callback']) {
    it(
      `${scene} with a hundred others open, and nothing more`,
      keepsDescriptors(async () => {
        assert.deepEqual(await play(scene), { code: 7, signal: null, stdout: '', stderr: '' });
      }),
    );
  }
});

describe('the garbage collector', () => {
  it(
    'collects thousands of stopped Polls, and closes their handles',
    keepsDescriptors(async () => {
      const { code, stdout, stderr } = await play('collects what is stopped', '--expose-gc');
      assert.deepEqual([code, stdout, stderr], [0, '5000 of 5000 collected, 0 open', '']);
    }),
  );

  it(
    'collects a hundred Polls that an error has stopped',
    keepsDescriptors(async () => {
      const { code, stdout, stderr } = await play('collects what an error has stopped', '--expose-gc');
      assert.deepEqual([code, stdout, stderr], [0, '100 failed, 100 of 100 collected, 0 open', '']);
    }),
  );

  it(
    'leaves a started Poll without references, which still calls back',
    keepsDescriptors(async () => {
      const { code, stdout, stderr } = await play('keeps what is started', '--expose-gc');
      assert.deepEqual([code, stdout, stderr], [0, '100 of 100 collected, 1 open, called', '']);
    }),
  );
});

describe('a worker thread with Polls', () => {
  it(
    'is terminated with them started, twenty at a time, without harm',
    keepsDescriptors(() =>
      withPair(async (one, other) => {
        const opened = await Promise.all(
          Array.from({ length: WORKERS }, async () => {
            const worker = startWorker(one, 'in the middle');
            const [fds] = (await once(worker, 'message')) as [number[]];
            assert.equal(await worker.terminate(), 1);
            return fds;
          }),
        );
        assert.equal(new Set(opened.flat()).size, opened.flat().length);
        for (const fd of opened.flat()) assert.equal(native.close(fd), 0);
        sendByte(one, one);
        for (const fd of receiveByte(other)) native.close(fd);
      }),
    ),
  );

  it(
    'ends by itself when they are not referenced, though none was closed',
    keepsDescriptors(() =>
      withPair(async (one) => {
        const worker = startWorker(one, 'by itself');
        const [[fds], [code]] = (await Promise.all([once(worker, 'message'), once(worker, 'exit')])) as [
          [number[]],
          [number],
        ];
        assert.equal(code, 0);
        for (const fd of fds) assert.equal(native.close(fd), 0);
      }),
    ),
  );
});

function startWorker(fd: number, ends: 'by itself' | 'in the middle'): Worker {
  return new Worker(new URL('./fixtures/poll-worker.js', import.meta.url), { workerData: { fd, ends } });
}
