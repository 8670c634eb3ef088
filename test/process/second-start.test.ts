// A second start at the path of a service: it never touches what a living dispatcher has, and forgets nobody of a dead one.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { isAlive, untilStopped } from '../support/processes.js';
import { withPrograms, type Program } from '../support/program.js';
import { withoutWill } from '../support/will.js';

/** Of the workers, each by a process of its own. */
const MOST_LOOKS = 100;

const leftWill = fileURLToPath(new URL('fixtures/left-will.js', import.meta.url));

/** A service at one Unix socket, whose workers outlive it. */
interface Scene {
  readonly control: string;
  start(words?: readonly string[]): Program;
  /** Processes of the workers that are ready, in the order of their slots, when there are so many and no others. */
  workers(count: number): Promise<number[]>;
  /** Asks the service's own address. */
  ask(): Promise<string>;
}

function withScene(count: number, body: (scene: Scene) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const [control, web] = [`${directory.path}/control`, `${directory.path}/web`];
    const flags = ['--workers', String(count), '--orphan-timeout', '60000', '--control', control];
    const started: number[] = [];
    try {
      await body({
        control,
        start: (words = [app('process.js')]) =>
          start(...passfd('run', ...flags, '--listen', `unix:${web}`, ...words)),
        workers: async (wanted) => {
          let seen = 'none';
          for (let tries = 0; tries < MOST_LOOKS; tries++) {
            const workers = (await statusOf(control).catch(() => undefined))?.workers ?? [];
            started.push(...workers.map(({ pid }) => pid));
            seen = workers.map(({ pid, state }) => `${pid} ${state}`).join(', ');
            if (workers.length !== wanted || workers.some(({ state }) => state !== 'ready')) continue;
            return workers.map(({ pid }) => pid);
          }
          throw new Error(`There are never ${wanted} workers, all ready, but: ${seen}`);
        },
        ask: async () => {
          const socket = connect(web);
          socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
          return text(socket);
        },
      });
    } finally {
      // They would wait for the next dispatcher, and hold the output of their programs.
      for (const pid of started) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
    }
  }, 120_000);
}

async function killed(service: Program): Promise<void> {
  service.signal('SIGKILL');
  assert.equal(await service.ended, 'SIGKILL');
}

async function stopped(service: Program): Promise<void> {
  service.signal('SIGTERM');
  assert.equal(await service.exit, 0);
}

function startsOf({ errorLines }: Program): string[] {
  return errorLines.filter((line) => line.includes('"process started"'));
}

describe('a second start', () => {
  it(
    'beside a living dispatcher whose socket file is gone, ends and says who lives, and its workers serve on',
    withScene(1, async (scene) => {
      const service = scene.start();
      const [worker] = await scene.workers(1);
      rmSync(scene.control);
      const second = scene.start();
      assert.equal(await second.ended, 1);
      await second.errorLine(new RegExp(`is alive, process ${service.pid}`));
      assert.match(await scene.ask(), new RegExp(`process ${worker}\n`));
      // The living one has made the file anew.
      assert.deepEqual(await scene.workers(1), [worker]);
      await stopped(service);
    }),
  );

  it(
    'of another command behind a killed dispatcher, ends and says whose the workers are, which the first one takes back',
    withScene(1, async (scene) => {
      await killed(await ready(scene, 1));
      const other = scene.start([app('http.js')]);
      assert.equal(await other.ended, 1);
      await other.errorLine(/another service wait.*process\.js \(in .*\), processes \d+/);
      const again = scene.start();
      await scene.workers(1);
      assert.deepEqual(startsOf(again), []);
      await stopped(again);
    }),
  );
});

describe('a dispatcher that is killed again while it waits for a worker of the first one', () => {
  it(
    'forgets none: the third one has all of them, and starts none',
    withScene(2, async (scene) => {
      const first = scene.start();
      const [one = 0, two = 0] = await scene.workers(2);
      process.kill(two, 'SIGSTOP');
      await untilStopped(two);
      await killed(first);
      const second = scene.start();
      assert.deepEqual(await scene.workers(1), [one]);
      await killed(second);
      process.kill(two, 'SIGCONT');
      const third = scene.start();
      assert.deepEqual(await scene.workers(2), [one, two]);
      assert.deepEqual(startsOf(third), []);
      await stopped(third);
    }),
  );
});

describe('a start where only a stopped passfd-will has the journal, as on Linux before 5.9', () => {
  it(
    'continues that process, and begins',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const will = start(process.execPath, [leftWill, control]);
      await will.line(/^ready/);
      await untilStopped(will.pid);
      const service = start(...passfd('serve', '--control', control, '--listen', '127.0.0.1:0'));
      await service.errorLine(/"listening"/);
      assert.equal(await will.exit, 0);
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
    }),
  );
});

describe('a dispatcher that is killed while its passfd-will is stopped', { skip: withoutWill() }, () => {
  it(
    'can be replaced, and its workers come back',
    withScene(1, async (scene) => {
      const service = scene.start();
      const [worker] = await scene.workers(1);
      const [will = 0] = willsOf(service.pid);
      process.kill(will, 'SIGSTOP');
      await untilStopped(will);
      await killed(service);
      const next = scene.start();
      assert.deepEqual(await scene.workers(1), [worker]);
      assert.match(await scene.ask(), new RegExp(`process ${worker}\n`));
      assert.deepEqual(startsOf(next), []);
      await stopped(next);
    }),
  );
});

/** A service whose workers are ready. */
async function ready(scene: Scene, count: number): Promise<Program> {
  const service = scene.start();
  await scene.workers(count);
  return service;
}

function willsOf(pid: number): number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').trim().split(' '),
  );
  return children
    .map(Number)
    .filter((child) => child > 0 && readFileSync(`/proc/${child}/comm`, 'utf8').trim() === 'passfd-will');
}
