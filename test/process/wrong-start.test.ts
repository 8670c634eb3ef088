// A start that cannot succeed: the command ends, and says why and what to do.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

interface End {
  readonly exit: number | string;
  /** What it said on standard error. */
  readonly errors: readonly string[];
}

/** Runs a command that is to end by itself, with a control path in a directory of its own. */
function ends(
  words: (directory: string) => readonly string[],
  check: (end: End, directory: string) => void,
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const [command = '', ...rest] = words(directory.path);
    const program = start(...passfd(command, '--control', join(directory.path, 'control'), ...rest));
    const exit = await program.exit;
    check({ exit, errors: program.errorLines }, directory.path);
  });
}

describe('a start', () => {
  it(
    'fails when the variables of the workers cannot be read',
    ends(
      () => ['run', '--worker-env-file', '/nonexistent/env', app('http.js')],
      ({ exit, errors }) => {
        assert.match(errors.at(-1) ?? '', /The environment file \/nonexistent\/env cannot be read: ENOENT/);
        assert.equal(exit, 1);
      },
    ),
  );

  it(
    'is a usage error with a policy where workers accept by themselves',
    ends(
      () => ['run', '--accept', 'direct', '--policy', 'round-robin', app('http.js')],
      ({ exit, errors }) => {
        assert.match(
          errors[0] ?? '',
          /^error: --policy round-robin needs the dispatcher to accept each connection: /,
        );
        assert.equal(exit, 2);
      },
    ),
  );

  it(
    'fails for a directory that is no app',
    ends(
      (directory) => {
        mkdirSync(join(directory, 'app'));
        writeFileSync(join(directory, 'app', 'other.js'), '');
        return ['run', join(directory, 'app')];
      },
      ({ exit, errors }, directory) => {
        assert.equal(
          errors[0],
          `error: the directory ${directory}/app has no index.js and no package.json with a main`,
        );
        assert.equal(exit, 2);
      },
    ),
  );

  it(
    'fails for a descriptor that does not listen, which is named as it was given',
    ends(
      () => ['serve', '--listen', 'fd:3'],
      ({ exit, errors }) => {
        assert.match(errors.at(-1) ?? '', /"reason":"fd:3 cannot be used: /);
        assert.equal(exit, 1);
      },
    ),
  );

  it(
    'fails when the directory of the control socket cannot be made, and says why',
    withPrograms(async (start) => {
      const env = { XDG_RUNTIME_DIR: '/nonexistent' };
      const program = start(...passfd('serve', '--listen', '127.0.0.1:0'), { env });
      assert.equal(await program.exit, 1);
      assert.match(await program.stderr, /cannot be made: ENOENT[^"]*'\/nonexistent\/passfd'; name another/);
    }),
  );
});

describe('a command with a wrong argument', () => {
  const endless = 'x'.repeat(300);
  const wrong: Readonly<Record<string, readonly string[]>> = {
    'a descriptor that is no int': ['serve', '--listen', 'fd:4294967299'],
    'a descriptor that is not open': ['serve', '--listen', 'fd:2147483647'],
    'an empty control path': ['status', '--control', ''],
    'a control path that is too long': ['status', '--control', endless],
    'an empty path of the raw control socket': ['serve', '--listen', '127.0.0.1:0', '--raw-control', ''],
    'an empty file of the key': ['status', '--authkey-file', ''],
    'an empty file of variables': ['run', '--worker-env-file', '', app('http.js')],
    'an empty app': ['run', ''],
    'an app whose name is too long': ['run', endless],
    'an app that cannot be looked at': ['worker', join(app('http.js'), 'index.js')],
    'an empty command': ['serve', '--listen', '127.0.0.1:0', '--workers', '1', ''],
    'a host that is none': ['serve', '--listen', 'a b:80'],
    'a worker that is a fraction': ['drain', '1.5'],
    'a worker in hexadecimal': ['drain', '0x3'],
  };
  for (const [name, words] of Object.entries(wrong)) {
    it(
      `fails with one sentence and no stack: ${name}`,
      ends(
        () => words,
        ({ exit, errors }) => {
          assert.ok(exit === 1 || exit === 2, String(exit));
          assert.notEqual(errors.length, 0);
          assert.doesNotMatch(errors.join('\n'), /\bat .*:\d+:\d+|TypeError/);
        },
      ),
    );
  }
});
