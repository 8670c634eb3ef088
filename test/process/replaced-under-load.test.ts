// Every part of a service is replaced again and again while clients keep it busy, and none of them notices.
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { STUCK_AFTER_MS } from '../support/deadline.js';
import { temporaryDirectory } from '../support/files.js';
import { backlogOf } from '../support/dispatcher-stage.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Program, type Start } from '../support/program.js';

/** How often each part is replaced: `PASSFD_ROUNDS=50 node build/test/run.js replaced-under-load`. */
const ROUNDS = Number(process.env['PASSFD_ROUNDS'] ?? 5);

/** For one round, on a machine that has better things to do. */
const DEADLINE_MS = STUCK_AFTER_MS + 20_000 * ROUNDS;

const WORKERS = 2;

interface Outcome {
  readonly answered: number;
  readonly processes: number;
  readonly failures: Readonly<Record<string, number>>;
}

class Scene {
  readonly start: Start;
  readonly control: string;
  /** The process that was started last. */
  service: Program;
  port = 0;
  #load: Program | undefined;

  constructor(start: Start, control: string) {
    this.start = start;
    this.control = control;
    this.service = this.startService();
  }

  startService(): Program {
    const words = [
      'run',
      '--workers',
      String(WORKERS),
      '--orphan-timeout',
      '60000',
      '--control',
      this.control,
    ];
    this.service = this.start(...passfd(...words, app('process.js')));
    return this.service;
  }

  async begin(): Promise<void> {
    const [, port] = await this.service.line(/^listening (\d+)$/);
    this.port = Number(port);
    await this.untilReady();
    const load = fileURLToPath(new URL('./fixtures/http-load.js', import.meta.url));
    this.#load = this.start(process.execPath, [load, String(this.port)]);
    await this.#load.line(/^loading$/);
  }

  async end(): Promise<Outcome> {
    const load = this.#load;
    assert.ok(load);
    load.say('');
    const [outcome] = await load.line(/^\{.*\}$/);
    await load.exit;
    return JSON.parse(outcome) as Outcome;
  }

  async command(name: string): Promise<void> {
    const command = this.start(...passfd(name, '--control', this.control));
    assert.equal(await command.exit, 0, await command.stderr);
  }

  /** Processes of the workers, when all are ready. */
  async untilReady(): Promise<number[]> {
    for (;;) {
      const workers = await statusOf(this.control).then(
        (status) => status.workers.filter(({ state }) => state === 'ready'),
        () => [], // nobody is there yet
      );
      if (workers.length === WORKERS) return workers.map(({ pid }) => pid);
    }
  }

  /** The listening socket of a process: the one that is the same everywhere. */
  async socketOf(pid: number): Promise<string> {
    const sockets = this.start('ss', ['-Hltne']);
    await sockets.exit;
    const inodes = new Set(
      readdirSync(`/proc/${pid}/fd`).map((fd) => {
        try {
          return readlinkSync(`/proc/${pid}/fd/${fd}`);
        } catch {
          return '';
        }
      }),
    );
    const line = sockets.lines.find(
      (one) => one.includes(`:${this.port} `) && inodes.has(`socket:[${/ino:(\d+)/.exec(one)?.[1] ?? ''}]`),
    );
    assert.ok(line, `process ${pid} has the listening socket`);
    // The inode, and the cookie that no other socket of this machine ever has (SO_COOKIE).
    return [/ino:\d+/.exec(line)?.[0], /sk:\w+/.exec(line)?.[0]].join(' ');
  }
}

function underLoad(body: (scene: Scene) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const scene = new Scene(start, `${directory.path}/control`);
    await scene.begin();
    await body(scene);
    scene.service.signal('SIGTERM');
    assert.equal(await scene.service.exit, 0);
  }, DEADLINE_MS);
}

function assertUnnoticed({ answered, failures }: Outcome): void {
  assert.deepEqual(failures, {});
  assert.ok(answered > 100 * ROUNDS, `${answered} answers`);
  // For whoever wants the figure.
  console.log(`${answered} answered, none refused, reset or unanswered`);
}

describe(`under load, ${ROUNDS} times`, () => {
  it(
    'workers are replaced one by one, and no client notices',
    underLoad(async (scene) => {
      const socket = await scene.socketOf(scene.service.pid);
      for (let round = 0; round < ROUNDS; round++) {
        const before = await scene.untilReady();
        await scene.command('restart');
        const after = await scene.untilReady();
        assert.ok(
          before.every((pid) => !after.includes(pid)),
          'all are new',
        );
      }
      assert.equal(await scene.socketOf(scene.service.pid), socket);
      const outcome = await scene.end();
      assert.ok(outcome.processes > WORKERS);
      assertUnnoticed(outcome);
    }),
  );

  it(
    'the dispatcher is taken over, and no client and no worker notices',
    underLoad(async (scene) => {
      const workers = await scene.untilReady();
      const socket = await scene.socketOf(scene.service.pid);
      for (let round = 0; round < ROUNDS; round++) await scene.command('takeover');
      const { generation, pid } = await statusOf(scene.control);
      assert.equal(generation, 1 + ROUNDS);
      assert.equal(await scene.socketOf(pid), socket);
      assert.deepEqual(await scene.untilReady(), workers);
      const outcome = await scene.end();
      assert.equal(outcome.processes, WORKERS);
      assertUnnoticed(outcome);
    }),
  );

  it(
    'the dispatcher is killed and started again, and no client and no worker notices more than a pause',
    underLoad(async (scene) => {
      const workers = await scene.untilReady();
      const socket = await scene.socketOf(scene.service.pid);
      for (let round = 0; round < ROUNDS; round++) {
        scene.service.signal('SIGKILL');
        await waitsInBacklog(scene);
        scene.startService();
        assert.deepEqual(await scene.untilReady(), workers, scene.service.errorLines.join('\n'));
      }
      assert.equal(await scene.socketOf(scene.service.pid), socket);
      const outcome = await scene.end();
      assert.equal(outcome.processes, WORKERS);
      assertUnnoticed(outcome);
    }),
  );
});

/** Somebody who has come and whom nobody has accepted: the port that answers later is the same socket. */
async function waitsInBacklog({ port }: Scene): Promise<void> {
  const client = connect(port, '127.0.0.1');
  await once(client, 'connect');
  while (backlogOf({ host: '127.0.0.1', port }) === 0) await new Promise((resolve) => setImmediate(resolve));
  client.end('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  // Answered when there is a dispatcher again.
  text(client)
    .then((answer) => {
      assert.match(answer, /process \d+/);
    })
    .catch((error: unknown) => {
      setImmediate(() => {
        throw error;
      });
    });
}
