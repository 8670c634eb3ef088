// Whatever goes wrong in a takeover, at any step: no client sees any of it, and nothing is left over.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { once } from 'node:events';
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { backlogOf } from '../support/dispatcher-stage.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { untilEnded, untilStopped } from '../support/processes.js';
import { withPrograms, type Program, type Start } from '../support/program.js';

const preload = fileURLToPath(new URL('./fixtures/at-step.js', import.meta.url));

/** Where a process that hangs is to be given up; still long enough for every process that starts. */
const READY_TIMEOUT_MS = 15_000;

/** Fewer than the app's backlog. */
const CROWD = 200;

const ask = (path: string, connection: string): string =>
  `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: ${connection}\r\n\r\n`;

interface SceneOptions {
  /** Who meets with what at which step. */
  readonly accident?: string;
  readonly flags?: readonly string[];
}

class Scene {
  readonly #start: Start;
  readonly #words: readonly string[];
  readonly #env: NodeJS.ProcessEnv;
  readonly control: string;
  service: Program;
  port = 0;
  #idle: Socket | undefined;
  #slow: Promise<string> | undefined;

  constructor(start: Start, directory: string, { accident = '', flags = [] }: SceneOptions) {
    this.#start = start;
    this.control = `${directory}/control`;
    this.#words = [
      ...['run', '--workers', '1', '--orphan-timeout', '60000', '--ready-timeout', '600000'],
      ...['--control', this.control, ...flags, app('slow.js')],
    ];
    this.#env = {
      NODE_OPTIONS: `--import ${preload}`,
      PASSFD_TEST_ACCIDENT: accident,
      PASSFD_TEST_ONCE: `${directory}/once`,
    };
    this.service = this.startService();
  }

  startService(): Program {
    this.service = this.#start(...passfd(...this.#words), { env: this.#env, ownGroup: true });
    return this.service;
  }

  /** One client is idle on a connection of the worker's, and one waits for an answer that has begun. */
  async begin(): Promise<void> {
    const [, port] = await this.service.line(/listening (\d+)$/);
    this.port = Number(port);
    this.#idle = await this.client(ask('/', 'keep-alive'));
    await once(this.#idle, 'data');
    const slow = await this.client(ask('/slow', 'close'));
    await once(slow, 'data');
    this.#slow = text(slow);
  }

  /** Both are served to the end by the worker that they had, and so are some that come now. */
  async end(): Promise<void> {
    const newcomers = await Promise.all(
      Array.from({ length: 20 }, async () => text(await this.client(ask('/now', 'close')))),
    );
    for (const answer of newcomers) assert.match(answer, /^HTTP\/1\.1 200 .*process \d+/s);
    assert.match((await this.#slow) ?? '', /slow/);
    const idle = this.#idle;
    assert.ok(idle);
    idle.write(ask('/', 'close'));
    assert.match(await text(idle), /^HTTP\/1\.1 200 /);
  }

  takeover(): Program {
    return this.#start(...passfd('takeover', '--control', this.control));
  }

  restart(): Program {
    return this.#start(...passfd('restart', '--control', this.control));
  }

  async worker(): Promise<number> {
    for (;;) {
      const status = await statusOf(this.control).catch(() => undefined);
      const ready = status?.workers.filter(({ state }) => state === 'ready') ?? [];
      if (ready[0] && ready.length === 1) return ready[0].pid;
    }
  }

  async client(request: string): Promise<Socket> {
    const socket = connect(this.port, '127.0.0.1');
    await once(socket, 'connect');
    socket.write(request);
    return socket;
  }
}

function withScene(
  options: SceneOptions,
  body: (scene: Scene, directory: string) => Promise<void>,
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const scene = new Scene(start, directory.path, options);
    await scene.begin();
    await body(scene, directory.path);
    scene.service.signal('SIGTERM');
    assert.equal(await scene.service.exit, 0);
  });
}

/** The reasons of the takeovers that a service has logged as failed. */
function loggedFailures({ errorLines }: Program): string[] {
  return errorLines
    .filter((line) => line.includes('"takeover failed"'))
    .map((line) => (JSON.parse(line) as { reason: string }).reason);
}

/** The process that was to be the next generation, when it has ended. */
async function successorOf(command: Program): Promise<number> {
  const [, pid] = await command.line(/^the new generation is process (\d+)$/);
  return Number(pid);
}

