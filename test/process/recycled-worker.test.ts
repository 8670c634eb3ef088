// A worker that has served and exits with code 0 by itself: it is replaced, and the service goes on.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { untilEnded } from '../support/processes.js';
import { withPrograms, type Program, type Start } from '../support/program.js';

/** Several processes start one after the other, maybe on a busy machine. */
const DEADLINE_MS = 300_000;

class Scene {
  readonly #start: Start;
  readonly #flags: readonly string[];
  readonly control: string;
  readonly count: number;
  service: Program;
  #port = '';

  constructor(start: Start, directory: string, count: number) {
    this.#start = start;
    this.control = `${directory}/control`;
    this.count = count;
    this.#flags = [
      ...['--workers', String(count), '--control', this.control, '--listen', '127.0.0.1:0'],
      ...['--orphan-timeout', '60000'],
    ];
    this.service = this.startService();
  }

  startService(): Program {
    this.service = this.#start(...passfd('run', ...this.#flags, app('recycles.js')));
    return this.service;
  }

  async begin(): Promise<void> {
    [, this.#port = ''] = await this.service.line(/^listening (\d+)$/);
    await this.workers();
  }

  command(...words: readonly [string, ...string[]]): Program {
    return this.#start(...passfd(...words, '--control', this.control));
  }

  /** The process of each worker, in the order of the ids, once all are ready. */
  async workers(count = this.count): Promise<number[]> {
    for (;;) {
      const status = await statusOf(this.control).catch(() => undefined);
      const ready = status?.workers.filter(({ state }) => state === 'ready') ?? [];
      if (ready.length !== count || status?.workers.length !== count) continue;
      return [...ready].sort((a, b) => a.id - b.id).map(({ pid }) => pid);
    }
  }

  /** @returns the process that answered. A refused client fails the test */
  async ask(path = '/'): Promise<number> {
    const response = await fetch(`http://127.0.0.1:${this.#port}${path}`);
    return Number.parseInt(await response.text());
  }
}

function withScene(count: number, body: (scene: Scene) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const scene = new Scene(start, directory.path, count);
    await scene.begin();
    await body(scene);
    scene.service.signal('SIGTERM');
    assert.equal(await scene.service.exit, 0);
  }, DEADLINE_MS);
}

/** A process that was drained by `passfd drain` exits by itself when no signal comes for 5 s. */
function endDrained(pid: number): void {
  try {
    process.kill(pid, 'SIGTERM');
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ESRCH');
  }
}

describe('a worker that has served and exits with code 0', () => {
  it(
    'after a SIGTERM from outside is replaced, and a restart replaces all workers',
    withScene(2, async (scene) => {
      const [first = 0, second = 0] = await scene.workers();
      process.kill(first, 'SIGTERM');
      await untilEnded(first);
      const [replaced = 0, kept] = await scene.workers();
      assert.notEqual(replaced, first);
      assert.equal(kept, second);
      const restart = scene.command('restart');
      assert.equal(await restart.exit, 0);
      const after = await scene.workers();
      assert.ok(after.every((pid) => pid !== replaced && pid !== second));
    }),
  );

  it(
    'to recycle itself is replaced each time, and no client is refused',
    withScene(1, async (scene) => {
      const pids = new Set<number>();
      for (let turn = 0; turn < 3; turn++) {
        const pid = await scene.ask('/recycle');
        pids.add(pid);
        assert.notEqual(await scene.ask(), pid);
      }
      assert.equal(pids.size, 3);
    }),
  );

  it(
    'after a takeover is replaced too, although its exit code is unknown',
    withScene(2, async (scene) => {
      const [first = 0, second = 0] = await scene.workers();
      assert.equal(await scene.command('takeover').exit, 0);
      process.kill(first, 'SIGTERM');
      await untilEnded(first);
      const [replaced, kept] = await scene.workers();
      assert.notEqual(replaced, first);
      assert.equal(kept, second);
    }),
  );

  it(
    'while its dispatcher is dead is replaced at the next start',
    withScene(2, async (scene) => {
      const [first = 0, second = 0] = await scene.workers();
      scene.service.kill();
      await scene.service.ended;
      process.kill(first, 'SIGTERM');
      await untilEnded(first);
      scene.startService();
      const [replaced, kept] = await scene.workers();
      assert.notEqual(replaced, first);
      assert.equal(kept, second);
    }),
  );
});

describe('a worker that is drained by `passfd drain`', () => {
  it(
    'is not replaced when it exits, although it was the only one, until a restart',
    withScene(1, async (scene) => {
      const [pid = 0] = await scene.workers();
      assert.equal(await scene.command('drain', '1').exit, 0);
      endDrained(pid);
      await untilEnded(pid);
      await scene.service.errorLine(/drained by hand; passfd restart starts another one/);
      const answered = scene.ask();
      const restart = scene.command('restart');
      assert.equal(await restart.exit, 0);
      await restart.line(/^worker 1 is process \d+ now$/);
      assert.deepEqual([await answered], await scene.workers());
    }),
  );

  it(
    'is not replaced when a takeover comes before its exit',
    withScene(2, async (scene) => {
      const [pid = 0, other] = await scene.workers();
      assert.equal(await scene.command('drain', '1').exit, 0);
      assert.equal(await scene.command('takeover').exit, 0);
      endDrained(pid);
      await scene.service.errorLine(/drained by hand; passfd restart starts another one/);
      assert.deepEqual(await scene.workers(1), [other]);
    }),
  );
});

describe('a worker that exits with code 0 and never listened', () => {
  it(
    'is finished, and the service exits with code 0 when all are',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const flags = ['--workers', '2', '--control', `${directory.path}/control`];
      const service = start(...passfd('run', ...flags, app('job.js')));
      assert.equal(await service.exit, 0);
      assert.deepEqual(service.lines.sort(), ['done 1', 'done 2']);
    }),
  );

  it(
    'is finished while another worker serves, and a restart starts it once more',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const flags = ['--workers', '2', '--control', control];
      const service = start(...passfd('run', ...flags, app('job.js'), 'serve'));
      await service.line(/^listening/);
      await service.errorLine(/"child":2.*it has finished/);
      const restart = start(...passfd('restart', '--control', control));
      assert.equal(await restart.exit, 0);
      assert.deepEqual(
        service.lines.filter((line) => line.startsWith('done')),
        ['done 2', 'done 2'],
      );
      assert.match(restart.lines.join('\n'), /^worker 1 is process \d+ now\nrestarted$/);
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
    }),
  );
});
