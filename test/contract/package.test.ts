// The package as it is published: its files, its types, and that it works where nothing can be compiled.
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

/** Files that are not in a fresh checkout, or that it need not have. */
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

/**
 * A program of a user in TypeScript. It uses what the package exports, and must not see what passfd uses between its own
 * parts: each `@ts-expect-error` fails when the line after it compiles.
 */
const USER_PROGRAM = `
import { Acceptor, connect, Descriptor, DescriptorStream, listen, Message, PassfdError, StreamSocket } from 'passfd';
import * as passfd from 'passfd';
import { Client, Connection, Listener, sendHandle } from 'passfd/multiprocessing';
import * as multiprocessing from 'passfd/multiprocessing';
import { Dispatcher } from 'passfd/dispatcher';
import { Supervisor } from 'passfd/supervisor';
import { join } from 'passfd/worker';

export async function use(acceptor: Acceptor, socket: StreamSocket, descriptor: Descriptor): Promise<unknown> {
  await socket.send(Buffer.from('x'), [descriptor], { blocking: true });
  const message: Message | null = await socket.receive(1024, { descriptors: 1 });
  const listener: Listener = await Listener('./path', { authkey: 'key' });
  await sendHandle(await listener.accept(), descriptor);
  const codes: PassfdError['code'][] = ['ERR_BUSY', 'ERR_NO_WORKER'];
  return [message, codes, Client, Connection, connect, listen, DescriptorStream, Dispatcher, Supervisor, join];
}

export function cannotUse(acceptor: Acceptor, socket: StreamSocket, descriptor: Descriptor, listener: Listener): unknown {
  return [
INTERNAL
  ];
}
`;

/** Members and exports that users must not see. */
const INTERNAL = [
  ...[
    'freeze',
    'thaw',
    'unsent',
    'unsentPosition',
    'endHandoffs',
    'setPolled',
    'poll',
    'discard',
    'checkSendable',
  ].map((name) => `socket.${name}`),
  ...['feed', 'resume', 'keepSpare', 'acceptNow', 'inode', 'removesFile', 'fileIdentity', 'isReachable'].map(
    (name) => `acceptor.${name}`,
  ),
  'Acceptor.inherit',
  ...['inode', 'account', 'move'].map((name) => `descriptor.${name}`),
  ...['pause', 'resume', 'exchange', 'abandon', 'acceptor'].map((name) => `listener.${name}`),
  ...['LastWill', 'Hold', 'native', 'OrphanReaper'].map((name) => `passfd.${name}`),
  ...['Crowd', 'originOf'].map((name) => `multiprocessing.${name}`),
];

/** Compiles it in the installed project, with the declarations of the package checked too. */
function compilesForUsers(project: string): void {
  const unseen = INTERNAL.map((name) => `    // @ts-expect-error\n    ${name},`).join('\n');
  writeFileSync(join(project, 'program.mts'), USER_PROGRAM.replace('INTERNAL', unseen));
  const compilerOptions = {
    strict: true,
    module: 'NodeNext',
    target: 'ES2023',
    lib: ['ES2023', 'ESNext.Disposable'],
    types: ['node'],
    typeRoots: [join(root, 'node_modules/@types')],
    skipLibCheck: false,
    noEmit: true,
  };
  const configuration = join(project, 'tsconfig.json');
  writeFileSync(configuration, JSON.stringify({ compilerOptions, files: ['program.mts'] }));
  const compiler = join(root, 'node_modules/typescript/bin/tsc');
  const { status, stdout } = spawnSync(process.execPath, [compiler, '-p', configuration], {
    encoding: 'utf8',
  });
  assert.deepEqual([status, stdout], [0, '']);
}

/** Runs the first program of the README with the README's command, at a free port. */
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
  it('runs nothing during installation', () => {
    const hooks = ['preinstall', 'install', 'postinstall'].filter((name) => name in manifest.scripts);
    assert.deepEqual(hooks, []);
    // npm adds an install script of its own when it sees this file.
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
    'is packed and installed as the README says, has types for users alone, works without a compiler, and has no tests',
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

      compilesForUsers(project);

      // The time limits begin here: compiling takes long.
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