describe('a takeover whose new process', () => {
  const accidents = [
    ['exit loaded', /exited before it was ready/],
    ['hang loaded', /was not ready within 15000 ms/],
    ['kill hello-said', /ended/],
    ['exit taken-over', /ended/],
    ['hang taken-over', /did not answer within/],
    ['kill ready-said', /ended/],
    ['starve hello-said', /reached its limit/],
  ] as const;
  for (const [accident, reason] of accidents) {
    const flags = accident === 'hang loaded' ? ['--ready-timeout', String(READY_TIMEOUT_MS)] : [];
    it(
      `meets with an accident (${accident}) leaves the old one serving, and it says and logs why`,
      withScene({ accident: `new ${accident}`, flags }, async (scene) => {
        const worker = await scene.worker();
        const failing = scene.takeover();
        assert.equal(await failing.exit, 1);
        assert.match(await failing.stderr, reason);
        await untilEnded(await successorOf(failing));
        const { generation, pid } = await statusOf(scene.control);
        assert.deepEqual([generation, pid], [1, scene.service.pid]);
        assert.equal(await scene.worker(), worker);
        await scene.end();
        // And the next one goes well.
        assert.equal(await scene.takeover().exit, 0);
        // The log is in order: no failure is logged after this line.
        await scene.service.errorLine(/"handed over"/);
        const [logged = '', ...others] = loggedFailures(scene.service);
        assert.match(logged, reason);
        assert.deepEqual(others, []);
      }),
    );
  }

  it(
    'finds its configuration wrong leaves the old one serving, which logs each failure once',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const key = `${directory.path}/key`;
      writeFileSync(key, 'secret', { mode: 0o600 });
      const env = { PASSFD_AUTHKEY: 'secret' };
      const control = `${directory.path}/control`;
      const words = ['run', '--workers', '1', '--authkey-file', key, '--control', control, app('slow.js')];
      const service = start(...passfd(...words));
      await service.line(/^listening/);
      rmSync(key);
      const failing = start(...passfd('takeover', '--control', control), { env });
      assert.equal(await failing.exit, 1);
      assert.match(await failing.stderr, /exited before it was ready; its output says why/);
      await service.errorLine(/Cannot read the key/);
      assert.equal((await statusOf(control, env)).pid, service.pid);
      service.signal('SIGUSR2');
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
      assert.equal(loggedFailures(service).length, 2);
    }),
  );

  it(
    'dies when it has taken over costs what a killed dispatcher does: a start',
    withScene({ accident: 'new kill started' }, async (scene) => {
      const worker = await scene.worker();
      const successor = scene.takeover();
      await successor.exit;
      await untilEnded(await successorOf(successor));
      // The process that was started stands for the service, and ends with its last generation.
      assert.equal(await scene.service.ended, 128 + 9);
      scene.startService();
      assert.equal(await scene.worker(), worker);
      await scene.end();
    }),
  );
});

describe('a takeover whose old process is killed', () => {
  for (const step of ['successor-started', 'frozen', 'handed-over', 'go-sent']) {
    it(
      `at the step ${step} ends the new one too, and the next start goes on`,
      withScene({ accident: `old kill ${step}` }, async (scene) => {
        const worker = await scene.worker();
        const command = scene.takeover();
        assert.equal(await command.exit, 1);
        assert.equal(await scene.service.ended, 'SIGKILL');
        const successor = await successorOf(command);
        await untilEnded(successor);
        scene.startService();
        assert.equal(await scene.worker(), worker);
        await scene.end();
      }),
    );
  }
});

describe('a takeover whose old process has no descriptor left', () => {
  it(
    'fails and says why, and the old process goes on when it has some again, and looks after its workers',
    withScene({ accident: 'old starve successor-started', flags: ['--prefix-output'] }, async (scene) => {
      const worker = await scene.worker();
      const failing = scene.takeover();
      assert.equal(await failing.exit, 1);
      assert.match(await failing.stderr, /EMFILE; raise the limit/);
      await untilEnded(await successorOf(failing));
      execFileSync('prlimit', ['--pid', String(scene.service.pid), '--nofile=1024:']);
      assert.equal(await scene.worker(), worker);
      await scene.end();
      assert.equal(await scene.restart().exit, 0);
      assert.equal(await scene.takeover().exit, 0);
    }),
  );
});

describe('a takeover from the second generation to the third', () => {
  it(
    'counts when the second is killed behind its last word, before the first process knows',
    withScene({ accident: 'new stop go-sent' }, async (scene) => {
      const worker = await scene.worker();
      assert.equal(await scene.takeover().exit, 0);
      const second = (await statusOf(scene.control)).pid;
      const command = scene.takeover();
      await scene.service.errorLine(/"generation":3.*took over/);
      process.kill(second, 'SIGKILL');
      assert.equal(await command.exit, 1);
      assert.equal(await scene.worker(), worker);
      assert.equal((await statusOf(scene.control)).generation, 3);
      await scene.end();
    }),
  );

  it(
    'loses no signal: a stop right behind it ends the third',
    withScene({}, async (scene) => {
      await scene.worker();
      assert.equal(await scene.takeover().exit, 0);
      await scene.end();
      const third = await successorOf(scene.takeover());
      await scene.service.errorLine(/"generation":3.*took over/);
      scene.service.signal('SIGTERM');
      assert.equal(await scene.service.exit, 0);
      await untilEnded(third);
    }),
  );
});

