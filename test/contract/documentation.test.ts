// What the README and the guides show is run here, as they show it.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, symlinkSync, writeFileSync, mkdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import ts from 'typescript';

import { temporaryDirectory } from '../support/files.js';
import { passfd } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';
import { withoutPython } from '../support/python.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));

interface Example {
  readonly page: string;
  readonly line: number;
  readonly language: string;
  readonly code: string;
  /** Of an example that is one file of a program: what its first line says. */
  readonly file: string | undefined;
}

function examplesOf(page: string): Example[] {
  const markdown = readFileSync(join(root, page), 'utf8');
  return [...markdown.matchAll(/^```(js|ts|python)\n(.*?)^```$/gms)].map((match) => {
    const [, language = '', code = ''] = match;
    return {
      page,
      line: markdown.slice(0, match.index).split('\n').length,
      language,
      code,
      file: /^(?:\/\/|#) (\S+\.(?:mjs|mts|py))$/m.exec(code.split('\n')[0] ?? '')?.[1],
    };
  });
}

/** Writes examples as files that Node and Python run, into a directory where `passfd` is installed. */
function install(directory: string, examples: readonly Example[]): void {
  mkdirSync(join(directory, 'node_modules'));
  symlinkSync(root, join(directory, 'node_modules/passfd'));
  // As `npm init` writes it.
  writeFileSync(join(directory, 'package.json'), '{ "type": "commonjs" }');
  for (const { language, code, file = 'example.mts' } of examples) {
    writeFileSync(join(directory, file.replace(/\.mts$/, '.mjs')), language === 'ts' ? compiled(code) : code);
  }
}

function compiled(code: string): string {
  const { outputText } = ts.transpileModule(code, {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
  });
  return outputText;
}

const pages = ['README.md', ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`)];
const examples = pages.filter((page) => page.endsWith('.md')).flatMap(examplesOf);

function filesOf(page: string): Example[] {
  return examples.filter((example) => example.page === page && example.file !== undefined);
}

/** Connects, says something, and hears all of the answer. */
async function ask(port: string | undefined, words: string): Promise<string> {
  const client = connect(Number(port), '127.0.0.1');
  client.write(words);
  return text(client);
}

/** The answer to a request over HTTP. */
async function get(port: string | undefined): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${String(port)}`, { headers: { connection: 'close' } });
  return response.text();
}

/**
 * Asks until there are so many different answers, and tells those, sorted. A worker that says that it listens gets its
 * first connection a moment later.
 */
async function answersOf(port: string | undefined, count: number): Promise<string[]> {
  const answers = new Set<string>();
  while (answers.size < count) answers.add(await get(port));
  return [...answers].sort();
}

describe('an example in the documentation', () => {
  for (const example of examples.filter(({ file }) => file === undefined)) {
    it(
      `runs to its end and prints something: ${example.page}, line ${example.line}`,
      { skip: example.code.includes('python3') && withoutPython },
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        install(directory.path, [example]);
        const program = start(process.execPath, ['example.mjs'], { cwd: directory.path });
        const exit = await program.exit;
        assert.equal(await program.stderr, '');
        assert.equal(exit, 0);
        assert.notDeepEqual(program.lines, []);
      }),
    );
  }

  it(
    'is an app that `passfd run` scales: README.md',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      install(directory.path, filesOf('README.md'));
      const options = { cwd: directory.path, env: { XDG_RUNTIME_DIR: directory.path } };
      const program = start(...passfd('run', '--workers', '4', 'server.mjs', '0'), options);
      let port: string | undefined;
      for (let worker = 0; worker < 4; worker++) [, port] = await program.line(/^listening on port (\d+)$/);
      assert.deepEqual(
        await answersOf(port, 4),
        [1, 2, 3, 4].map((worker) => `hello from worker ${worker}\n`),
      );
      const stop = start(...passfd('stop'), options);
      assert.equal(await stop.exit, 0);
      assert.equal(await program.exit, 0);
    }),
  );

  it(
    'is a worker that joins `passfd serve`, beside an unmodified app that does: README.md',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      install(directory.path, filesOf('README.md'));
      const options = { cwd: directory.path, env: { XDG_RUNTIME_DIR: directory.path } };
      const server = start(...passfd('serve', '--listen', '127.0.0.1:0'), options);
      const [, port] = await server.errorLine(/127\.0\.0\.1:(\d+)/);
      const worker = start(process.execPath, ['worker.mjs'], options);
      await worker.line(/^ready$/);
      const app = start(...passfd('worker', 'server.mjs'), { ...options, ownGroup: true });
      await app.line(new RegExp(`^listening on port ${String(port)}$`));
      assert.deepEqual(await answersOf(port, 2), ['hello from worker 1\n', 'hello from worker 2\n']);
    }),
  );

  it(
    'is a server with a Python worker that answers a client: docs/multiprocessing.md',
    { skip: withoutPython },
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      install(directory.path, filesOf('docs/multiprocessing.md'));
      const server = start(process.execPath, ['server.mjs'], { cwd: directory.path });
      // The Python worker does not wait for the server, so this does.
      await server.line(/^waiting for a worker$/);
      const worker = start('python3', ['worker.py'], { cwd: directory.path });
      await server.line(new RegExp(`^the worker is process ${worker.pid}$`));
      const [, port] = await server.line(/"port":(\d+)/);
      assert.equal(await ask(port, 'hello'), 'you said: hello');
    }),
  );
});
