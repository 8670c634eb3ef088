// The documentation: its examples run as they are printed, its TypeScript passes the strict compiler, its links lead somewhere.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import ts from 'typescript';

import { createProgram } from '../../src/cli/program.js';
import { temporaryDirectory } from '../support/files.js';
import { passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';
import { withoutPython } from '../support/python.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));

interface Example {
  readonly page: string;
  readonly line: number;
  readonly language: string;
  readonly code: string;
  /** The name in its first line. Undefined for an example that is a whole program. */
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

/** Makes a project that has `passfd` installed, and writes examples into it as files that Node and Python run. */
function install(directory: string, examples: readonly Example[]): void {
  mkdirSync(join(directory, 'node_modules'));
  symlinkSync(root, join(directory, 'node_modules/passfd'));
  // `npm init` writes this line.
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

/** @returns what `tsc --strict` reports about the TypeScript examples: a line for each error */
function errorsOf(directory: string, examples: readonly Example[]): string[] {
  mkdirSync(join(directory, 'node_modules/@types'), { recursive: true });
  symlinkSync(root, join(directory, 'node_modules/passfd'));
  symlinkSync(join(root, 'node_modules/@types/node'), join(directory, 'node_modules/@types/node'));
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }');
  const places = new Map(
    examples.map((example, index) => [join(directory, `example-${index}.ts`), example] as const),
  );
  for (const [path, { code }] of places) writeFileSync(path, code);
  const program = ts.createProgram([...places.keys()], {
    strict: true,
    noEmit: true,
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2022.d.ts', 'lib.esnext.disposable.d.ts'],
    module: ts.ModuleKind.NodeNext,
    moduleDetection: ts.ModuleDetectionKind.Force,
    types: ['node'],
    skipLibCheck: true,
  });
  return ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
    const example = file && places.get(file.fileName);
    const line = file && start !== undefined ? file.getLineAndCharacterOfPosition(start).line : 0;
    const where = example ? `${example.page}:${example.line + 1 + line}` : (file?.fileName ?? 'the compiler');
    return `${where}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`;
  });
}

/** The anchors of a page's headings, as GitHub makes them. */
function anchorsOf(page: string): Set<string> {
  const headings = readFileSync(join(root, page), 'utf8').matchAll(/^#+ (.*)$/gm);
  return new Set(
    [...headings].map(([, heading = '']) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N}\s_-]/gu, '')
        .replace(/\s/g, '-'),
    ),
  );
}

/** @returns the links of a page that lead to no file, or to no heading */
function deadLinksOf(page: string): string[] {
  const markdown = readFileSync(join(root, page), 'utf8');
  const links = [...markdown.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link = '']) => link);
  return links.filter((link) => {
    if (/^https?:/.test(link)) return false;
    const [path = '', anchor] = link.split('#');
    const target = path === '' ? page : join(dirname(page), path);
    if (!existsSync(join(root, target))) return true;
    return anchor !== undefined && !anchorsOf(target).has(anchor);
  });
}

const pages = [
  ...['README.md', 'SECURITY.md', 'CONTRIBUTING.md', 'CHANGELOG.md'],
  ...readdirSync(join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];
const examples = pages.flatMap(examplesOf);

/** The command in `passfd run APP [ARGS...]`. */
function withoutArguments(usage: string): string {
  return usage.split(' ').slice(0, 2).join(' ');
}

function filesOf(page: string): Example[] {
  return examples.filter((example) => example.page === page && example.file !== undefined);
}

/** Connects, writes a text, and reads the answer to its end. */
async function ask(port: string | undefined, words: string): Promise<string> {
  const client = connect(Number(port), '127.0.0.1');
  client.write(words);
  return text(client);
}

/** The answer to an HTTP request on a connection of its own. */
async function get(port: string | undefined): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${String(port)}`, { headers: { connection: 'close' } });
  return response.text();
}

/**
 * Sends requests until `count` different answers have come, and returns these sorted. A worker gets its first connection a
 * moment after its server has emitted 'listening'.
 */
async function answersOf(port: string | undefined, count: number): Promise<string[]> {
  const answers = new Set<string>();
  while (answers.size < count) answers.add(await get(port));
  return [...answers].sort();
}

describe('a page of the documentation', () => {
  for (const page of pages) {
    it(`has links that lead somewhere: ${page}`, () => {
      assert.deepEqual(deadLinksOf(page), []);
    });
  }

  it('is reached from the README', () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8');
    assert.deepEqual(
      pages.filter((page) => page !== 'README.md' && !readme.includes(`](${page})`)),
      [],
    );
  });
});

describe('docs/command-line.md', () => {
  it('has every command and every option, and no others', () => {
    const page = readFileSync(join(root, 'docs/command-line.md'), 'utf8');
    const { commands } = createProgram();
    const names = commands.map((command) => `passfd ${command.name()}`);
    const options = commands.flatMap((command) => command.options.map(({ long }) => long));
    const documented = [...page.matchAll(/^\| `([^`]+)`/gm)].map(([, cell = '']) => cell);
    assert.deepEqual(
      [...new Set(documented.filter((cell) => cell.startsWith('passfd ')).map(withoutArguments))].sort(),
      names.sort(),
    );
    assert.deepEqual(
      [
        ...new Set(documented.filter((cell) => cell.startsWith('--')).map((cell) => cell.split(' ')[0])),
      ].sort(),
      [...new Set(options)].sort(),
    );
  });
});

