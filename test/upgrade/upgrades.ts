// What an upgrade promises: a service of an earlier build goes on with this one, and no client notices (run.ts starts this).
import assert from 'node:assert/strict';
import { renameSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { STUCK_AFTER_MS } from '../support/deadline.js';
import { temporaryDirectory } from '../support/files.js';
import { assertUnnoticed, underLoad, WORKERS, type LoadedService } from '../support/loaded-service.js';
import { statusOf } from '../support/passfd.js';

const earlier = process.env['PASSFD_EARLIER'] ?? '';
assert.notEqual(earlier, '', 'run.ts says where the earlier build is');

const present = fileURLToPath(new URL('../../../', import.meta.url));

const ANSWERS = 100;

/** The program is a link that leads to the earlier build, until the test calls `upgrade`, and again after `downgrade`. */
function upgraded(
  body: (scene: LoadedService, upgrade: () => void, downgrade: () => void) => Promise<void>,
): () => Promise<void> {
  return async () => {
    await using directory = await temporaryDirectory();
    const current = join(directory.path, 'current');
    const use = (build: string) => (): void => {
      symlinkSync(build, `${current}.new`);
      renameSync(`${current}.new`, current);
    };
    use(earlier)();
    const main = join(current, 'build/src/cli/main.js');
    await underLoad(main, STUCK_AFTER_MS, (scene) => body(scene, use(present), use(earlier)))();
  };
}

describe(`an upgrade from ${earlier}`, () => {
  it(
    'by a takeover keeps the workers, whose clients notice nothing, and a restart replaces them',
    upgraded(async (scene, upgrade) => {
      const workers = await scene.untilReady();
      const socket = await scene.socketOf(scene.service.pid);
      upgrade();
      await scene.command('takeover');
      const status = await statusOf(scene.control);
      assert.equal(status.generation, 2);
      assert.equal(await scene.socketOf(status.pid), socket);
      assert.deepEqual(await scene.untilReady(), workers);
      await scene.command('takeover');
      assert.deepEqual(await scene.untilReady(), workers);
      await scene.command('restart');
      const next = await scene.untilReady();
      assert.ok(next.every((pid) => !workers.includes(pid)));
      const outcome = await scene.end();
      assert.ok(outcome.processes > WORKERS);
      assertUnnoticed(outcome, ANSWERS);
    }),
  );

  it(
    'by a restart of the workers first, and then a takeover, is noticed by no client',
    upgraded(async (scene, upgrade) => {
      upgrade();
      await scene.command('restart');
      const workers = await scene.untilReady();
      await scene.command('takeover');
      assert.deepEqual(await scene.untilReady(), workers);
      assertUnnoticed(await scene.end(), ANSWERS);
    }),
  );

  it(
    'by a start after the earlier dispatcher was killed takes its workers back',
    upgraded(async (scene, upgrade) => {
      const workers = await scene.untilReady();
      upgrade();
      scene.service.signal('SIGKILL');
      await scene.waitInBacklog();
      scene.startService();
      assert.deepEqual(await scene.untilReady(), workers, scene.service.errorLines.join('\n'));
      await scene.command('restart');
      assert.ok((await scene.untilReady()).every((pid) => !workers.includes(pid)));
      assertUnnoticed(await scene.end(), ANSWERS);
    }),
  );

  it(
    'can be taken back by a takeover, or is refused and serves on',
    upgraded(async (scene, upgrade, downgrade) => {
      upgrade();
      await scene.command('takeover');
      await scene.command('restart');
      downgrade();
      const { code, stderr } = await scene.tryCommand('takeover');
      assert.equal((await statusOf(scene.control)).generation, code === 0 ? 3 : 2, stderr);
      await scene.untilReady();
      assertUnnoticed(await scene.end(), ANSWERS);
    }),
  );
});
