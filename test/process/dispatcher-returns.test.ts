// A dispatcher that was killed and is started again: it gets its addresses and its workers back.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, statSync } from 'node:fs';
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { untilStopped } from '../support/processes.js';
import { withPrograms, type Program } from '../support/program.js';

const REQUEST = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n';

interface Scene {
  readonly directory: string;
  readonly service: Program;
  /** Kills the service, and waits until no process accepts any more. */
  kill(): Promise<void>;
  startAgain(): void;
  /** The processes of the ready workers in the order of their slots, once there are `count`. */
  workers(count: number): Promise<number[]>;
  /** The addresses in the status. */
  addresses(): Promise<string[]>;
}

function withScene(
  words: (directory: string) => readonly string[],
  body: (scene: Scene) => Promise<void>,
  env: (directory: string) => NodeJS.ProcessEnv = () => ({}),
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const { path } = directory;
    const control = `${path}/control`;
    const run = (): Program =>
      start(...passfd('run', '--orphan-timeout', '60000', '--control', control, ...words(path)), {
        env: env(path),
      });
    let service = run();
    const scene = {
      directory: path,
      get service() {
        return service;
      },
      kill: async () => {
        service.signal('SIGKILL');
        assert.equal(await service.ended, 'SIGKILL');
      },
      startAgain: () => {
        service = run();
      },
      workers: async (count: number) => {
        for (;;) {
          const status = await statusOf(control).catch(() => undefined);
          const ready = status?.workers.filter(({ state }) => state === 'ready') ?? [];
          if (ready.length === count) return ready.map(({ pid }) => pid);
        }
      },
      addresses: async () => (await statusOf(control)).listeners.map(({ address }) => address),
    };
    await body(scene);
    service.signal('SIGTERM');
    assert.equal(await service.exit, 0);
  });
}

/** A client that has connected and sent its request. */
async function arrive(options: NetConnectOpts): Promise<Socket> {
  const client = connect(options);
  await once(client, 'connect');
  client.write(REQUEST);
  return client;
}

function target(address: string): NetConnectOpts {
  if (address.startsWith('/')) return { path: address };
  return { host: '127.0.0.1', port: Number(address.split(':').at(-1)) };
}

describe('an address of a dispatcher that is killed and started again', () => {
  const cases: readonly (readonly [
    what: string,
    words: (directory: string) => readonly string[],
    env: (directory: string) => NodeJS.ProcessEnv,
    count: number,
  ])[] = [
    [
      'that is its own, at port 0 and at a path,',
      (directory) => [
        ...['--workers', '2', '--listen', '127.0.0.1:0', '--listen', '127.0.0.1:0'],
        ...['--listen', `unix:${directory}/socket`, app('process.js')],
      ],
      () => ({}),
      3,
    ],
    [
      'that its workers asked for, at a path,',
      () => ['--workers', '2', app('process-at-path.js')],
      (directory) => ({ SOCKET_PATH: `${directory}/socket` }),
      1,
    ],
  ];
  for (const [what, words, env, count] of cases) {
    it(
      `${what} is the same socket as before, and who came meanwhile is answered by the same workers`,
      withScene(
        words,
        async (scene) => {
          const workers = await scene.workers(2);
          const addresses = await scene.addresses();
          assert.equal(new Set(addresses).size, count);
          const path = `${scene.directory}/socket`;
          const { ino } = statSync(path);
          await scene.kill();
          const waiting = await Promise.all(addresses.map((address) => arrive(target(address))));
          scene.startAgain();
          for (const client of waiting) {
            const [, pid] = /process (\d+)/.exec(await text(client)) ?? [];
            assert.ok(workers.includes(Number(pid)), pid);
          }
          assert.deepEqual(await scene.workers(2), workers);
          assert.deepEqual((await scene.addresses()).sort(), [...addresses].sort());
          assert.equal(statSync(path).ino, ino);
          scene.service.signal('SIGTERM');
          assert.equal(await scene.service.exit, 0);
          assert.equal(existsSync(path), false);
        },
        env,
      ),
    );
  }
});

describe('a worker that is stopped (SIGSTOP) when its dispatcher is killed and started again', () => {
  it(
    'makes no client wait, is not started a second time, and returns when it continues',
    withScene(
      () => ['--workers', '2', app('process.js')],
      async (scene) => {
        const [stopped = 0, other = 0] = await scene.workers(2);
        const [address = ''] = await scene.addresses();
        process.kill(stopped, 'SIGSTOP');
        await untilStopped(stopped);
        await scene.kill();
        scene.startAgain();
        assert.deepEqual(await scene.workers(1), [other]);
        assert.match(await text(await arrive(target(address))), new RegExp(`process ${other}\n`));
        process.kill(stopped, 'SIGCONT');
        assert.deepEqual(await scene.workers(2), [stopped, other]);
        const starts = scene.service.errorLines.filter((line) => line.includes('"process started"'));
        assert.deepEqual(starts, []);
      },
    ),
  );
});