describe('docs/operations.md', () => {
  it('quotes messages of the log as the code writes them', () => {
    const page = readFileSync(join(root, 'docs/operations.md'), 'utf8');
    const service = join(root, 'src/service');
    const code = readdirSync(service)
      .map((name) => readFileSync(join(service, name), 'utf8'))
      .join('\n');
    const messages = [...page.matchAll(/^\| `(?:fatal|error|warn)` +\| `([^`]+)`/gm)].map(
      ([, text = '']) => text,
    );
    assert.ok(messages.length > 0);
    assert.deepEqual(
      messages.filter((message) => !code.includes(`'${message}`) && !code.includes(`\`${message}`)),
      [],
    );
  });
});

describe('an example in the documentation', () => {
  it('passes `tsc --strict` if it is TypeScript', async () => {
    await using directory = await temporaryDirectory();
    const inTypeScript = examples.filter(({ language }) => language === 'ts');
    assert.ok(inTypeScript.length > 0);
    assert.deepEqual(errorsOf(directory.path, inTypeScript), []);
  });

  it('is the same server on both pages that show it: README.md, docs/getting-started.md', () => {
    const [server] = filesOf('docs/getting-started.md');
    assert.ok(server);
    assert.ok(filesOf('README.md').some(({ code }) => code === server.code));
  });

  for (const example of examples.filter(({ file }) => file === undefined)) {
    it(
      `runs to its end and prints a line: ${example.page}, line ${example.line}`,
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
    'is a server that `passfd run` runs in four workers: README.md',
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
    'is a worker that joins `passfd serve`, as an unmodified app does: README.md',
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
    'is a script that reports what is wrong with a service: docs/operations.md',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      install(directory.path, [...filesOf('README.md'), ...filesOf('docs/operations.md')]);
      const control = join(directory.path, 'control');
      const options = ['--workers', '2', '--control', control];
      const service = start(...passfd('run', ...options, 'server.mjs', '0'), { cwd: directory.path });
      for (let ready = 0; ready < 2; ready++) await service.line(/^listening on port \d+$/);
      const check = async (status: object | undefined, wanted: number): Promise<[unknown, string[]]> => {
        const script = start(process.execPath, ['health.mjs', String(wanted)], { cwd: directory.path });
        if (status) script.say(JSON.stringify(status));
        script.endInput();
        return [await script.exit, script.lines];
      };
      let status = await statusOf(control);
      while (status.workers.some(({ state }) => state !== 'ready')) status = await statusOf(control);
      assert.deepEqual(await check(status, 2), [0, ['ok']]);
      assert.deepEqual(await check(status, 3), [1, ['2 of 3 workers are ready']]);
      const [first, second] = status.workers;
      assert.ok(first && second);
      assert.deepEqual(await check({ ...status, workers: [{ ...first, state: 'stalled' }, second] }, 1), [
        1,
        [`worker ${first.id}, process ${first.pid}, does not answer`],
      ]);
      assert.deepEqual(await check(undefined, 2), [1, ['the dispatcher does not answer']]);
      assert.equal(await start(...passfd('stop', '--control', control)).exit, 0);
      assert.equal(await service.exit, 0);
    }),
  );

  it(
    'is a server whose Python worker answers a client: docs/multiprocessing.md',
    { skip: withoutPython },
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      install(directory.path, filesOf('docs/multiprocessing.md'));
      const server = start(process.execPath, ['server.mjs'], { cwd: directory.path });
      // The Python worker does not wait for its server.
      await server.line(/^waiting for a worker$/);
      const worker = start('python3', ['worker.py'], { cwd: directory.path });
      await server.line(new RegExp(`^the worker is process ${worker.pid}$`));
      const [, port] = await server.line(/"port":(\d+)/);
      assert.equal(await ask(port, 'hello'), 'you said: hello');
    }),
  );
});
