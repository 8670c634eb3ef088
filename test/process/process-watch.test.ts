// The end of processes that are not children of the one that watches them.
import assert from 'node:assert/strict';
import { symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { isSameProcess, processIdentity, ProcessWatch } from '../../src/fd/internal.js';
import { Child } from '../support/child.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { temporaryDirectory } from '../support/files.js';
import { isPending, turns } from '../support/loop.js';
import { withPrograms, type Start } from '../support/program.js';

const IDLE = 'setInterval(() => {}, 10_000)';

interface Grandchild {
  readonly pid: number;
  /** Its parent, which never waits for it. */
  readonly parent: ReturnType<Start>;
}

async function startGrandchild(start: Start): Promise<Grandchild> {
  const parent = start('/bin/sh', ['-c', 'sleep 1000 & echo $!; exec sleep 1000'], { ownGroup: true });
  const [pid = ''] = await parent.line(/^\d+$/);
  return { pid: Number(pid), parent };
}

function endOf(pid: number): Promise<void> {
  return new Promise((resolve) => {
    ProcessWatch.start(pid, resolve, { keepsAlive: true });
  });
}

describe('a watch of a process that is no child', () => {
  it(
    'tells its end, though its parent has not waited for it',
    withPrograms(async (start) => {
      const { pid } = await startGrandchild(start);
      const ended = endOf(pid);
      assert.equal(await isPending(ended), true);
      process.kill(pid, 'SIGKILL');
      await ended;
      assert.ok(processIdentity(pid), 'it is still there, as nobody has waited for it');
      await endOf(pid);
    }),
  );

  it(
    'tells it when the parent has ended before',
    withPrograms(async (start) => {
      const { pid, parent } = await startGrandchild(start);
      const ended = endOf(pid);
      parent.signal('SIGKILL');
      await endOf(parent.pid);
      assert.equal(await isPending(ended), true);
      process.kill(pid, 'SIGKILL');
      await ended;
    }),
  );

  it(
    'tells nothing when it is closed before',
    withPrograms(async (start) => {
      const { pid } = await startGrandchild(start);
      let told = 0;
      const watch = ProcessWatch.start(pid, () => told++);
      const ended = endOf(pid);
      watch.close();
      process.kill(pid, 'SIGKILL');
      await ended;
      await turns();
      assert.equal(told, 0);
    }),
  );
});

describe('the identity of a process', () => {
  it(
    'is found behind a name that looks like the rest of the line',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const node = join(directory.path, 'a) R 1 (b');
      await symlink(process.execPath, node);
      const program = start(node, ['-e', `console.log('started'); ${IDLE}`]);
      await program.line(/started/);
      const identity = processIdentity(program.pid) ?? '';
      assert.ok(Number(identity) >= Number(processIdentity(process.pid)), identity);
      assert.equal(isSameProcess(program.pid, identity), true);
    }),
  );
});

describe('a process that watches another one', () => {
  it(
    'lives until that has ended when it is asked to',
    withPrograms(async (start) => {
      const { pid } = await startGrandchild(start);
      await using child = new Child('watch', { args: [String(pid), 'keeps alive'] });
      assert.equal(await child.next(), 'watching');
      process.kill(pid, 'SIGKILL');
      assert.equal(await child.next(), 'ended');
      assert.equal(await child.next(), 'exit');
      assert.equal(await child.exit, 0);
    }),
  );

  it(
    'ends at once when it is not',
    withPrograms(async (start) => {
      const { pid } = await startGrandchild(start);
      await using child = new Child('watch', { args: [String(pid), 'does not keep alive'] });
      assert.equal(await child.next(), 'exit');
      assert.equal(await child.exit, 0);
    }),
  );

  it(
    'is told its end also where the kernel gives it no descriptor',
    keepsDescriptors(async () => {
      await using child = new Child('watch', { args: ['0', 'without a descriptor'], descriptorLimit: 64 });
      assert.equal(await child.next(), 'waited for');
      assert.equal(await child.next(), 'ended');
      assert.equal(await child.next(), 'exit');
      assert.equal(await child.exit, 0);
    }),
  );
});
