// What is read again at each start: the environment, its file, and the working directory as the shell names it.
import assert from 'node:assert/strict';
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { realpathSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { createStarts, type StartOptions, type Surroundings } from '../../../src/supervisor/launch.js';
import { failsWith } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';
import { turns } from '../../support/loop.js';
import { onStage } from './stage.js';

const options: StartOptions = { command: ['app'] };

/** The surroundings of a shell in this directory. */
function surroundings(name: string, env: Record<string, string> = {}): Surroundings {
  // The kernel keeps the directory to which the link led when it was entered.
  const directory = realpathSync(name);
  return { env: { PWD: name, ...env }, cwd: () => directory };
}

describe('the environment of a child', () => {
  it('is that of this process at the time of the start', () => {
    const env: Record<string, string> = { ONE: '1' };
    const startFor = createStarts(options, { env, cwd: () => '/' });
    assert.equal(startFor(1).env['ONE'], '1');
    env['ONE'] = '2';
    assert.equal(startFor(1).env['ONE'], '2');
  });

  it('is read from its file at each start: the file wins over this process, and the option `env` wins over the file', async () => {
    await using directory = await temporaryDirectory();
    const envFile = join(directory.path, 'env');
    const startFor = createStarts(
      { ...options, envFile, env: { THREE: 'set' } },
      { env: { ONE: 'own', TWO: 'own', THREE: 'own' }, cwd: () => '/' },
    );
    const seen = (): unknown[] =>
      ['ONE', 'TWO', 'THREE', 'PASSFD_WORKER_ID'].map((name) => startFor(4).env[name]);
    await writeFile(envFile, '# comment\nTWO="file"\nTHREE=file\nPASSFD_WORKER_ID=9\n');
    assert.deepEqual(seen(), ['own', 'file', 'set', '4']);
    await writeFile(envFile, 'ONE=new');
    assert.deepEqual(seen(), ['new', 'own', 'set', '4']);
  });

  it('throws while its file cannot be read', async () => {
    await using directory = await temporaryDirectory();
    const envFile = join(directory.path, 'env');
    const startFor = createStarts({ ...options, envFile }, { env: {}, cwd: () => '/' });
    assert.throws(() => startFor(1), {
      message: new RegExp(`^The environment file ${envFile} cannot be read: ENOENT`),
    });
    await writeFile(envFile, '');
    assert.equal(startFor(1).program, 'app');
  });

  it(
    'fails the start when its file cannot be read, and is tried again',
    onStage({ envFile: '/nonexistent/env' }, async ({ supervisor, events }) => {
      await assert.rejects(
        supervisor.start(),
        failsWith(
          'ERR_WORKER_FAILED',
          /worker 1 could not be started: The environment file \/nonexistent\/env [^;]*$/,
        ),
      );
      assert.match(events[0] ?? '', /^died 1: The environment file .* again in 100 ms$/);
    }),
  );

  it('fails a restart when its file cannot be read, and the old process stays', async () => {
    await using directory = await temporaryDirectory();
    const envFile = join(directory.path, 'env');
    await writeFile(envFile, '');
    await onStage({ envFile }, async (stage) => {
      stage.start();
      stage.pool.ready(1, 101);
      await rm(envFile);
      await assert.rejects(stage.supervisor.restart(), failsWith('ERR_WORKER_FAILED', /environment file/));
      await turns();
      assert.deepEqual(stage.signals(101), []);
    })();
  });
});

describe('the working directory of a child', () => {
  it('is where the symbolic link in PWD leads now', async () => {
    await using directory = await temporaryDirectory();
    const [first, second, current] = ['first', 'second', 'current'].map((name) =>
      join(directory.path, name),
    ) as [string, string, string];
    await mkdir(first);
    await mkdir(second);
    await writeFile(join(first, 'env'), 'RELEASE=first');
    await writeFile(join(second, 'env'), 'RELEASE=second');
    await symlink(first, current);
    const startFor = createStarts({ ...options, envFile: 'env' }, surroundings(current));
    const seen = (): unknown[] => [
      startFor(1).cwd,
      realpathSync(startFor(1).cwd ?? ''),
      startFor(1).env['RELEASE'],
    ];
    assert.deepEqual(seen(), [current, realpathSync(first), 'first']);
    await symlink(second, `${current}.new`);
    await rename(`${current}.new`, current);
    assert.deepEqual(seen(), [current, realpathSync(second), 'second']);
  });

  it('is that of this process when PWD names another one, is not set, or is relative', async () => {
    await using directory = await temporaryDirectory();
    await mkdir(join(directory.path, 'other'));
    const cwd = (): string => directory.path;
    for (const PWD of [join(directory.path, 'other'), join(directory.path, 'absent'), '.', undefined]) {
      assert.equal(createStarts(options, { env: { PWD }, cwd })(1).cwd, undefined, PWD);
    }
  });

  it('fails the start when it is gone', async () => {
    await using directory = await temporaryDirectory();
    const current = join(directory.path, 'current');
    await mkdir(current);
    const startFor = createStarts(options, surroundings(current));
    await rm(current, { recursive: true });
    assert.throws(() => startFor(1), {
      message: new RegExp(`^The working directory ${current} cannot be entered: ENOENT`),
    });
    await writeFile(current, '');
    assert.throws(() => startFor(1), {
      message: `The working directory ${current} is not a directory any more`,
    });
  });
});
