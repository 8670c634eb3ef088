// A session's own data socket, as FTP's PASV opens one: it belongs to the process that has the session, in a drain too.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { createInterface, type Interface } from 'node:readline';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Program, type Start } from '../support/program.js';

const MAX_TRIES = 1000;

/** A client's end of a connection, by lines. */
class Lines implements Disposable {
  readonly socket: Socket;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1');
    // The end of the lines reports this to the reader that waits for a line.
    this.socket.on('error', () => undefined);
    this.#reader = createInterface({ input: this.socket });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  /** The next line, as words. */
  async next(): Promise<string[]> {
    const line = (await this.#lines.next()) as IteratorResult<string, undefined>;
    assert.ok(line.done !== true, 'the connection ended');
    return line.value.split(' ');
  }

  async ask(line: string): Promise<string[]> {
    this.socket.write(`${line}\n`);
    return this.next();
  }

  /** Ends the connection, and waits until the other end closes without another line. */
  async hangUp(lastWord = ''): Promise<void> {
    this.socket.end(lastWord);
    const line = (await this.#lines.next()) as IteratorResult<string, undefined>;
    assert.equal(line.done, true);
  }

  [Symbol.dispose](): void {
    this.#reader.close();
    this.socket.destroy();
  }
}

interface Service {
  readonly program: Program;
  readonly control: string;
  readonly start: Start;
  /** The port where sessions begin. */
  readonly port: number;
  /** A session with this worker, after its greeting. */
  readonly session: (worker: number) => Promise<Lines>;
  /** Drains the worker. Resolves when the drain has begun. */
  readonly drain: (worker: number) => Promise<Program>;
}

/** A test with the app in `workers` workers. */
function withService(workers: number, body: (service: Service) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    const options = ['--workers', String(workers), '--orphan-timeout', '1', '--control', control];
    const program = start(...passfd('run', ...options, app('ftp.js')), { ownGroup: true });
    let port = 0;
    for (let count = 0; count < workers; count++) {
      port = Number((await program.line(/^listening (\d+)$/))[1]);
    }
    await body({
      program,
      control,
      start,
      port,
      session: (worker) => sessionWith(port, worker),
      drain: async (worker) => {
        const drain = start(...passfd('drain', String(worker), '--control', control));
        await program.errorLine(/worker draining/);
        return drain;
      },
    });
  });
}

/** Connects until this worker answers. */
async function sessionWith(port: number, worker: number): Promise<Lines> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const lines = new Lines(port);
    const [, session = ''] = await lines.next();
    if (session.startsWith(`${worker}.`)) return lines;
    await lines.hangUp('QUIT\n');
    lines[Symbol.dispose]();
  }
  assert.fail(`worker ${worker} never answers`);
}

/** Has the session listen. @returns its port */
async function passive(session: Lines, port = 0): Promise<number> {
  const [code, answer] = await session.ask(port === 0 ? 'PASV' : `PASV ${port}`);
  assert.equal(code, '227', answer);
  return Number(answer);
}

/** Connects to the port of a session, and checks that this worker answers and echoes. */
async function dataOf(worker: number, port: number): Promise<Lines> {
  const data = new Lines(port);
  const [code, session = ''] = await data.next();
  assert.deepEqual([code, session.split('.')[0]], ['150', String(worker)]);
  assert.deepEqual(await data.ask('to and fro'), ['to', 'and', 'fro']);
  return data;
}

/** A port that the kernel gives to no other process, and that a process can still listen at by number. @returns the port, and the client that holds it */
async function freePort(): Promise<{ readonly port: number } & AsyncDisposable> {
  const elsewhere = createServer().listen(0, '127.0.0.1');
  await once(elsewhere, 'listening');
  const { port: remotePort } = elsewhere.address() as AddressInfo;
  const client = connect({ port: remotePort, host: '127.0.0.1', localAddress: '127.0.0.1' });
  const [[accepted]] = (await Promise.all([once(elsewhere, 'connection'), once(client, 'connect')])) as [
    [Socket],
    unknown,
  ];
  return {
    port: client.localPort ?? 0,
    [Symbol.asyncDispose]: async () => {
      accepted.destroy();
      client.destroy();
      elsewhere.close();
      await once(elsewhere, 'close');
    },
  };
}

