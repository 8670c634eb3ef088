// What the examples print, also when they are called with wrong arguments.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { example, withPrograms, type Program } from '../support/program.js';
import { TcpClient } from '../support/tcp-client.js';

/** Replaced by a path in the test's own directory. */
const PATH = 'a path';

const LISTENING = /^SERVER: Listening on 127\.0\.0\.1:(\d+)$/;
const CHILD_GOT_FD = /^CHILD: GOT FD \d+$/;
const WORKER_GOT_FD = /^WORKER: GOT FD \d+$/;

describe('the output of the examples', () => {
  it(
    'of pipe has the port, each client, its descriptor in the child, and its text',
    withPrograms(async (start) => {
      const parent = start(...example('pipe', '0'));
      const port = await greet(parent, parent, 'CHILD');
      assert.match(parent.lines[0] ?? '', LISTENING);
      assert.match(
        parent.lines[1] ?? '',
        new RegExp(`^SERVER: Got connection from 127\\.0\\.0\\.1:${port}$`),
      );
      assert.match(parent.lines[2] ?? '', CHILD_GOT_FD);
      assert.deepEqual(parent.lines.slice(3), [
        'CHILD: RECV "hello"',
        'CHILD: RECV "two\\nlines"',
        `CHILD: RECV "${'x'.repeat(60)}", 100 bytes`,
      ]);
    }),
  );

  it(
    'of server and worker has the port, each client, the worker, the descriptor there, and the text',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/server`;
      const server = start(...example('server', path, '0'));
      const worker = start(...example('worker', path));
      const port = await greet(server, worker, 'WORKER', /^SERVER: Worker/);
      assert.match(server.lines[0] ?? '', LISTENING);
      assert.deepEqual(server.lines.slice(1), [
        `SERVER: Worker ${worker.pid} joined`,
        `SERVER: Got connection from 127.0.0.1:${port}`,
      ]);
      assertServed(worker);
    }),
  );

  it(
    'of raw-server and raw-worker has the port, each client, the descriptor in the worker, and the text',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/server`;
      const server = start(...example('raw-server', path, '0'));
      const worker = start(...example('raw-worker', path));
      const port = await greet(server, worker, 'WORKER');
      assert.match(server.lines[0] ?? '', LISTENING);
      assert.deepEqual(server.lines.slice(1), [`SERVER: Got connection from 127.0.0.1:${port}`]);
      assertServed(worker);
    }),
  );
});

describe('an example with wrong arguments', () => {
  for (const [usage, ...calls] of [
    ['pipe port', [], ['0', '0'], [''], ['http'], ['65536'], ['-1'], ['1.5']],
    ['server server_address port', [], [PATH], [PATH, '0', '0'], ['', '0'], [PATH, ''], [PATH, '65536']],
    ['worker server_address', [], [PATH, '0'], ['']],
    ['raw-server server_address port', [], [PATH], [PATH, '0', '0'], ['', '0'], [PATH, ''], [PATH, 'http']],
    ['raw-worker server_address', [], [PATH, '0'], ['']],
  ] as const) {
    const [name = ''] = usage.split(' ');
    it(
      `prints only the usage of ${name}, exits with 1, and leaves no file`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const path = `${directory.path}/server`;
        const programs = calls.map((args) =>
          start(...example(name, ...args.map((arg) => (arg === PATH ? path : arg)))),
        );
        for (const program of programs) {
          assert.equal(await program.exit, 1);
          assert.equal(await program.stderr, `Usage: ${usage}\n`);
          assert.deepEqual(program.lines, []);
        }
        assert.deepEqual(readdirSync(directory.path), []);
      }),
    );
  }

  it(
    'prints the names of the examples for an unknown name',
    withPrograms(async (start) => {
      for (const program of [start(...example()), start(...example('Server')), start(...example('run'))]) {
        assert.equal(await program.exit, 1);
        assert.equal(
          await program.stderr,
          'Usage: example name args\nExamples: pipe, server, worker, raw-server, raw-worker\n',
        );
        assert.deepEqual(program.lines, []);
      }
    }),
  );
});

/** Sends the text that the test then looks for, when the server has printed `ready`. @returns the client's port */
async function greet(server: Program, worker: Program, name: string, ready?: RegExp): Promise<number> {
  const [, port] = await server.line(LISTENING);
  if (ready) await server.line(ready);
  using client = await TcpClient.connect(Number(port));
  for (const words of ['hello', 'two\nlines', 'x'.repeat(100)]) await client.echo(words);
  await client.hangUp();
  await worker.line(new RegExp(`^${name}: RECV "x+", 100 bytes$`));
  return client.port;
}

function assertServed(worker: Program): void {
  assert.match(worker.lines[0] ?? '', WORKER_GOT_FD);
  assert.deepEqual(worker.lines.slice(1), [
    'WORKER: RECV "hello"',
    'WORKER: RECV "two\\nlines"',
    `WORKER: RECV "${'x'.repeat(60)}", 100 bytes`,
  ]);
}
