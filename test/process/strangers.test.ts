// A crowd that connects and says nothing: it makes room itself, and nobody else gives way to it.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { connect } from '../../src/fd/index.js';
import { Connection } from '../../src/multiprocessing/index.js';
import { authenticateToListener } from '../../src/multiprocessing/authentication.js';
import { Child } from '../support/child.js';
import { onStage, type Stage } from '../support/dispatcher-stage.js';
import { FakeWorker } from '../support/fake-worker.js';

/** More than there may be of those who have not said who they are. */
const MANY = 100;
const MAX_STRANGERS = 64;

/** A process that floods the control socket; it is there when as many were turned away as were too many. */
async function crowd(stage: Stage): Promise<Child> {
  const child = new Child('crowd', { args: [stage.control, String(MANY)] });
  assert.equal(await child.next(), 'here');
  // Beside them there is one more.
  await stage.until(() => stage.refusedPeers.length >= MANY + 1 - MAX_STRANGERS);
  return child;
}

function codes({ refusedPeers }: Stage): Set<string> {
  return new Set(refusedPeers.map(({ code }) => code));
}

describe('a crowd that connects and says nothing', () => {
  it(
    'pushes out nobody else that is in the middle of the challenge',
    onStage({ control: { authkey: 'key' } }, async (stage) => {
      const honest = stage.own(new Connection(await connect(stage.control)));
      let goOn = (): void => undefined;
      const isFull = new Promise<void>((resolve) => {
        goOn = resolve;
      });
      const authenticated = authenticateToListener(
        {
          sendBytes: (bytes) => honest.sendBytes(bytes),
          recvBytes: async (maxLength) => {
            await isFull;
            return honest.recvBytes(maxLength);
          },
        },
        Buffer.from('key'),
      );
      await using child = await crowd(stage);
      goOn();
      await authenticated;
      const worker = stage.own(new FakeWorker(honest.socket));
      assert.equal((await worker.sayHello()).id, 1);
      assert.deepEqual(codes(stage), new Set(['ERR_HANDSHAKE_TIMEOUT']));
      await child.channel.send(Buffer.from('end'));
      assert.equal(await child.exit, 0);
    }),
  );

  it(
    'pushes out nobody else that has not said hello yet',
    onStage({}, async (stage) => {
      const worker = stage.own(new FakeWorker(await connect(stage.control)));
      await using child = await crowd(stage);
      assert.equal((await worker.sayHello()).id, 1);
      assert.deepEqual(codes(stage), new Set(['ERR_HANDSHAKE_TIMEOUT']));
      await child.channel.send(Buffer.from('end'));
      assert.equal(await child.exit, 0);
    }),
  );
});
