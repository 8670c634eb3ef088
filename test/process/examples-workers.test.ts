// The examples when a worker or a client starts early, dies, breaks the protocol or hangs up: the next client is served.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { describe, it } from 'node:test';

import { listen } from '../../src/fd/index.js';
import { authenticateClient, toKey } from '../../src/multiprocessing/authentication.js';
import { Client, Connection } from '../../src/multiprocessing/index.js';
import { temporaryDirectory } from '../support/files.js';
import { turns } from '../support/loop.js';
import { childOf, example, withPrograms, type Program, type Start } from '../support/program.js';
import { talk, TcpClient } from '../support/tcp-client.js';

const LISTENING = /^SERVER: Listening on 127\.0\.0\.1:(\d+)$/;
const GOT_CONNECTION = /^SERVER: Got connection/;
const GOT_FD = /^(WORKER|CHILD): GOT FD/;

for (const prefix of ['', 'raw-']) {
  /** The body of a test that gets the commands of one variant. */
  const withVariant = (body: (variant: Variant) => Promise<void>): (() => Promise<void>) =>
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      await body(new Variant(start, prefix, `${directory.path}/server`));
    });

  describe(`the ${prefix}server and ${prefix}worker examples`, () => {
    it(
      'connect when the worker is started first',
      withVariant(async (variant) => {
        const worker = variant.startWorker();
        const { port } = await variant.startServer();
        await talk(port, 'hello');
        await worker.line(GOT_FD);
      }),
    );

    it(
      'serve a client that came before any worker',
      withVariant(async (variant) => {
        const { port, server } = await variant.startServer();
        const served = talk(port, 'hello');
        await server.line(GOT_CONNECTION);
        variant.startWorker();
        await served;
      }),
    );

    it(
      'serve the next client with the next worker when a worker is killed',
      withVariant(async (variant) => {
        const { port, server } = await variant.startServer();
        const first = variant.startWorker();
        using client = await TcpClient.connect(port);
        await client.echo('hello');
        first.kill();
        assert.equal(await first.exit, 'SIGKILL');
        const served = talk(port, 'hello again');
        await server.line(/^SERVER: Lost the worker: /);
        const second = variant.startWorker();
        await served;
        await second.line(GOT_FD);
      }),
    );

    it(
      'serve the next client with a worker that was waiting, when the worker before it is killed',
      withVariant(async (variant) => {
        const { port } = await variant.startServer();
        const first = variant.startWorker();
        await talk(port, 'hello');
        const second = variant.startWorker();
        first.kill();
        assert.equal(await first.exit, 'SIGKILL');
        await talk(port, 'hello again');
        await second.line(GOT_FD);
      }),
    );

    it(
      'go on when a client resets its connection before, or while, it is served',
      withVariant(async (variant) => {
        const { port, server } = await variant.startServer();
        using early = await TcpClient.connect(port);
        await server.line(GOT_CONNECTION);
        early.socket.resetAndDestroy();
        await once(early.socket, 'close');
        const worker = variant.startWorker();
        using late = await TcpClient.connect(port);
        await late.echo('hello');
        late.socket.resetAndDestroy();
        await worker.line(/^WORKER: LOST read ECONNRESET$/);
        await talk(port, 'hello again');
        server.signal('SIGTERM');
        assert.equal(await worker.exit, 0);
        assert.equal(await server.exit, 0);
      }),
    );

    it(
      'serve a client that keeps its connection while others come and go',
      withVariant(async (variant) => {
        const { port } = await variant.startServer();
        variant.startWorker();
        using client = await TcpClient.connect(port);
        await client.echo('first');
        await talk(port, 'hello', 'and goodbye');
        await client.echo('still here');
        await client.hangUp();
      }),
    );
  });
}

describe('the server example', () => {
  it(
    'refuses a worker with another key, and the next worker serves the client',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/server`;
      const variant = new Variant(start, '', path);
      const { port, server } = await variant.startServer();
      const served = talk(port, 'hello');
      await assert.rejects(Client(path, { authkey: 'wrong' }), { code: 'ERR_AUTHENTICATION' });
      await server.line(
        /^SERVER: Refused a worker: The other end does not know the key: its answer was wrong$/,
      );
      variant.startWorker();
      await served;
    }),
  );

  it(
    'goes on without a worker that knows the key and hangs up before it sends its process id',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/server`;
      const variant = new Variant(start, '', path);
      const { port, server } = await variant.startServer();
      const served = talk(port, 'hello');
      const silent = await Client(path, { authkey: 'peekaboo' });
      silent.close();
      await server.line(/^SERVER: Lost the worker: The other end closed the connection$/);
      variant.startWorker();
      await served;
    }),
  );
});

describe('the worker example', () => {
  it(
    'waits a minute for a server that accepts a worker only when a client comes',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/server`;
      await using workers = await listen(path);
      const worker = start(...example('worker', path), {
        env: { NODE_OPTIONS: `--import ${new URL('../support/fast-clock.js', import.meta.url).href}` },
      });
      using server = new Connection(await workers.accept());
      worker.signal('SIGUSR2');
      await worker.line(/^A minute is over$/);
      await authenticateClient(server, toKey('peekaboo'));
      assert.equal(await server.recv(), worker.pid);
    }),
  );
});

describe('the pipe example', () => {
  it(
    'starts a new child when its child is killed, and the new one serves the next client',
    withPrograms(async (start) => {
      const parent = start(...example('pipe', '0'));
      const [, port] = await parent.line(LISTENING);
      using client = await TcpClient.connect(Number(port));
      await client.echo('hello');
      const child = childOf(parent);
      process.kill(child, 'SIGKILL');
      await untilGone(child);
      await talk(Number(port), 'hello again');
      assert.ok(parent.lines.some((line) => line.startsWith('SERVER: Lost the child: ')));
      parent.signal('SIGTERM');
      assert.equal(await parent.exit, 0);
    }),
  );

  it(
    'goes on when a client resets its connection',
    withPrograms(async (start) => {
      const parent = start(...example('pipe', '0'));
      const [, port] = await parent.line(LISTENING);
      using client = await TcpClient.connect(Number(port));
      await client.echo('hello');
      client.socket.resetAndDestroy();
      await parent.line(/^CHILD: LOST read ECONNRESET$/);
      await talk(Number(port), 'hello again');
      assert.equal(
        parent.lines.some((line) => line.includes('Lost the child')),
        false,
      );
    }),
  );
});

/** The server and the worker of one variant, with a path of their own. */
class Variant {
  readonly #start: Start;
  readonly #prefix: string;
  readonly #path: string;

  constructor(start: Start, prefix: string, path: string) {
    this.#start = start;
    this.#prefix = prefix;
    this.#path = path;
  }

  async startServer(): Promise<{ server: Program; port: number }> {
    const server = this.#start(...example(`${this.#prefix}server`, this.#path, '0'));
    const [, port] = await server.line(LISTENING);
    return { server, port: Number(port) };
  }

  startWorker(): Program {
    return this.#start(...example(`${this.#prefix}worker`, this.#path));
  }
}

/** Waits until a process that is not a child of this one has ended. */
async function untilGone(pid: number): Promise<void> {
  while (existsSync(`/proc/${pid}`)) await turns();
}
