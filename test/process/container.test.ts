// passfd as the first process of a container: signals, exit code, and no process that nobody waits for.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

const UNSHARE = ['--pid', '--fork', '--mount-proc', '--kill-child'];

/** Why this cannot run here, or false when it can. */
const withoutNamespaces: string | false =
  spawnSync('unshare', [...UNSHARE, 'true']).status === 0
    ? false
    : 'needs a process namespace of its own (unshare of util-linux, as root)';

describe('passfd as the first process of a container', { skip: withoutNamespaces }, () => {
  it(
    'stays over takeovers and restarts, waits for workers of generations that ended, and ends with the last one',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const [program, args] = passfd('run', '--workers', '1', '--control', control, app('http.js'));
      const container = start('unshare', [...UNSHARE, program, ...args]);
      await container.line(/listening/);
      await answersZero(start, 'takeover', control);
      // The worker of the second generation loses its parent with that, and is then replaced by the third.
      await answersZero(start, 'restart', control);
      await answersZero(start, 'takeover', control);
      await answersZero(start, 'restart', control);
      assert.equal((await statusOf(control)).generation, 3);
      const [first] = childrenOf(container.pid);
      assert.ok(first);
      while (childrenOf(first).some(isZombie)) await new Promise((resolve) => setImmediate(resolve));
      process.kill(first, 'SIGTERM');
      assert.equal(await container.exit, 0);
    }),
  );
});

async function answersZero(
  start: Parameters<Parameters<typeof withPrograms>[0]>[0],
  command: string,
  control: string,
): Promise<void> {
  assert.equal(await start(...passfd(command, '--control', control)).exit, 0);
}

/** As this process's own namespace numbers them. */
function childrenOf(pid: number): number[] {
  const { stdout } = spawnSync('ps', ['--no-headers', '-o', 'pid', '--ppid', String(pid)], {
    encoding: 'utf8',
  });
  return stdout.split('\n').filter(Boolean).map(Number);
}

function isZombie(pid: number): boolean {
  const { stdout } = spawnSync('ps', ['--no-headers', '-o', 'stat', '-p', String(pid)], { encoding: 'utf8' });
  return stdout.trim().startsWith('Z');
}
