// A process of another user at the control socket: let in only if it is named, and then for the work of a worker alone.
import assert from 'node:assert/strict';
import { chmodSync } from 'node:fs';
import { describe, it } from 'node:test';

import { encodeJson } from '../../src/handoff/index.js';
import { Child } from '../support/child.js';
import { onStage, type Stage } from '../support/dispatcher-stage.js';
import { temporaryDirectory } from '../support/files.js';
import { passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

/** By convention nobody's; the name does not matter. */
const OTHER_USER = 65_534;
const SOMEBODY_ELSE = 65_533;

const TRIES = 200;

/** A line or two for each reason and pause: nothing to the tries. */
const FEW = 10;

function trying(step: 'knock' | 'work' | 'ask for tickets', control: string): Child {
  return new Child('other-user', { args: [step, control, String(OTHER_USER)] });
}

/** The directory of a test is its user's own; that of a service for others is not. */
function openDirectory({ directory }: Stage): void {
  chmodSync(directory, 0o755);
}

const isRoot = process.getuid?.() === 0;

describe('a process of another user', { skip: isRoot ? false : 'only root can start one' }, () => {
  it(
    'is let in when it is named: it serves, and neither listens, keeps sockets nor gives commands',
    onStage({ control: { allowUids: [OTHER_USER] } }, async (stage) => {
      openDirectory(stage);
      await stage.address();
      await using child = trying('work', stage.control);
      assert.deepEqual(await child.next(), { user: OTHER_USER, listen: 'EACCES', stop: 'ERR_PEER_DENIED' });
      await stage.client();
      assert.equal(await child.next(), 'served');
      const [worker] = stage.dispatcher.workers;
      assert.deepEqual([worker?.pid, worker?.adopted], [child.pid, 1]);
      assert.deepEqual(stage.refusedPeers, []);
    }),
  );

  it(
    'serves without the secret of the ticket keys, which a worker of the own user gets for the same address',
    onStage({ control: { allowUids: [OTHER_USER] } }, async (stage) => {
      openDirectory(stage);
      await stage.address();
      const own = await stage.join();
      await own.say(encodeJson({ type: 'serve', request: 1, tickets: null }));
      assert.ok((await own.next('listening')).tickets);
      await using child = trying('ask for tickets', stage.control);
      assert.deepEqual(await child.next(), { listeners: 1, tickets: null });
    }),
  );

  it(
    'is refused each time when it is not named, and costs the others nothing',
    onStage({ control: { allowUids: [SOMEBODY_ELSE] } }, async (stage) => {
      openDirectory(stage);
      const worker = await stage.joinServing();
      await using child = trying('knock', stage.control);
      assert.equal(await child.next(), TRIES);
      await stage.until(() => stage.refusedPeers.length === TRIES);
      assert.deepEqual(new Set(stage.refusedPeers.map(({ code }) => code)), new Set(['ERR_PEER_DENIED']));
      assert.match(
        stage.refusedPeers[0]?.message ?? '',
        new RegExp(`Process ${child.pid} of user ${OTHER_USER}, group ${OTHER_USER}, may not connect`),
      );
      await stage.client();
      await worker.handoffs(1);
    }),
  );

  it(
    'does not fill the log of a service with its tries, which are all counted',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      chmodSync(directory.path, 0o755);
      const control = `${directory.path}/control`;
      const service = start(
        ...passfd(
          'serve',
          '--listen',
          '127.0.0.1:0',
          '--control',
          control,
          '--allow-uid',
          String(SOMEBODY_ELSE),
        ),
      );
      await service.errorLine(/"listening"/);
      await using child = trying('knock', control);
      assert.equal(await child.next(), TRIES);
      assert.equal((await statusOf(control)).peers.refused, TRIES);
      const refusals = service.errorLines.filter((line) => line.includes('peer refused'));
      assert.ok(refusals.length > 0 && refusals.length < FEW, String(refusals.length));
    }),
  );
});
