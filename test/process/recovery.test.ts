// The start behind a dispatcher that was killed: what happens while it takes the workers back, and when it fails.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

import { ACCEPT_MODES, type AcceptMode } from '../support/accept-modes.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf, stopAtOnce } from '../support/passfd.js';
import { isAlive, untilEnded } from '../support/processes.js';
import { withPrograms, type Program } from '../support/program.js';

/** A service at one Unix socket, with a worker that outlives it. */
interface Scene {
  /** Starts the dispatcher. Its worker waits for the next one when it is killed. */
  start(...flags: readonly string[]): Program;
  takeover(): Program;
  /** The one worker, when it is ready. */
  worker(): Promise<number>;
  ask(): Promise<string>;
}

function withScene(accept: AcceptMode, body: (scene: Scene) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const [control, web] = [`${directory.path}/control`, `${directory.path}/web`];
    const flags = ['--accept', accept, '--workers', '1', '--orphan-timeout', '60000', '--control', control];
    await body({
      start: (...more) =>
        start(...passfd('run', ...flags, '--listen', `unix:${web}`, ...more, app('http.js'))),
      takeover: () => start(...passfd('takeover', '--control', control)),
      worker: async () => {
        for (;;) {
          const status = await statusOf(control).catch(() => undefined);
          const [worker, ...others] = status?.workers ?? [];
          if (worker?.state === 'ready' && others.length === 0) return worker.pid;
        }
      },
      ask: async () => {
        const socket = connect(web);
        socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
        return text(socket);
      },
    });
  });
}

/** The process of a worker whose dispatcher was killed. */
async function workerOfKilled(scene: Scene): Promise<number> {
  const killed = scene.start();
  const worker = await scene.worker();
  killed.kill();
  await killed.ended;
  return worker;
}

for (const accept of ACCEPT_MODES) {
  describe(`a dispatcher, ${accept}, that waits for the workers of a killed one`, () => {
    it(
      'does not hand over before it listens, and serves when they are back',
      withScene(accept, async (scene) => {
        const worker = await workerOfKilled(scene);
        process.kill(worker, 'SIGSTOP');
        const next = scene.start();
        const command = await refusedTakeover(scene);
        assert.match(await command.stderr, /still starting/);
        process.kill(worker, 'SIGCONT');
        assert.equal(await scene.worker(), worker);
        assert.match(await scene.ask(), /^HTTP\/1\.1 200 /);
        assert.equal(await scene.takeover().exit, 0);
        assert.match(await scene.ask(), /^HTTP\/1\.1 200 /);
        next.signal('SIGTERM');
        assert.equal(await next.exit, 0);
      }),
    );

    it(
      'ends at once, with them, at a second signal',
      withScene(accept, async (scene) => {
        const worker = await workerOfKilled(scene);
        process.kill(worker, 'SIGSTOP');
        const next = scene.start();
        await refusedTakeover(scene); // so it waits
        assert.equal(await stopAtOnce(next), 1);
        await untilEnded(worker);
        assert.ok(!next.errorLines.some((line) => line.includes('"listening"')), 'it has waited for nobody');
      }),
    );

    it(
      'and fails to start, leaves the socket files of the killed one to the next start',
      withScene(accept, async (scene) => {
        const worker = await workerOfKilled(scene);
        const other = createServer().listen(0, '127.0.0.1');
        await once(other, 'listening');
        const { port } = other.address() as AddressInfo;
        const failing = scene.start('--listen', `127.0.0.1:${port}`);
        assert.equal(await failing.ended, 1);
        other.close();
        const next = scene.start();
        assert.equal(await scene.worker(), worker);
        assert.match(await scene.ask(), /^HTTP\/1\.1 200 /);
        next.signal('SIGTERM');
        assert.equal(await next.exit, 0);
      }),
    );
  });
}

for (const accept of ACCEPT_MODES) {
  describe(`a dispatcher, ${accept}, that is killed in the middle of a rolling restart`, () => {
    it(
      'leaves the new worker in its place, and the old one to finish what it has open',
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const flags = [
          '--accept',
          accept,
          '--workers',
          '1',
          '--orphan-timeout',
          '60000',
          '--control',
          control,
        ];
        const run = (): Program => start(...passfd('run', ...flags, app('slow.js')));
        const killed = run();
        const [, port] = await killed.line(/^listening (\d+)$/);
        const [old] = (await workersOf(control, ['ready'])).pids;
        assert.ok(old !== undefined);
        const client = connect(Number(port), '127.0.0.1');
        client.write('GET /slow HTTP/1.1\r\nHost: x\r\n\r\n');
        await once(client, 'data');
        killed.signal('SIGHUP');
        const before = await workersOf(control, ['draining', 'ready']);
        const fresh = before.pids.find((pid) => pid !== old);
        killed.kill();
        await killed.ended;
        const next = run();
        assert.deepEqual(await workersOf(control, ['ready']), { pids: [fresh] });
        // It has not been touched since: the supervisor looks after it for as long as it drains.
        assert.equal(isAlive(old), true);
        client.destroy();
        await untilEnded(old);
        assert.deepEqual(await workersOf(control, ['ready']), { pids: [fresh] });
        next.signal('SIGTERM');
        assert.equal(await next.exit, 0);
      }),
    );
  });
}

/** The workers when they are in these states, in whatever order. */
async function workersOf(
  control: string,
  states: readonly string[],
): Promise<{ readonly pids: (number | undefined)[] }> {
  for (;;) {
    const { workers } = await statusOf(control).catch(() => ({ workers: [] }));
    if (
      workers
        .map(({ state }) => state)
        .sort()
        .join() !== states.join()
    ) {
      continue;
    }
    return { pids: workers.map(({ pid }) => pid) };
  }
}

/** One that reached the dispatcher: before it has the control path, nobody is there. */
async function refusedTakeover(scene: Scene): Promise<Program> {
  for (;;) {
    const command = scene.takeover();
    assert.equal(await command.exit, 1);
    if (!(await command.stderr).includes('No dispatcher at')) return command;
  }
}
