// A dispatcher of another user at a control path: commands and workers send it nothing, unless its user is trusted.
import assert from 'node:assert/strict';
import { chmodSync, lchownSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { describe, it } from 'node:test';

import { join } from '../../src/worker/index.js';
import { Child } from '../support/child.js';
import { failsWith } from '../support/errors.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Start } from '../support/program.js';

/** By convention the user `nobody`. */
const OTHER_USER = 65_534;

/** The mode of a directory for temporary files: any user may make a file, and only its owner may remove it. */
const FOR_EVERYBODY = 0o1777;

const isRoot = process.getuid?.() === 0;

/** Another user that took a path first. */
async function pretender(control: string): Promise<Child> {
  const child = new Child('other-user', { args: ['pretend', control, String(OTHER_USER)] });
  assert.equal(await child.next(), 'listening');
  return child;
}

function withPretender(
  body: (start: Start, control: string, other: Child) => Promise<void>,
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    chmodSync(directory.path, FOR_EVERYBODY);
    const control = `${directory.path}/control`;
    await using other = await pretender(control);
    await body(start, control, other);
  });
}

const denied = new RegExp(
  `^passfd: The dispatcher at .*/control is not trusted: process \\d+ of user ${OTHER_USER} listens there; .*--trust-uid ${OTHER_USER}$`,
);

describe("another user's dispatcher", { skip: isRoot ? false : 'only root can start one' }, () => {
  for (const words of [
    ['status'],
    ['status', '--json'],
    ['stop'],
    ['restart'],
    ['takeover'],
    ['drain', '1'],
  ]) {
    it(
      `is told nothing by passfd ${words.join(' ')}, which fails and says whose it is`,
      withPretender(async (start, control, other) => {
        const command = start(...passfd(...words, '--control', control));
        assert.equal(await command.exit, 1);
        assert.match(await command.stderr, new RegExp(denied.source, 'm'));
        assert.deepEqual(command.lines, []);
        assert.deepEqual(await other.next(), []);
      }),
    );
  }

  it(
    'gets no worker from passfd worker',
    withPretender(async (start, control, other) => {
      const worker = start(...passfd('worker', '--control', control, app('http.js')), { ownGroup: true });
      assert.equal(await worker.exit, 1);
      assert.match(await worker.stderr, /could not join its dispatcher: .* is not trusted: /);
      assert.deepEqual(await other.next(), []);
    }),
  );

  it(
    'gets no worker by join, and no answer to a challenge',
    withPretender(async (_start, control, other) => {
      await assert.rejects(
        join({ control, authkey: 'secret' }),
        failsWith('ERR_PEER_DENIED', /is not trusted/),
      );
      assert.deepEqual(await other.next(), []);
    }),
  );

  it(
    'is trusted when its user is named by an option or in the environment',
    withPretender(async (start, control, other) => {
      const user = String(OTHER_USER);
      const named = start(...passfd('stop', '--control', control, '--trust-uid', user));
      assert.equal(await named.exit, 0, await named.stderr);
      assert.equal((await other.next<string[]>()).length, 2);
      const env = { PASSFD_TRUST_UIDS: `4711,${user}` };
      const inEnvironment = start(...passfd('stop', '--control', control), { env });
      assert.equal(await inEnvironment.exit, 0, await inEnvironment.stderr);
      assert.equal((await other.next<string[]>()).length, 2);
      const words = passfd('worker', '--control', control, '--trust-uid', user, app('http.js'));
      start(...words, { ownGroup: true });
      assert.match((await other.next<string[]>())[0] ?? '', /"role":"worker"/);
    }),
  );

  it(
    'gets nothing from a worker that has lost its dispatcher, and that returns to its own',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      chmodSync(directory.path, FOR_EVERYBODY);
      const control = `${directory.path}/control`;
      const serve = passfd('serve', '--listen', '127.0.0.1:0', '--control', control);
      const service = start(...serve);
      await service.errorLine(/"listening"/);
      const worker = start(...passfd('worker', '--control', control, app('http.js')), { ownGroup: true });
      await service.errorLine(/"worker ready"/);
      service.kill();
      await service.exit;
      // As a program that removes old files does.
      rmSync(control);
      const other = await pretender(control);
      await worker.errorLine(/does not take this worker back yet: .*is not trusted/);
      assert.deepEqual(await other.next(), []);
      await other[Symbol.asyncDispose]();
      rmSync(control);
      const next = start(...serve);
      await next.errorLine(/"worker ready"/);
      assert.equal((await statusOf(control)).workers.length, 1);
    }),
  );
});

describe(
  'a control path that another user has made to lead to the own dispatcher',
  {
    skip: isRoot ? false : 'only root can make one',
  },
  () => {
    /** A service, and a command to it by a path that `lead` makes. */
    function commandBy(
      lead: (directory: string, control: string) => string,
      check: (stderr: string, exit: number | string) => void,
      environment: (directory: string) => NodeJS.ProcessEnv = () => ({}),
    ): () => Promise<void> {
      return withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const service = start(...passfd('serve', '--listen', '127.0.0.1:0', '--control', control));
        await service.errorLine(/"listening"/);
        const path = lead(directory.path, control);
        const env = environment(directory.path);
        const status = start(...passfd('status', ...(path === '' ? [] : ['--control', path])), { env });
        const exit = await status.exit;
        check(await status.stderr, exit);
      });
    }

    it(
      'is not used when it is a link that the other user has made',
      commandBy(
        (directory, control) => {
          const path = `${directory}/link`;
          symlinkSync(control, path);
          lchownSync(path, OTHER_USER, OTHER_USER);
          return path;
        },
        (stderr, exit) => {
          assert.match(stderr, new RegExp(`it is a link that user ${OTHER_USER} has made`));
          assert.equal(exit, 1);
        },
      ),
    );

    it(
      'is not used when anyone may replace it',
      commandBy(
        (directory, control) => {
          const open = `${directory}/open`;
          mkdirSync(open);
          chmodSync(open, 0o777);
          symlinkSync(control, `${open}/link`);
          return `${open}/link`;
        },
        (stderr, exit) => {
          assert.match(stderr, /anyone may replace files in .*\/open; say: chmod o-w /);
          assert.equal(exit, 1);
        },
      ),
    );

    it(
      'is not used when it is in a default directory of the other user',
      commandBy(
        (directory, control) => {
          mkdirSync(`${directory}/passfd`);
          symlinkSync(control, `${directory}/passfd/control`);
          lchownSync(`${directory}/passfd`, OTHER_USER, OTHER_USER);
          return '';
        },
        (stderr, exit) => {
          assert.match(stderr, /\/passfd may be changed by others; remove it, or name another path/);
          assert.equal(exit, 1);
        },
        (directory) => ({ XDG_RUNTIME_DIR: directory }),
      ),
    );

    it(
      'is used when it is a link of the own user',
      commandBy(
        (directory, control) => {
          symlinkSync(control, `${directory}/link`);
          return `${directory}/link`;
        },
        (stderr, exit) => {
          assert.equal(stderr, '');
          assert.equal(exit, 0);
        },
      ),
    );
  },
);