describe('a takeover that fails again and again', () => {
  it(
    'leaves no descriptor open, in the first generation or behind it',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const key = `${directory.path}/key`;
      const env = { PASSFD_AUTHKEY: 'secret' };
      const control = `${directory.path}/control`;
      const words = ['run', '--workers', '1', '--authkey-file', key, '--control', control, app('slow.js')];
      writeFileSync(key, 'secret', { mode: 0o600 });
      const service = start(...passfd(...words));
      await service.line(/^listening/);
      const takeover = async (): Promise<number | string> =>
        start(...passfd('takeover', '--control', control), { env }).exit;
      const open = (): number => readdirSync(`/proc/${service.pid}/fd`).length;
      const failTwice = async (): Promise<void> => {
        rmSync(key);
        assert.equal(await takeover(), 1);
        const before = open();
        assert.equal(await takeover(), 1);
        assert.equal(await takeover(), 1);
        // The connection of a command that has ended may be closed a little later.
        while (open() > before) await setImmediate();
        writeFileSync(key, 'secret', { mode: 0o600 });
      };
      await failTwice();
      assert.equal(await takeover(), 0);
      await failTwice();
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
    }),
  );
});

describe('clients who come in the middle of a takeover', () => {
  it(
    'wait in the kernel, and are answered, every one of them, though the takeover takes long',
    withScene({ accident: 'old stop frozen' }, async (scene) => {
      const command = scene.takeover();
      await successorOf(command);
      await untilStopped(scene.service.pid);
      const clients = await Promise.all(Array.from({ length: CROWD }, () => scene.client(ask('/', 'close'))));
      assert.equal(backlogOf({ host: '127.0.0.1', port: scene.port }), CROWD);
      const answers = Promise.all(clients.map((client) => text(client)));
      scene.service.signal('SIGCONT');
      assert.equal(await command.exit, 0, await command.stderr);
      const worker = await scene.worker();
      assert.equal((await answers).filter((answer) => answer.endsWith(`process ${worker}`)).length, CROWD);
      assert.equal((await statusOf(scene.control)).generation, 2);
      await scene.end();
    }),
  );
});

describe('a service that has been taken over', () => {
  it(
    'ends as a whole by the Ctrl-C of a terminal, which reaches the first process alone',
    withScene({}, async (scene) => {
      const worker = await scene.worker();
      const command = scene.takeover();
      const successor = await successorOf(command);
      assert.equal(await command.exit, 0);
      await scene.end();
      scene.service.signalGroup('SIGINT');
      assert.equal(await scene.service.exit, 0);
      await untilEnded(successor);
      await untilEnded(worker);
    }),
  );

  it(
    'ends when its first process is killed, and goes on with the same workers at the next start',
    withScene({}, async (scene) => {
      const worker = await scene.worker();
      const command = scene.takeover();
      const successor = await successorOf(command);
      assert.equal(await command.exit, 0);
      assert.equal((await statusOf(scene.control)).pid, successor);
      scene.service.signal('SIGKILL');
      assert.equal(await scene.service.ended, 'SIGKILL');
      await untilEnded(successor);
      scene.startService();
      assert.equal(await scene.worker(), worker);
      assert.equal((await statusOf(scene.control)).pid, scene.service.pid);
      await scene.end();
    }),
  );
});

describe('two that want to change a service at a time', () => {
  it(
    'of a takeover and a restart that is asked for meanwhile, the restart follows in the next generation',
    withScene({ accident: 'new stop loaded' }, async (scene) => {
      const worker = await scene.worker();
      const takeover = scene.takeover();
      const successor = await successorOf(takeover);
      await untilStopped(successor);
      const restart = scene.restart();
      await restart.line(/this restart follows/);
      assert.equal(await scene.worker(), worker);
      process.kill(successor, 'SIGCONT');
      assert.equal(await takeover.exit, 0);
      assert.equal(await restart.exit, 0);
      assert.notEqual(await scene.worker(), worker);
    }),
  );

  it(
    'of two takeovers one is refused',
    withScene({ accident: 'new stop loaded' }, async (scene) => {
      const first = scene.takeover();
      const successor = await successorOf(first);
      await untilStopped(successor);
      const second = scene.takeover();
      assert.equal(await second.exit, 1);
      assert.match(await second.stderr, /Another takeover is running/);
      process.kill(successor, 'SIGCONT');
      assert.equal(await first.exit, 0);
      await scene.end();
    }),
  );

  it(
    'a stop does not wait for a new generation that is not ready',
    withScene({ accident: 'new hang loaded' }, async (scene) => {
      const command = scene.takeover();
      const successor = await successorOf(command);
      await scene.end();
      scene.service.signal('SIGTERM');
      assert.equal(await command.exit, 1);
      assert.match(await command.stderr, /is stopping/);
      assert.equal(await scene.service.exit, 0);
      await untilEnded(successor);
    }),
  );

  it(
    'a stop waits for the takeover, and ends whoever has everything then',
    withScene({}, async (scene) => {
      const worker = await scene.worker();
      const command = scene.takeover();
      const successor = await successorOf(command);
      await scene.end();
      scene.service.signal('SIGTERM');
      assert.equal(await scene.service.exit, 0);
      await untilEnded(successor);
      await untilEnded(worker);
    }),
  );
});
