// The examples end on a signal: the server exits, then its worker or child, and no file or process is left.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { socketPair } from '../../src/fd/index.js';
import { Client } from '../../src/multiprocessing/index.js';
import { temporaryDirectory } from '../support/files.js';
import { isPending } from '../support/loop.js';
import { childOf, example, withPrograms, type Program } from '../support/program.js';
import { talk, TcpClient } from '../support/tcp-client.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const manifest = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { scripts: { start: string } };

const LISTENING = /^SERVER: Listening on 127\.0\.0\.1:(\d+)$/;
const GOT_CONNECTION = /^SERVER: Got connection/;

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  for (const prefix of ['', 'raw-']) {
    describe(`the ${prefix}server example on ${signal}`, () => {
      it(
        'exits with 0 and removes its socket file while no worker has joined',
        withPrograms(async (start) => {
          await using directory = await temporaryDirectory();
          const server = start(...example(`${prefix}server`, `${directory.path}/server`, '0'));
          await server.line(LISTENING);
          assert.deepEqual(readdirSync(directory.path), ['server']);
          server.signal(signal);
          await assertEnded(server);
          assert.deepEqual(readdirSync(directory.path), []);
        }),
      );

      it(
        'exits with 0 while a client waits for a worker, and the client sees the end',
        withPrograms(async (start) => {
          await using directory = await temporaryDirectory();
          const server = start(...example(`${prefix}server`, `${directory.path}/server`, '0'));
          const [, port] = await server.line(LISTENING);
          using client = await TcpClient.connect(Number(port));
          await server.line(GOT_CONNECTION);
          server.signal(signal);
          await client.hangUp();
          await assertEnded(server);
          assert.deepEqual(readdirSync(directory.path), []);
        }),
      );

      it(
        'exits with 0 at once, and its worker exits when its clients have hung up',
        withPrograms(async (start) => {
          await using directory = await temporaryDirectory();
          const path = `${directory.path}/server`;
          const server = start(...example(`${prefix}server`, path, '0'));
          const worker = start(...example(`${prefix}worker`, path));
          const [, port] = await server.line(LISTENING);
          await talk(Number(port), 'hello');
          using client = await TcpClient.connect(Number(port));
          await client.echo('hello');
          server.signal(signal);
          await assertEnded(server);
          await client.echo('still here');
          await client.hangUp();
          await assertEnded(worker);
        }),
      );
    });
  }

  describe(`the pipe example on ${signal}`, () => {
    it(
      'exits with 0, and so does its child when the clients have hung up',
      withPrograms(async (start) => {
        const parent = start(...example('pipe', '0'));
        const [, port] = await parent.line(LISTENING);
        using client = await TcpClient.connect(Number(port));
        await client.echo('hello');
        parent.signal(signal);
        await client.echo('still here');
        await client.hangUp();
        await assertEnded(parent);
      }),
    );

    it(
      'exits with 0 while its child takes no more clients, and the child exits when it goes on',
      withPrograms(async (start) => {
        const parent = start(...example('pipe', '0'), { ownGroup: true });
        const [, port] = await parent.line(LISTENING);
        await talk(Number(port), 'hello');
        const child = childOf(parent);
        process.kill(child, 'SIGSTOP');
        const clients = await connectMoreThanFit(Number(port), parent);
        parent.signal(signal);
        process.kill(child, 'SIGCONT');
        for (const client of clients) client[Symbol.dispose]();
        await assertEnded(parent);
      }),
    );
  });
}

describe('the server example', () => {
  it(
    'exits on a signal with its worker, also when no client has come',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/server`;
      const server = start(...example('server', path, '0'));
      const worker = start(...example('worker', path));
      await server.line(/^SERVER: Worker \d+ joined$/);
      server.signal('SIGTERM');
      await assertEnded(server, worker);
    }),
  );

  it(
    'exits at once on a signal while a worker that it accepted has not sent its process id',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/server`;
      const server = start(...example('server', path, '0'));
      const [, port] = await server.line(LISTENING);
      using client = await TcpClient.connect(Number(port));
      await server.line(GOT_CONNECTION);
      using silent = await Client(path, { authkey: 'peekaboo' });
      server.signal('SIGTERM');
      await assert.rejects(silent.recv(), { code: 'ERR_EOF' });
      await client.hangUp();
      await assertEnded(server);
      assert.ok(!server.lines.some((line) => line.includes('Lost')), server.lines.join('\n'));
    }),
  );
});

describe('npm start', () => {
  const [, ...words] = manifest.scripts.start.split(' ');
  for (const to of ['its process group, as Ctrl-C does', 'itself alone, as kill does'] as const) {
    it(
      `prints commands that work, and exits with 0 on a signal to ${to}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const env = { XDG_RUNTIME_DIR: directory.path };
        const program = start(process.execPath, words, { ownGroup: true, env, cwd: root });
        const [, url = ''] = await program.line(/^ {4}curl (http:\S+)$/);
        // The worker that was ready first may answer several times.
        const answerers = new Set<string>();
        for (let round = 0; answerers.size < 2 && round < 1000; round++) {
          answerers.add((await ask(url)).replace(/, process .*/s, ''));
        }
        assert.deepEqual([...answerers].sort(), ['hello from worker 1', 'hello from worker 2']);
        const [, command = ''] = await program.line(/^ {4}(node ".*" status)$/);
        const status = start('/bin/sh', ['-c', command], { env, cwd: directory.path });
        assert.equal(await status.exit, 0);
        assert.match(status.lines.join('\n'), /^ +2 +\d+ +passfd +ready/m);
        if (to === 'itself alone, as kill does') program.signal('SIGTERM');
        else program.signalGroup('SIGINT');
        assert.equal(await program.exit, 0);
        assert.deepEqual(readdirSync(`${directory.path}/passfd`), []);
      }),
    );
  }
});

/** Sends a request on a connection of its own. */
async function ask(url: string): Promise<string> {
  const response = await fetch(url, { headers: { connection: 'close' } });
  return response.text();
}

/** A program's exit code comes when no process holds its output any more, so no child of it is left either. */
async function assertEnded(...programs: Program[]): Promise<void> {
  for (const program of programs) {
    assert.equal(await program.exit, 0);
    assert.equal(await program.stderr, '');
  }
}

/** Connects clients until the server cannot pass on the last of them, since its child does not read. */
async function connectMoreThanFit(port: number, server: Program): Promise<TcpClient[]> {
  const clients: TcpClient[] = [];
  for (let count = await countHandlesThatFit(); count >= 0; count--) {
    clients.push(await TcpClient.connect(port));
    await server.line(GOT_CONNECTION);
  }
  return clients;
}

/** The number of handles that fit into a socket that nobody reads. */
async function countHandlesThatFit(): Promise<number> {
  const [left, right] = socketPair();
  using sender = left;
  using receiver = right;
  for (let count = 0; ; count++) {
    const sent = sender.send(Uint8Array.of(1), [receiver.fd]);
    sent.catch(() => undefined);
    if (await isPending(sent)) return count;
  }
}
