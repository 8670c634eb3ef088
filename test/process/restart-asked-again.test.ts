// Restarts that are asked for while one runs, or a takeover does: each is followed by one that begins afterwards.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { untilStopped } from '../support/processes.js';
import { withPrograms, type Program } from '../support/program.js';

const atStep = fileURLToPath(new URL('./fixtures/at-step.js', import.meta.url));

/** Several processes start one after the other, and the machine may be busy. */
const DEADLINE_MS = 300_000;

interface Scene {
  readonly service: Program;
  readonly control: string;
  /** What new processes do, and which release they are. */
  readonly set: (mood: string, release: string) => void;
  readonly command: (name: 'restart' | 'takeover') => Program;
  readonly ask: () => Promise<string>;
  readonly stop: () => void;
}

function withScene(body: (scene: Scene) => Promise<void>, accident = ''): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const [control, mood, variables] = ['control', 'mood', 'variables'].map(
      (name) => `${directory.path}/${name}`,
    );
    assert.ok(control !== undefined && mood !== undefined && variables !== undefined);
    const set = (text: string, release: string): void => {
      writeFileSync(mood, text);
      writeFileSync(variables, `RELEASE=${release}\nMOOD_FILE=${mood}\n`);
    };
    set('serve', 'one');
    const flags = [
      ...['--workers', '1', '--control', control, '--worker-env-file', variables],
      ...['--ready-timeout', '600000', '--orphan-timeout', '60000'],
    ];
    const service = start(...passfd('run', ...flags, app('moody.js')), {
      env: {
        NODE_OPTIONS: `--import ${atStep}`,
        PASSFD_TEST_ACCIDENT: accident,
        PASSFD_TEST_ONCE: `${directory.path}/once`,
      },
    });
    let isStopping = false;
    const stop = (): void => {
      if (!isStopping) service.signal('SIGTERM');
      isStopping = true;
    };
    const [, port = ''] = await service.line(/^listening (\d+)$/);
    await body({
      service,
      control,
      set,
      command: (name) => start(...passfd(name, '--control', control)),
      ask: async () =>
        (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })).text(),
      stop,
    });
    stop();
    assert.equal(await service.exit, 0);
  }, DEADLINE_MS);
}

/** The process of the new worker that hangs. */
async function hanging(service: Program): Promise<number> {
  const started = /"child":1,"pid":(\d+),.*"process started"/;
  for (;;) {
    const pids = service.errorLines.flatMap((line) => started.exec(line)?.[1] ?? []);
    if (pids.length > 1) return Number(pids.at(-1));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function count(service: Program, pattern: RegExp): number {
  return service.errorLines.filter((line) => pattern.test(line)).length;
}

const FOLLOWS = /restart requested while another restart runs/;

describe('a restart that is asked for during a restart', () => {
  it(
    'happens after it, once, also when the first one fails, and brings what is new by then',
    withScene(async ({ service, set, command, ask }) => {
      set('hang', 'two');
      const first = command('restart');
      const pid = await hanging(service);
      service.signal('SIGHUP');
      await service.errorLine(FOLLOWS);
      const others = [command('restart'), command('restart')];
      for (const other of others) await other.line(/^another restart runs; this restart follows$/);
      set('serve', 'three');
      process.kill(pid, 'SIGKILL');
      assert.equal(await first.exit, 1);
      assert.match(await first.stderr, /was killed by SIGKILL/);
      for (const other of others) {
        assert.equal(await other.exit, 0);
        assert.match(other.lines.join('\n'), /this restart follows\nworker 1 is process \d+ now\nrestarted$/);
      }
      assert.match(await ask(), /^\d+ three$/);
      assert.equal(count(service, /"restarting"/), 2);
      assert.equal(count(service, FOLLOWS), 3);
    }),
  );

  it(
    'is refused when the service is stopped before it can begin',
    withScene(async ({ service, set, command, stop }) => {
      set('hang', 'two');
      const first = command('restart');
      await hanging(service);
      const second = command('restart');
      await second.line(/this restart follows/);
      stop();
      assert.equal(await first.exit, 1);
      assert.equal(await second.exit, 1);
      assert.match(await second.stderr, /is stopping/);
    }),
  );
});

describe('a restart that is asked for during a takeover', () => {
  it(
    'by a signal and by a command, happens in the next generation',
    withScene(async ({ service, set, command, ask, control }) => {
      const takeover = command('takeover');
      const [, pid] = await takeover.line(/^the new generation is process (\d+)$/);
      await untilStopped(Number(pid));
      set('serve', 'two');
      service.signal('SIGHUP');
      await service.errorLine(/restart requested while a takeover runs/);
      const restart = command('restart');
      await restart.line(/^a takeover runs; this restart follows$/);
      process.kill(Number(pid), 'SIGCONT');
      assert.equal(await takeover.exit, 0);
      assert.equal(await restart.exit, 0);
      assert.match(await ask(), /^\d+ two$/);
      assert.equal((await statusOf(control)).generation, 2);
      assert.ok(count(service, /"restarting"/) >= 1);
    }, 'new stop loaded'),
  );

  it(
    'happens here when the takeover fails',
    withScene(async ({ service, set, command, ask, control }) => {
      const takeover = command('takeover');
      const [, pid] = await takeover.line(/^the new generation is process (\d+)$/);
      await untilStopped(Number(pid));
      set('serve', 'two');
      service.signal('SIGHUP');
      await service.errorLine(/restart requested while a takeover runs/);
      process.kill(Number(pid), 'SIGKILL');
      assert.equal(await takeover.exit, 1);
      await service.errorLine(/"restarted"/);
      assert.match(await ask(), /^\d+ two$/);
      assert.equal((await statusOf(control)).generation, 1);
    }, 'new stop loaded'),
  );
});
