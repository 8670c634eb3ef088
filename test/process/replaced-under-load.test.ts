// Every part of a service is replaced again and again while clients keep it busy, and none of them notices.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { ACCEPT_MODES } from '../support/accept-modes.js';
import { STUCK_AFTER_MS } from '../support/deadline.js';
import { assertUnnoticed, underLoad, WORKERS } from '../support/loaded-service.js';
import { passfdMain, statusOf } from '../support/passfd.js';

/** How often each part is replaced: `PASSFD_ROUNDS=50 node build/test/run.js replaced-under-load`. */
const ROUNDS = Number(process.env['PASSFD_ROUNDS'] ?? 5);

/** For one round, on a machine that has better things to do. */
const DEADLINE_MS = STUCK_AFTER_MS + 20_000 * ROUNDS;

for (const accept of ACCEPT_MODES) {
  describe(`under load, ${ROUNDS} times, ${accept}:`, () => {
    it(
      'workers are replaced one by one, and no client notices',
      underLoad(
        passfdMain,
        DEADLINE_MS,
        async (scene) => {
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
          assertUnnoticed(outcome, 100 * ROUNDS);
        },
        accept,
      ),
    );

    it(
      'the dispatcher is taken over, and no client and no worker notices',
      underLoad(
        passfdMain,
        DEADLINE_MS,
        async (scene) => {
          const workers = await scene.untilReady();
          const socket = await scene.socketOf(scene.service.pid);
          for (let round = 0; round < ROUNDS; round++) await scene.command('takeover');
          const { generation, pid } = await statusOf(scene.control);
          assert.equal(generation, 1 + ROUNDS);
          assert.equal(await scene.socketOf(pid), socket);
          assert.deepEqual(await scene.untilReady(), workers);
          const outcome = await scene.end();
          assert.equal(outcome.processes, WORKERS);
          assertUnnoticed(outcome, 100 * ROUNDS);
        },
        accept,
      ),
    );

    it(
      'the dispatcher is killed and started again, and no client and no worker notices more than a pause',
      underLoad(
        passfdMain,
        DEADLINE_MS,
        async (scene) => {
          const workers = await scene.untilReady();
          const socket = await scene.socketOf(scene.service.pid);
          for (let round = 0; round < ROUNDS; round++) {
            scene.service.signal('SIGKILL');
            // Workers that accept by themselves go on. Otherwise somebody waits for the next dispatcher.
            if (accept === 'direct') await scene.isAnswered();
            else await scene.waitInBacklog();
            scene.startService();
            assert.deepEqual(await scene.untilReady(), workers, scene.service.errorLines.join('\n'));
          }
          assert.equal(await scene.socketOf(scene.service.pid), socket);
          const outcome = await scene.end();
          assert.equal(outcome.processes, WORKERS);
          assertUnnoticed(outcome, 100 * ROUNDS);
        },
        accept,
      ),
    );
  });
}
