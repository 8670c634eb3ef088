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
      file: /^(?:\/\/|#) (\S+\.(?:js|ts|py))$/m.exec(code.split('\n')[0] ?? '')?.[1],
    };
  });
}

/** Writes examples as files that Node and Python run, into a directory where `passfd` is installed. */
function install(directory: string, examples: readonly Example[]): void {
  mkdirSync(join(directory, 'node_modules'));
  symlinkSync(root, join(directory, 'node_modules/passfd'));
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }');
  for (const { language, code, file = 'example.ts' } of examples) {
    writeFileSync(join(directory, file.replace(/\.ts$/, '.js')), language === 'ts' ? compiled(code) : code);
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

describe('an example in the documentation', () => {
  for (const example of examples.filter(({ file }) => file === undefined)) {
    it(
      `runs to its end and prints something: ${example.page}, line ${example.line}`,
      { skip: example.code.includes('python3') && withoutPython },
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        install(directory.path, [example]);
        const program = start(process.execPath, ['example.js'], { cwd: directory.path });
        const exit = await program.exit;
        assert.equal(await program.stderr, '');
        assert.equal(exit, 0);
        assert.notDeepEqual(program.lines, []);
      }),
    );
  }

  it(
    'is a server and a worker that answer a client: README.md',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      install(directory.path, filesOf('README.md'));
      const worker = start(process.execPath, ['worker.js'], { cwd: directory.path });
      const server = start(process.execPath, ['server.js', '0'], { cwd: directory.path });
      const [, port] = await server.line(/^listening on port (\d+)$/);
      assert.equal(await ask(port, ''), `hello from process ${worker.pid}\n`);
    }),
  );

  it(
    'is a server with a Python worker that answers a client: docs/multiprocessing.md',
    { skip: withoutPython },
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      install(directory.path, filesOf('docs/multiprocessing.md'));
      const server = start(process.execPath, ['server.js'], { cwd: directory.path });
      // The Python worker does not wait for the server, so this does.
      await server.line(/^waiting for a worker$/);
      const worker = start('python3', ['worker.py'], { cwd: directory.path });
      await server.line(new RegExp(`^the worker is process ${worker.pid}$`));
      const [, port] = await server.line(/"port":(\d+)/);
      assert.equal(await ask(port, 'hello'), 'you said: hello');
    }),
  );
});
