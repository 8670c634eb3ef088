// Law 1: every connection is answered once, or was taken by a worker that was killed, whatever moment a kill picks.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { describe, it } from 'node:test';

import { ACCEPT_MODES } from '../support/accept-modes.js';
import { Crowd } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';
import { assertExactlyOnce } from '../support/records.js';

/** How long workers are killed and stopped at random, and how often at least, however slow the machine is. */
const STORM_MS = 45_000;
const MIN_KILLS = 10;

/**
 * Three windows of clients at a time: a stopped worker keeps what it had adopted last, a window at most, and one that is
 * in flight to it, and others must go on.
 */
const CLIENTS = 3 * 128;

describe('workers that are killed and stopped at random moments, under full load', () => {
  for (const accept of ACCEPT_MODES) {
    it(
      `lose nothing but what they had taken, and serve nothing twice: ${accept}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const records = `${directory.path}/records`;
        await mkdir(records);
        const program = start(
          ...passfd(
            'run',
            '--accept',
            accept,
            '--workers',
            '4',
            '--control',
            control,
            app('numbers.js'),
            records,
          ),
        );
        const [, port] = await program.line(/^listening (\d+)$/);
        using crowd = new Crowd({ port: Number(port), concurrency: CLIENTS });
        let kills = 0;
        for (const end = performance.now() + STORM_MS; performance.now() < end || kills < MIN_KILLS;) {
          await crowd.untilMore(1 + Math.floor(Math.random() * 1000));
          const ready = (await statusOf(control)).workers.filter(({ state }) => state === 'ready');
          const victim = ready[Math.floor(Math.random() * ready.length)];
          // One has to be left, or nobody would tell when to go on.
          if (!victim || ready.length < 2) continue;
          if (Math.random() < 0.5) {
            process.kill(victim.pid, 'SIGSTOP');
            await crowd.untilMore(1 + Math.floor(Math.random() * 1000));
            if (Math.random() < 0.5) process.kill(victim.pid, 'SIGCONT');
          }
          process.kill(victim.pid, 'SIGKILL');
          kills++;
        }
        const outcome = await crowd.stop();
        // A worker counts a connection after it has accepted it.
        const uncounted = accept === 'direct' ? kills : 0;
        assertExactlyOnce(outcome, await statusOf(control), records, uncounted);
        console.log(
          `${outcome.answered} answered, ${outcome.lost.length} lost with ${kills} workers that had taken them`,
        );
        program.signal('SIGTERM');
        assert.equal(await program.exit, 0);
      }),
    );
  }
});
