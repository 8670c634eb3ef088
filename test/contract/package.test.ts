// The package as it is published: what is in it, and that it works where nothing can be compiled.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { publint } from 'publint';
import { formatMessage } from 'publint/utils';

import { temporaryDirectory } from '../support/files.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));

interface Manifest {
  readonly exports: Readonly<Record<string, string>>;
  readonly scripts: Readonly<Record<string, string>>;
}

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;

/** Unpacks what `npm publish` would upload into `node_modules` of a directory, with the dependency that it has. */
function installPackage(directory: string): string {
  execFileSync(process.execPath, [join(root, 'scripts/prebuild.js')]);
  const [archive = ''] = execFileSync(
    'npm',
    ['pack', '--ignore-scripts', '--silent', '--pack-destination', directory],
    { cwd: root, encoding: 'utf8' },
  )
    .trim()
    .split('\n')
    .slice(-1);
  const modules = join(directory, 'node_modules');
  mkdirSync(modules);
  execFileSync('tar', ['xzf', join(directory, archive), '-C', modules]);
  const target = join(modules, 'passfd');
  renameSync(join(modules, 'package'), target);
  cpSync(join(root, 'node_modules/node-gyp-build'), join(modules, 'node-gyp-build'), { recursive: true });
  return target;
}

describe('the published package', () => {
  it('runs nothing when it is installed', () => {
    const hooks = ['preinstall', 'install', 'postinstall'].filter((name) => name in manifest.scripts);
    assert.deepEqual(hooks, []);
    // npm adds an install script of its own where it sees this file.
    assert.ok(!existsSync(join(root, 'binding.gyp')));
  });

  it('has a module and its types for every export', () => {
    for (const path of Object.values(manifest.exports).filter((path) => path.endsWith('.js'))) {
      assert.ok(existsSync(join(root, path)), path);
      assert.ok(existsSync(join(root, path.replace(/\.js$/, '.d.ts'))), path);
    }
  });

  it('passes the checks of publint', async () => {
    const { messages, pkg } = await publint({ pkgDir: root, strict: true });
    assert.deepEqual(
      messages.map((message) => formatMessage(message, pkg)),
      [],
    );
  });

  it('works without being compiled, and holds no tests', async () => {
    await using directory = await temporaryDirectory();
    const target = installPackage(directory.path);
    writeFileSync(
      join(directory.path, 'program.mjs'),
      `import { socketPair } from 'passfd';
       import { Pipe } from 'passfd/multiprocessing';
       const [near, far] = socketPair();
       await near.send(Buffer.from('x'), [0]);
       const message = await far.receive();
       const [first, second] = Pipe();
       await first.send(message.descriptors.length);
       console.log(await second.recv());
       process.exit();`,
    );
    const output = execFileSync(process.execPath, ['program.mjs'], { cwd: directory.path, encoding: 'utf8' });
    assert.equal(output, '1\n');
    for (const left of ['test', 'build/test', 'build/bench', 'native/build', 'native/test']) {
      assert.ok(!existsSync(join(target, left)), left);
    }
  });
});
