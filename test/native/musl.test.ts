// The native code with musl, if that is installed: it compiles without a warning, and passes its C tests.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const native = join(root, 'native');
const tests = join(root, 'test/native');

const flags = [
  '-Wall',
  '-Wextra',
  '-Werror',
  '-std=c11',
  '-D_GNU_SOURCE',
  '-pthread',
  '-static',
  // Debian's musl has no headers of the kernel.
  ...['/usr/include', `/usr/include/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`].flatMap(
    (path) => ['-idirafter', path],
  ),
];

/** With musl, some of the functions make the system call directly. */
const faults = ['accept4', 'listen', 'close', 'syscall'].map((call) => `-Wl,--wrap=${call}`);

const withoutMusl: string | false =
  spawnSync('musl-gcc', ['--version']).status === 0
    ? false
    : 'needs musl-gcc, which is in musl-tools on Debian';

describe('the native code with musl', () => {
  it('compiles without a warning, and passes its tests', { skip: withoutMusl }, () => {
    const directory = mkdtempSync(join(tmpdir(), 'passfd-'));
    try {
      const binary = join(directory, 'passfd_test');
      const sources = [
        ...readdirSync(native)
          .filter((name) => name.endsWith('.c') && name !== 'poll.c' && !name.endsWith('addon.c'))
          .map((name) => join(native, name)),
        ...readdirSync(tests)
          .filter((name) => name.endsWith('.c'))
          .map((name) => join(tests, name)),
      ];
      const compiled = spawnSync('musl-gcc', [...flags, ...faults, ...sources, '-o', binary], {
        encoding: 'utf8',
      });
      assert.equal(compiled.status, 0, compiled.stderr);
      const run = spawnSync(binary, { encoding: 'utf8', env: { ...process.env, TMPDIR: directory } });
      assert.equal(run.status, 0, `${run.stdout}\n${run.stderr}`);
      assert.match(run.stdout, /\d+ tests, 0 failed\n$/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
