// The log: all lines in their order, without waiting for a reader.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';

import { openLog, type OpenLog } from '../../../src/service/log.js';
import { keepsDescriptors, openDescriptors } from '../../support/descriptors.js';
import { temporaryDirectory } from '../../support/files.js';

interface Line {
  readonly msg: string;
  readonly number?: number;
  readonly lines?: number;
}

interface Stage {
  readonly opened: OpenLog;
  /** Lines that have reached the reader and were not taken yet. */
  readonly read: () => string;
  readonly hangUp: () => void;
  /** Descriptors that were open before the log and still are. `hangUp` closes one of them. */
  readonly before: () => string[];
}

/** A log on a pipe, which only `read` reads. */
function onPipe(body: (stage: Stage) => Promise<void>, isTerminal = false): () => Promise<void> {
  return keepsDescriptors(async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, 'pipe');
    execFileSync('mkfifo', [path]);
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const writer = openSync(path, constants.O_WRONLY);
    let isOpen = true;
    const hangUp = (): void => {
      if (isOpen) closeSync(reader);
      isOpen = false;
    };
    const atFirst = openDescriptors();
    const before = (): string[] =>
      atFirst.filter((descriptor) => isOpen || !descriptor.startsWith(`${reader} `));
    try {
      const opened = openLog('info', writer, isTerminal);
      await body({ opened, read: () => readAll(reader), hangUp, before });
    } finally {
      hangUp();
      closeSync(writer);
    }
  });
}

function readAll(fd: number): string {
  const parts: Buffer[] = [];
  for (;;) {
    const buffer = Buffer.alloc(65_536);
    try {
      const length = readSync(fd, buffer);
      if (length === 0) break;
      parts.push(buffer.subarray(0, length));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      break;
    }
  }
  return Buffer.concat(parts).toString();
}

function linesIn(text: string): Line[] {
  assert.ok(text.endsWith('\n'));
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

describe('the log', () => {
  it(
    'is complete and in order when it has ended',
    onPipe(async ({ opened, read }) => {
      const { log } = opened;
      for (let number = 0; number < 300; number++) log.info({ number }, 'line');
      log.fatal({ number: 300 }, 'line');
      await opened[Symbol.asyncDispose]();
      assert.deepEqual(
        linesIn(read()).map(({ number }) => number),
        Array.from({ length: 301 }, (_, number) => number),
      );
    }),
  );

  it(
    'does not wait for a reader; beyond some thousand waiting lines, further ones are dropped and counted',
    onPipe(async ({ opened, read }) => {
      const { log } = opened;
      const total = 30_000;
      for (let number = 0; number < total; number++) log.info({ number }, 'line');
      let text = '';
      while (!text.includes('dropped')) {
        text += read();
        await setImmediate();
      }
      log.info('last');
      await opened[Symbol.asyncDispose]();
      const lines = linesIn(text + read());
      assert.equal(lines.at(-1)?.msg, 'last');
      const lost = lines.at(-2)?.lines ?? 0;
      assert.ok(lost > 0);
      assert.deepEqual(
        lines.slice(0, -2).map(({ number }) => number),
        Array.from({ length: total - lost }, (_, number) => number),
      );
    }),
  );

  it(
    'ends when nothing reads it',
    onPipe(async ({ opened }) => {
      for (let number = 0; number < 5_000; number++) opened.log.info({ number }, 'line');
      await opened[Symbol.asyncDispose]();
    }),
  );

  it(
    'ends when its reader has gone',
    onPipe(async ({ opened, hangUp }) => {
      hangUp();
      opened.log.info('one');
      await setImmediate();
      opened.log.info('two');
      await opened[Symbol.asyncDispose]();
    }),
  );

  it(
    'has closed what it opened when its disposal resolves, even if its reader has gone',
    onPipe(async ({ opened, hangUp, before }) => {
      hangUp();
      for (let turn = 0; turn < 10; turn++) {
        opened.log.info('line');
        await setImmediate();
      }
      await opened[Symbol.asyncDispose]();
      assert.deepEqual(openDescriptors(), before());
    }),
  );

  it(
    'never closes the descriptor that it was given',
    keepsDescriptors(async () => {
      for (const path of ['/dev/full', '/dev/null']) {
        const given = openSync(path, constants.O_WRONLY);
        const { rdev } = fstatSync(given);
        const opened = openLog('info', given, false);
        opened.log.info('line');
        await opened[Symbol.asyncDispose]();
        // When these are done, everything that was started in libuv's pool before is done too.
        for (let turn = 0; turn < 20; turn++) await Promise.all([1, 2, 3, 4].map(() => stat(path)));
        assert.equal(fstatSync(given).rdev, rdev);
        closeSync(given);
      }
    }),
  );

  it(
    'goes on after a disk was full',
    keepsDescriptors(async () => {
      const full = openSync('/dev/full', constants.O_WRONLY);
      const opened = openLog('info', full, false);
      for (let turn = 0; turn < 10; turn++) {
        opened.log.info('line');
        await setImmediate();
      }
      await opened[Symbol.asyncDispose]();
      closeSync(full);
    }),
  );

  it(
    'has one line for each event on a terminal',
    onPipe(async ({ opened, read }) => {
      opened.log.info({ worker: 1, pid: 7, reason: 'first\nsecond' }, 'worker left');
      await opened[Symbol.asyncDispose]();
      assert.match(read(), /^[^\n]*worker left[^\n]*"worker":1[^\n]*\n$/);
    }, true),
  );

  const evil = 'a\u001b[2Jb\u009b31mc\u202ed\u007f\u2028';

  it(
    'has no control characters of peers on a terminal',
    onPipe(async ({ opened, read }) => {
      opened.log.info({ reason: evil, [evil]: 1 }, `process ${evil}\n`);
      await opened[Symbol.asyncDispose]();
      // The program itself adds the colours.
      const line = read().replace(/\u001b\[\d+m/g, '');
      assert.match(line, /^[\x20-\x7e]+\n$/);
      assert.match(line, /process a\\u001b\[2Jb\\u009b31mc\\u202ed\\u007f\\u2028/);
    }, true),
  );

  it(
    'has no control characters in a file, and is the same JSON',
    onPipe(async ({ opened, read }) => {
      opened.log.info({ reason: evil, [evil]: 1 }, `process ${evil}`);
      await opened[Symbol.asyncDispose]();
      const line = read();
      assert.match(line, /^[\x20-\x7e]+\n$/);
      const { reason, msg, [evil]: one } = JSON.parse(line) as Record<string, unknown>;
      assert.deepEqual([reason, msg, one], [evil, `process ${evil}`, 1]);
    }),
  );
});
