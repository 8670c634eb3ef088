// The native code under the address and undefined-behaviour sanitizers: the C tests without Node, and the addon in a separate
// Node process, where the use of a freed handle is an error.
import assert from 'node:assert/strict';
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';

import { keepsDescriptors } from '../support/descriptors.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const tests = join(root, 'test/native');

const [compiler = 'cc', ...compilerFlags] = (process.env['CC'] ?? 'cc').split(' ');
const flags = [
  ...compilerFlags,
  '-g',
  '-fsanitize=address,undefined',
  '-fno-sanitize-recover=all',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-std=c11',
  '-D_GNU_SOURCE',
  '-pthread',
];

/** The sources that need no Node. */
const mechanism = sourcesOf((name) => !isNodeApi(name));

/** The Node-API layer. */
const nodeApi = sourcesOf(isNodeApi);

/** System calls that `faults.c` can make fail. */
const faults = ['accept4', 'listen', 'close', 'sendmsg'].map((call) => `-Wl,--wrap=${call}`);

/** One line of the harness in `check.c`, with what the test printed before it. */
interface Result {
  readonly is: 'ok' | 'not ok' | 'skip';
  readonly text: string;
  readonly output: string;
}

/** The directory of Node's headers if they came with Node, as in `scripts/build-native.js`. */
const headers = join(dirname(dirname(process.execPath)), 'include/node');

/** The addon's tests that check memory: files, and names of tests in them. */
const addonTests = new Map([
  ['addon', '.'],
  ['board', '.'],
  ['poll', '.'],
  ['poll-lifetime', 'unreferenced|exits in|collects|leaves|terminated|by itself when they'],
]);

describe('the native code under the sanitizers', () => {
  it('keeps each of its promises', (context) =>
    keepsDescriptors(() => inTemporaryDirectory((directory) => checkPromises(context, directory)))());
});

describe('the addon under the sanitizers', () => {
  it('passes its tests', (context) =>
    keepsDescriptors(() => inTemporaryDirectory((directory) => checkAddon(context, directory)))());
});

function isNodeApi(name: string): boolean {
  return name === 'poll.c' || name.endsWith('addon.c');
}

function sourcesOf(isWanted: (name: string) => boolean): string[] {
  const native = join(root, 'native');
  return readdirSync(native)
    .filter((name) => name.endsWith('.c') && isWanted(name))
    .map((name) => join(native, name));
}

async function checkPromises(context: TestContext, directory: string): Promise<void> {
  const obstacle = findObstacle(directory);
  if (obstacle !== undefined) {
    context.skip(obstacle);
    return;
  }
  const sources = readdirSync(tests).filter((name) => name.endsWith('.c'));
  const binary = join(directory, 'passfd_test');
  const compiled = compile([
    ...faults,
    ...mechanism,
    ...sources.map((name) => join(tests, name)),
    '-o',
    binary,
  ]);
  assert.equal(compiled.status, 0, compiled.stderr);

  const run = execute(binary, [], { ...process.env, TMPDIR: directory });
  const results = parse(run.stdout);
  for (const { is, text, output } of results) {
    await context.test(text, { skip: is === 'skip' ? text : false }, () => {
      assert.notEqual(is, 'not ok', `${output}\n${run.stderr}`);
    });
  }
  const last = `${results.length} tests, 0 failed`;
  assert.ok(results.length > 0 && run.stdout.trimEnd().endsWith(last), `${run.stdout}\n${run.stderr}`);
  assert.equal(run.status, 0, run.stderr);
}

/** Node itself is not compiled with the sanitizer, so the sanitizer's library must be loaded first. */
async function checkAddon(context: TestContext, directory: string): Promise<void> {
  const library = runtimeLibrary();
  const env = {
    ...process.env,
    LD_PRELOAD: library,
    ASAN_OPTIONS: 'detect_leaks=0:malloc_context_size=2', // Node leaks on purpose; short stacks are quick
    NODE_TEST_CONTEXT: undefined, // otherwise the tests in that process would report to this runner
  };
  const obstacle =
    findObstacle(directory) ??
    (existsSync(headers) ? undefined : `Node's headers are not at ${headers}`) ??
    (existsSync(library) ? undefined : `the sanitizer's library is not at ${library}`);
  if (obstacle !== undefined) {
    context.skip(obstacle);
    return;
  }
  copyPackage(directory);
  const compiled = compile([
    '-shared',
    '-fPIC',
    '-DNAPI_VERSION=8',
    '-DNODE_GYP_MODULE_NAME=passfd',
    '-isystem',
    headers,
    ...nodeApi,
    ...mechanism,
    '-o',
    join(directory, 'native/build/Release/passfd.node'),
  ]);
  assert.equal(compiled.status, 0, compiled.stderr);
  for (const [name, pattern] of addonTests) {
    await context.test(name, () => {
      const path = join(directory, `build/test/native/${name}.test.js`);
      const run = execute(process.execPath, ['--test-name-pattern', pattern, path], env);
      assert.equal(run.status, 0, `${run.stdout}\n${run.stderr}`);
    });
  }
}

/** The part of the package that these tests load, without a binary. */
function copyPackage(directory: string): void {
  mkdirSync(join(directory, 'native/build/Release'), { recursive: true });
  cpSync(join(root, 'package.json'), join(directory, 'package.json'));
  for (const folder of ['src/fd', 'test/native', 'test/support']) {
    cpSync(join(root, 'build', folder), join(directory, 'build', folder), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
}

/** The full path of the address sanitizer's library, or its name if the compiler does not know the path. */
function runtimeLibrary(): string {
  const { stdout } = spawnSync(compiler, ['-print-file-name=libasan.so'], { encoding: 'utf8' });
  return stdout ? stdout.trim() : 'libasan.so';
}

/** Why nothing can be compiled with sanitizers here. A minimal program shows it. */
function findObstacle(directory: string): string | undefined {
  if (process.platform !== 'linux') return 'the C tests read /proc and provoke errors of Linux';
  const source = join(directory, 'least.c');
  const binary = join(directory, 'least');
  writeFileSync(source, 'int main(void) { return 0; }\n');
  const compiled = compile([source, '-o', binary]);
  if (compiled.error) return `no C compiler: ${compiled.error.message}`;
  if (compiled.status !== 0) return `no sanitizer runtime: ${compiled.stderr}`;
  const run = execute(binary, [], { ...process.env, TMPDIR: directory });
  return run.status === 0 ? undefined : `the sanitizers do not work here: ${run.stderr}`;
}

function parse(output: string): Result[] {
  const results: Result[] = [];
  let lines: string[] = [];
  for (const line of output.split('\n')) {
    const [, is, text] = /^(ok|not ok|skip) - (.*)$/.exec(line) ?? [];
    if (is === undefined || text === undefined) {
      lines.push(line);
    } else {
      results.push({ is: is as Result['is'], text, output: lines.join('\n') });
      lines = [];
    }
  }
  return results;
}

function compile(args: string[]): SpawnSyncReturns<string> {
  return spawnSync(compiler, [...flags, ...args], { encoding: 'utf8' });
}

function execute(binary: string, args: string[], env: NodeJS.ProcessEnv): SpawnSyncReturns<string> {
  return spawnSync(binary, args, { encoding: 'utf8', env });
}

async function inTemporaryDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'passfd-'));
  try {
    await body(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}
