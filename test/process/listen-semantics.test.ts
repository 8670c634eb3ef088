// `listen` in two workers of an app under `passfd run`: shared addresses, errors, capacity, closing.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { connect, createServer, type AddressInfo, type NetConnectOpts, type Socket } from 'node:net';
import { describe, it } from 'node:test';

import { listen } from '../../src/fd/index.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Program, type ProgramOptions, type Start } from '../support/program.js';

interface Planned {
  readonly name: string;
  readonly listen: object;
  readonly max?: number;
  readonly unref?: boolean;
  readonly stays?: boolean;
}

/** The addresses that each worker, or all of them, listen at. */
type Plan = Readonly<Record<string, readonly Planned[]>>;

const anywhere = { port: 0, host: '127.0.0.1' };

type Run = (plan: Plan, flags?: readonly string[], options?: ProgramOptions) => Program;

/** A test with two workers that listen as planned. */
function withRun(body: (run: Run, path: string, start: Start) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const run: Run = (plan, flags = [], options = {}) =>
      start(
        ...passfd(
          ...['run', '--workers', '2', '--control', `${directory.path}/control`],
          ...flags,
          app('listener.js'),
        ),
        { ...options, env: { PLAN: JSON.stringify(plan) } },
      );
    await body(run, directory.path, start);
  });
}

/** The next `count` lines of a kind, sorted, since workers start in any order. */
async function lines(program: Program, pattern: RegExp, count: number): Promise<string[]> {
  const found: string[] = [];
  while (found.length < count) found.push((await program.line(pattern))[0]);
  return found.sort();
}

/** The address where both workers listen under this name. */
async function sharedAddress(program: Program, name: string): Promise<NetConnectOpts> {
  const [first = '', second = ''] = await lines(program, new RegExp(`^\\d listening ${name} .*`), 2);
  assert.equal(first.slice(2), second.slice(2), 'both workers tell the same address');
  return toWhere(first);
}

function toWhere(line: string): NetConnectOpts {
  const address = JSON.parse(line.replace(/^\d listening \w+ /, '')) as AddressInfo | string;
  return typeof address === 'string' ? { path: address } : { host: address.address, port: address.port };
}

/** Connects, and waits for the first line, which names the worker. */
async function greet(where: NetConnectOpts): Promise<{ socket: Socket; greeting: string }> {
  const socket = connect(where);
  const [said] = (await once(socket, 'data')) as [Buffer];
  return { socket, greeting: said.toString().trim() };
}

async function leave(...sockets: readonly Socket[]): Promise<void> {
  for (const socket of sockets) {
    socket.end();
    socket.resume();
    await once(socket, 'close');
  }
}

async function answersOf(where: NetConnectOpts, count: number): Promise<string[]> {
  const answers: string[] = [];
  for (let round = 0; round < count; round++) {
    const { socket, greeting } = await greet(where);
    answers.push(greeting);
    await leave(socket);
  }
  return answers.sort();
}

/**
 * The workers that answer here, sorted, once `count` of them have. A worker becomes ready a moment after it listens, so
 * the first connections may all go to the other workers.
 */
async function answerersOf(where: NetConnectOpts, count: number): Promise<string[]> {
  const answerers = new Set<string>();
  for (let round = 0; answerers.size < count && round < 1000; round++) {
    const [answer = ''] = await answersOf(where, 1);
    answerers.add(answer);
  }
  return [...answerers].sort();
}

function outcomeOf(where: NetConnectOpts): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(where);
    socket.on('connect', () => {
      socket.destroy();
      resolve('connected');
    });
    socket.on('error', ({ code }: NodeJS.ErrnoException) => {
      resolve(code ?? '');
    });
  });
}

