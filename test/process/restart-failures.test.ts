// A rolling restart: what takes effect by it, and what becomes of one whose new processes do not work.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Program } from '../support/program.js';

interface Scene {
  /** What the app does from its next start on. */
  setMood(mood: string): void;
  setRelease(release: string): void;
  restart(): Program;
  takeover(): Program;
  readonly service: Program;
  readonly control: string;
  /** Processes of the workers, when all are ready. */
  workers(): Promise<number[]>;
  ask(): Promise<string>;
  stop(): void;
}

function withScene(
  body: (scene: Scene) => Promise<void>,
  { readyTimeoutMs = 600_000 } = {},
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const [control, mood, variables] = ['control', 'mood', 'variables'].map(
      (name) => `${directory.path}/${name}`,
    );
    assert.ok(control !== undefined && mood !== undefined && variables !== undefined);
    const setRelease = (release: string): void => {
      writeFileSync(variables, `RELEASE=${release}\nMOOD_FILE=${mood}\n`);
    };
    writeFileSync(mood, 'serve');
    setRelease('one');
    const flags = [
      '--workers',
      '2',
      '--control',
      control,
      '--worker-env-file',
      variables,
      '--ready-timeout',
      String(readyTimeoutMs),
    ];
    const service = start(...passfd('run', ...flags, app('moody.js')));
    // A second signal would stop it at once.
    let isStopping = false;
    const stop = (): void => {
      if (!isStopping) service.signal('SIGTERM');
      isStopping = true;
    };
    const [, port = ''] = await service.line(/^listening (\d+)$/);
    await body({
      setRelease,
      setMood: (text) => {
        writeFileSync(mood, text);
      },
      restart: () => start(...passfd('restart', '--control', control)),
      takeover: () => start(...passfd('takeover', '--control', control)),
      service,
      control,
      workers: async () => {
        for (;;) {
          const { workers } = await statusOf(control);
          const ready = workers.filter(({ state }) => state === 'ready');
          if (ready.length === 2 && workers.length === 2) return ready.map(({ pid }) => pid);
        }
      },
      ask: async () =>
        (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })).text(),
      stop,
    });
    stop();
    assert.equal(await service.exit, 0);
  });
}

describe('a rolling restart', () => {
  it(
    'brings new code and a new environment into service, and tells of each worker',
    withScene(async (scene) => {
      const before = await scene.workers();
      assert.match(await scene.ask(), /^\d+ one$/);
      scene.setRelease('two');
      const restart = scene.restart();
      assert.equal(await restart.exit, 0);
      assert.deepEqual(restart.lines.map((line) => line.replace(/process \d+/, 'process P')).sort(), [
        'restarted',
        'worker 1 is process P now',
        'worker 2 is process P now',
      ]);
      const after = await scene.workers();
      assert.ok(before.every((pid) => !after.includes(pid)));
      assert.match(await scene.ask(), /^\d+ two$/);
    }),
  );

  const failures = [
    ['throws, and tells its last words', 'throw', /there is no database here/, {}],
    ['ends', 'exit', /code 3/, {}],
    ['does not listen in time', 'hang', /15000 ms|in time/, { readyTimeoutMs: 15_000 }],
  ] as const;
  for (const [what, mood, reason, options] of failures) {
    it(
      `whose new process ${what} fails, and leaves the old ones serving`,
      withScene(async (scene) => {
        const before = await scene.workers();
        scene.setMood(mood);
        const restart = scene.restart();
        assert.equal(await restart.exit, 1);
        assert.match(await restart.stderr, reason);
        assert.deepEqual(await scene.workers(), before);
        assert.match(await scene.ask(), /^\d+ one$/);
        // And when that is mended, it works.
        scene.setMood('serve');
        assert.equal(await scene.restart().exit, 0);
      }, options),
    );
  }

  it(
    'that a signal asks for is refused in the log, where there are no workers to restart',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const flags = ['--listen', `unix:${directory.path}/web`, '--control', `${directory.path}/control`];
      const service = start(...passfd('serve', ...flags));
      await service.errorLine(/"listening"/);
      service.signal('SIGHUP');
      await service.errorLine(/has started no workers.*restart failed/);
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
    }),
  );

  it(
    'lets no takeover begin',
    withScene(async (scene) => {
      scene.setMood('hang');
      const restart = scene.restart();
      await scene.service.errorLine(/"restarting"/);
      const takeover = scene.takeover();
      assert.equal(await takeover.exit, 1);
      assert.match(await takeover.stderr, /A restart is running/);
      const { generation, pid } = await statusOf(scene.control);
      assert.deepEqual([generation, pid], [1, scene.service.pid]);
      assert.match(await scene.ask(), /^\d+ one$/);
      scene.stop();
      assert.equal(await restart.exit, 1);
      assert.match(await restart.stderr, /were stopped during the restart/);
    }),
  );
});