describe('a server that listens at port 0 while a connection is open', () => {
  it(
    'gets only the connections of its own session',
    withService(2, async ({ session }) => {
      using first = await session(1);
      using second = await session(2);
      const firstPort = await passive(first);
      const secondPort = await passive(second);
      assert.notEqual(firstPort, secondPort);
      using firstData = await dataOf(1, firstPort);
      using secondData = await dataOf(2, secondPort);
      await firstData.hangUp();
      await secondData.hangUp();
    }),
  );

  it(
    'goes on when its worker begins to drain',
    withService(2, async ({ session, drain, program }) => {
      using control = await session(1);
      const port = await passive(control);
      const draining = await drain(1);
      using data = await dataOf(1, port);
      await data.hangUp();
      await program.line(/^1\.\d+ server closed$/);
      await control.hangUp('QUIT\n');
      assert.equal(await draining.exit, 0);
    }),
  );
});

describe('a server that listens while its worker drains', () => {
  it(
    'accepts the connection of its session',
    withService(2, async ({ session, drain, program }) => {
      using control = await session(1);
      const draining = await drain(1);
      for (let round = 0; round < 2; round++) {
        using data = await dataOf(1, await passive(control));
        await data.hangUp();
        await program.line(/^1\.\d+ server closed$/);
      }
      await control.hangUp('QUIT\n');
      assert.equal(await draining.exit, 0);
    }),
  );

  it(
    'listens at a port that it names, and gets the error of Node when the port is taken',
    withService(2, async ({ session, drain }) => {
      using control = await session(1);
      await drain(1);
      await using free = await freePort();
      using data = await dataOf(1, await passive(control, free.port));
      await data.hangUp();
      const holder = createServer().listen(0, '127.0.0.1');
      await once(holder, 'listening');
      const { port } = holder.address() as AddressInfo;
      assert.deepEqual(await control.ask(`PASV ${port}`), ['425', 'EADDRINUSE']);
      holder.close();
      await control.hangUp('QUIT\n');
    }),
  );

  it(
    'listens at an address of the service, and leaves the connections to the other workers',
    withService(2, async ({ session, drain, port }) => {
      using control = await session(1);
      const draining = await drain(1);
      assert.deepEqual(await control.ask(`PASV ${port}`), ['227', String(port)]);
      using other = await session(2);
      await other.hangUp('QUIT\n');
      await control.hangUp('QUIT\n');
      assert.equal(await draining.exit, 0);
    }),
  );

  it(
    'listens also when no dispatcher is left',
    withService(1, async ({ session, program }) => {
      using control = await session(1);
      program.signal('SIGKILL');
      await program.ended;
      await program.errorLine(/no dispatcher any more/);
      using data = await dataOf(1, await passive(control));
      await data.hangUp();
      await control.hangUp('QUIT\n');
      await program.line(/^1 SIGTERM$/);
      // No process has its output open any more: the worker has ended too.
      await program.exit;
    }),
  );
});

describe('a connection that a server of a draining worker has accepted by itself', () => {
  it(
    'keeps the process alive until it is closed, although the session is over',
    withService(1, async ({ session, program, control: path, start }) => {
      using control = await session(1);
      using data = await dataOf(1, await passive(control));
      const restart = start(...passfd('restart', '--control', path));
      await program.errorLine(/worker draining/);
      await control.hangUp('QUIT\n');
      for (let isOpen = true; isOpen;) {
        const { workers } = await statusOf(path);
        isOpen = workers.some(({ state, active }) => state === 'draining' && active !== 0);
      }
      assert.deepEqual(await data.ask('still there'), ['still', 'there']);
      await data.hangUp();
      assert.equal(await restart.exit, 0);
      const told = program.lines.filter((line) => /data closed|SIGTERM/.test(line));
      assert.deepEqual(
        told.map((line) => line.replace(/^\S+ /, '')),
        ['data closed', 'SIGTERM'],
      );
    }),
  );
});