describe('servers of two workers', () => {
  it(
    'share each of several addresses',
    withRun(async (run, path) => {
      const program = run({
        all: [
          { name: 'one', listen: anywhere },
          { name: 'two', listen: anywhere },
          { name: 'unix', listen: { path: `${path}/shared` } },
        ],
      });
      const [, ...rest] = await lines(program, /^\d listening .*/, 6);
      const where = Object.fromEntries(
        rest.map((line) => [line.split(' ')[2] ?? '', toWhere(line)] as const),
      );
      for (const name of ['one', 'two', 'unix']) {
        assert.deepEqual(await answerersOf(where[name] ?? anywhere, 2), [`1 ${name}`, `2 ${name}`]);
      }
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
      assert.equal(existsSync(`${path}/shared`), false);
    }),
  );

  it(
    'get EADDRINUSE when another process listens',
    withRun(async (run) => {
      const holder = createServer().listen(anywhere);
      await once(holder, 'listening');
      const { port } = holder.address() as AddressInfo;
      const program = run({ all: [{ name: 'held', listen: { port, host: '127.0.0.1' } }] });
      const error = { code: 'EADDRINUSE', syscall: 'listen', address: '127.0.0.1', port };
      const expected = `error held ${JSON.stringify(error)}`;
      assert.deepEqual(await lines(program, /^\d error .*/, 2), [`1 ${expected}`, `2 ${expected}`]);
      holder.close();
    }),
  );

  it(
    'get EACCES when this user may not listen',
    { skip: process.getuid?.() === 0 ? 'root may listen at every port' : false },
    withRun(async (run) => {
      const program = run({ all: [{ name: 'low', listen: { port: 1, host: '127.0.0.1' } }] });
      const error = { code: 'EACCES', syscall: 'listen', address: '127.0.0.1', port: 1 };
      const expected = `error low ${JSON.stringify(error)}`;
      assert.deepEqual(await lines(program, /^\d error .*/, 2), [`1 ${expected}`, `2 ${expected}`]);
    }),
  );

  it(
    'have no more than maxConnections each: the next client waits until one leaves',
    withRun(async (run, path) => {
      const where = await sharedAddress(run({ all: [{ name: 'full', listen: anywhere, max: 1 }] }), 'full');
      await answerersOf(where, 2);
      const first = await greet(where);
      const second = await greet(where);
      assert.deepEqual([first.greeting, second.greeting].sort(), ['1 full', '2 full']);
      const redelivered = async (): Promise<number> =>
        (await statusOf(`${path}/control`)).connections.redelivered;
      const before = await redelivered();
      let hasThird = false;
      const waiting = greet(where).then((third) => {
        hasThird = true;
        return third;
      });
      // The connection was handed off to a worker, which has refused it.
      while ((await redelivered()) === before) assert.equal(hasThird, false);
      assert.equal(hasThird, false);
      await leave(first.socket);
      const third = await waiting;
      assert.equal(third.greeting, first.greeting, 'the worker that has room again');
      await leave(second.socket, third.socket);
    }),
  );

  it(
    "listen by `{ fd }` on a descriptor of the dispatcher's process",
    withRun(async (run) => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const program = run({ all: [{ name: 'given', listen: { fd: 3 } }] }, [], {
        descriptors: [acceptor.fd],
      });
      const where = await sharedAddress(program, 'given');
      assert.deepEqual(where, acceptor.address);
      assert.deepEqual(await answerersOf(where, 2), ['1 given', '2 given']);
    }),
  );

  it(
    'get EADDRINUSE when both want a port exclusively',
    withRun(async (run) => {
      const elsewhere = createServer().listen(anywhere);
      await once(elsewhere, 'listening');
      // The kernel gives the port of a client to no other process, but a process can listen there by number.
      const { port: remotePort } = elsewhere.address() as AddressInfo;
      const client = connect({ port: remotePort, host: '127.0.0.1', localAddress: '127.0.0.1' });
      await once(client, 'connect');
      const { localPort: port = 0 } = client;
      const program = run({
        all: [{ name: 'alone', listen: { port, host: '127.0.0.1', exclusive: true } }],
      });
      const outcomes = await lines(program, /^\d (listening|error) .*/, 2);
      const [, listening = ''] = outcomes.map((line) => line.slice(2)).sort();
      assert.deepEqual(outcomes.map((line) => line.split(' ')[1]).sort(), ['error', 'listening']);
      assert.ok(outcomes.some((line) => line.includes('"code":"EADDRINUSE"')));
      assert.match(listening, /^listening alone /);
      assert.equal(await outcomeOf({ host: '127.0.0.1', port }), 'connected');
      client.destroy();
      elsewhere.close();
      // Its worker would outlive the dispatcher, which knows nothing of this server.
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
    }),
  );

  it(
    'free the address when the last of them closes',
    withRun(async (run) => {
      const program = run({ all: [{ name: 'going', listen: anywhere, stays: true }] });
      const where = await sharedAddress(program, 'going');
      await answerersOf(where, 2);
      const first = await greet(where);
      const second = await greet(where);
      first.socket.write('close');
      await leave(first.socket);
      await program.line(/^\d closed going$/);
      const left = second.greeting;
      assert.deepEqual(await answersOf(where, 2), [left, left]);
      second.socket.write('close');
      await leave(second.socket);
      await program.errorLine(/no longer listening/);
      assert.equal(await outcomeOf(where), 'ECONNREFUSED');
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
    }),
  );

  it(
    'use --listen in place of the first address, and report it',
    withRun(async (run) => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const program = run(
        { all: [{ name: 'own', listen: { port: 1, host: '127.0.0.3' } }] },
        ['--listen', 'fd:3'],
        {
          descriptors: [acceptor.fd],
        },
      );
      const where = await sharedAddress(program, 'own');
      assert.deepEqual(where, acceptor.address);
      assert.deepEqual(await answerersOf(where, 2), ['1 own', '2 own']);
    }),
  );

  it(
    'let their process exit when they are unreferenced',
    withRun(async (run) => {
      const program = run({ all: [{ name: 'idle', listen: anywhere, unref: true }] });
      await program.line(/^\d exit$/);
    }),
  );
});

describe('an app that breaks the handles of its servers', () => {
  it(
    'gets a message that says why its process ends',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(...passfd('run', '--workers', '1', '--control', control, app('wraps-badly.js')));
      await program.errorLine(/^passfd: the dispatcher disconnected this process: .*no good/);
    }),
  );
});

describe('a process that an app starts itself', () => {
  it(
    'knows nothing of the dispatcher, and listens by itself',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(...passfd('run', '--workers', '1', '--control', control, app('children.js')));
      const [, own = ''] = await program.line(/^app (.*)/);
      assert.deepEqual(JSON.parse(own), { variables: ['PASSFD_CONTROL', 'PASSFD_WORKER_ID'] });
      for (const name of ['child', 'thread']) {
        const [, said = ''] = await program.line(new RegExp(`^${name} (.*)`));
        assert.deepEqual(JSON.parse(said), {
          heard: name,
          variables: ['PASSFD_CONTROL', 'PASSFD_WORKER_ID'],
          preload: false,
        });
      }
      await program.line(/^listening \d+$/);
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
    }),
  );

  it(
    'cannot be given a server: the attempt is an ordinary error',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(...passfd('run', '--workers', '1', '--control', control, app('sends-server.js')));
      await program.line(/^sent EBADF$/);
      assert.equal(await program.exit, 0);
    }),
  );
});
