// Workers that say too much, or hear nothing of what they have asked for: each is told so and cut off, and costs nobody else.
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';

import { encodeClosed, encodeJson } from '../../../src/handoff/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import type { FakeWorker } from '../../support/fake-worker.js';
import { turns } from '../../support/loop.js';

/** Says the same again and again, as fast as the channel takes it, until that is over. */
async function flood(worker: FakeWorker, frame: Buffer): Promise<void> {
  const many = Buffer.concat(Array<Buffer>(Math.ceil(16_384 / frame.length)).fill(frame));
  const saying = async (): Promise<never> => {
    for (;;) await worker.socket.send(many);
  };
  await assert.rejects(saying(), { code: 'ERR_PEER_GONE' });
}

/** The body of a test in one and the same moment: however long it takes, no second is over. */
function inNoTime(body: (stage: Stage) => Promise<void>): () => Promise<void> {
  return onStage({}, async (stage) => {
    const clock = mock.method(performance, 'now', () => 0);
    try {
      await body(stage);
    } finally {
      clock.mock.restore();
    }
  });
}

describe('a worker that floods its dispatcher', () => {
  const messages: readonly [name: string, frame: Buffer][] = [
    ['that it is ready', encodeJson({ type: 'ready' })],
    ['how many it can take', encodeJson({ type: 'window', window: 64 })],
    ['that it has closed nothing more', encodeClosed(0)],
    [
      'that it no longer listens anywhere',
      encodeJson({ type: 'unlisten', listeners: Array<number>(9000).fill(9) }),
    ],
  ];
  for (const [name, frame] of messages) {
    it(
      `is told so and cut off, and others are served meanwhile: ${name}`,
      inNoTime(async (stage) => {
        const culprit = await stage.join();
        const other = await stage.joinServing();
        const left = stage.next('left');
        const flooding = flood(culprit, frame);
        await stage.client();
        await other.handoffs(1);
        const [worker, { reason }] = await left;
        assert.equal(worker.id, culprit.id);
        assert.match(reason, /says more than 2097152 bytes in a second/);
        await flooding;
        const farewell = await culprit.next('farewell');
        assert.deepEqual([farewell.code, farewell.reason], ['ERR_PROTOCOL', reason]);
        assert.deepEqual(
          stage.refusedPeers.map(({ message }) => message),
          [reason],
        );
        await stage.client();
        await other.handoffs(1);
      }),
    );
  }

  it(
    'is none that changes its capacity three times with each connection, however fast they come; but not four times',
    inNoTime(async (stage) => {
      const worker = await stage.joinServing();
      // As long as it gets.
      const capacity = Number.MAX_SAFE_INTEGER;
      const frame = encodeJson({ type: 'capacity', capacity });
      const left = stage.next('left');
      await worker.say(...Array<Buffer>(Math.floor(2_097_152 / (frame.length - 4 + 64)) - 4).fill(frame));
      for (let count = 0; count < 50; count++) {
        await stage.client();
        await worker.handoffs(1);
        await worker.adopt();
        await worker.say(frame, frame, frame);
      }
      await stage.until(() => stage.dispatcher.workers[0]?.adopted === 50);
      await turns();
      assert.deepEqual(stage.refusedPeers, []);
      await worker.say(...Array<Buffer>(50).fill(frame));
      const [, { reason }] = await left;
      assert.match(reason, /says more than 2097152 bytes in a second/);
    }),
  );

  it(
    'is none that says as much in the course of time',
    onStage({}, async (stage) => {
      let now = 0;
      const clock = mock.method(performance, 'now', () => now);
      try {
        const worker = await stage.joinServing();
        for (; now < 30_000; now += 1000) {
          await worker.say(...Array<Buffer>(1000).fill(encodeJson({ type: 'capacity', capacity: null })));
          await stage.client();
          await worker.handoffs(1);
          await worker.adopt();
        }
        assert.deepEqual(stage.refusedPeers, []);
      } finally {
        clock.mock.restore();
      }
    }),
  );
});

describe('a worker that reads no answers', () => {
  it(
    'is cut off when too much of them waits for it',
    inNoTime(async (stage) => {
      const culprit = await stage.join();
      const left = stage.next('left');
      const flooding = flood(culprit, encodeJson({ type: 'serve', request: 1 }));
      const [worker, { reason }] = await left;
      assert.equal(worker.id, culprit.id);
      assert.match(reason, /leaves more than 262144 bytes of answers unread/);
      await flooding;
      assert.deepEqual(
        stage.refusedPeers.map(({ code, message }) => [code, message]),
        [['ERR_PROTOCOL', reason]],
      );
    }),
  );
});
