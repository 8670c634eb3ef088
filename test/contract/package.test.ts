// The package as it is published: what is in it, and that it works where nothing can be compiled.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { publint } from 'publint';
import { formatMessage } from 'publint/utils';

import { keepsDescriptors } from '../support/descriptors.js';
import { temporaryDirectory } from '../support/files.js';
import { withPrograms, type Start } from '../support/program.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));

interface Manifest {
  readonly version: string;
  readonly exports: Readonly<Record<string, string>>;
  readonly scripts: Readonly<Record<string, string>>;
}

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;
const archiveName = `passfd-${manifest.version}.tgz`;

/** What a checkout does not begin with, or need not have. */
const NOT_IN_A_FRESH_CHECKOUT = new Set(
  ['node_modules', '.git', 'build', 'native/prebuilds', 'bench/results'].map((name) => join(root, name)),
);

/** Packs and installs as the README says, without a registry: everything that the package depends on is there already. */
function install(directory: string): string {
  const checkout = join(directory, 'checkout');
  cpSync(root, checkout, { recursive: true, filter: (path) => !NOT_IN_A_FRESH_CHECKOUT.has(path) });
  symlinkSync(join(root, 'node_modules'), join(checkout, 'node_modules'));
  execFileSync('npm', ['pack', '--silent'], { cwd: checkout, stdio: 'pipe' });

  const project = join(directory, 'project');
  mkdirSync(project);
  execFileSync('npm', ['init', '-y'], { cwd: project, stdio: 'pipe' });
  for (const path of dependencies()) {
    cpSync(join(root, path), join(project, path), { recursive: true });
  }
  const archive = join(checkout, archiveName);
  execFileSync('npm', ['install', '--offline', '--no-audit', archive], { cwd: project, stdio: 'pipe' });
  return project;
}

/** The directories of all that is installed with the package. */
function dependencies(): string[] {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Readonly<Record<string, { readonly dev?: boolean }>>;
  };
  return Object.entries(lock.packages).flatMap(([path, { dev }]) => (path !== '' && !dev ? [path] : []));
}

/** The README's, with the README's command, but for the port. */
async function runsTheFirstProgram(start: Start, readme: string, project: string): Promise<void> {
  const [, code = '', file = ''] = /^```js\n(\/\/ (\S+)\n.*?)^```$/ms.exec(readme) ?? [];
  writeFileSync(join(project, file), code);
  const [, workers = ''] = new RegExp(`^npx passfd run --workers (\\d+) ${file} `, 'm').exec(readme) ?? [];
  const command = join(project, 'node_modules/.bin/passfd');
  const options = { cwd: project, env: { XDG_RUNTIME_DIR: project } };
  const service = start(command, ['run', '--workers', workers, file, '0'], options);
  const [, port = ''] = await service.line(/^listening on port (\d+)$/);
  const response = await fetch(`http://127.0.0.1:${port}`, { headers: { connection: 'close' } });
  assert.match(await response.text(), /^hello from worker \d\n$/);
  assert.equal(await start(command, ['stop'], options).exit, 0);
  assert.equal(await service.exit, 0);
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

  it(
    'is packed and installed as the README says, works without being compiled, and holds no tests',
    keepsDescriptors(async () => {
      const readme = readFileSync(join(root, 'README.md'), 'utf8');
      assert.match(readme, /^npm ci && npm pack /m);
      assert.ok(readme.includes(`npm install ../passfd/${archiveName}`));
      await using directory = await temporaryDirectory();
      const project = install(directory.path);
      writeFileSync(
        join(project, 'program.mjs'),
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
      const output = execFileSync(process.execPath, ['program.mjs'], { cwd: project, encoding: 'utf8' });
      assert.equal(output, '1\n');
      const command = join(project, 'node_modules/.bin/passfd');
      assert.equal(execFileSync(command, ['--version'], { encoding: 'utf8' }), `${manifest.version}\n`);

      // What was done before takes as long as the compiler.
      await withPrograms((start) => runsTheFirstProgram(start, readme, project))();

      const target = join(project, 'node_modules/passfd');
      for (const left of ['test', 'build/test', 'build/bench', 'native/build', 'native/test']) {
        assert.ok(!existsSync(join(target, left)), left);
      }

      rmSync(join(target, 'native/prebuilds'), { recursive: true });
      const { status, stdout, stderr } = spawnSync(command, ['--version'], { encoding: 'utf8' });
      assert.deepEqual([status, stdout], [1, '']);
      assert.match(
        stderr,
        /^passfd: There is no binary for [^\n]* compile it: npx node-gyp rebuild [^\n]*\n$/,
      );
    }),
  );
});
