// Workers that send too much, or do not read what they have asked for: each is disconnected, and others are served meanwhile.
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';

import { encodeClosed, encodeJson } from '../../../src/handoff/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import type { FakeWorker } from '../../support/fake-worker.js';
import { turns } from '../../support/loop.js';

/** Sends the same frame again and again, as fast as possible, until the channel ends. */
async function flood(worker: FakeWorker, frame: Buffer): Promise<void> {
  const many = Buffer.concat(Array<Buffer>(Math.ceil(16_384 / frame.length)).fill(frame));
  const saying = async (): Promise<never> => {
    for (;;) await worker.socket.send(many);
  };
  await assert.rejects(saying(), { code: 'ERR_PEER_GONE' });
}

/** The body of a test on a clock that stands still, so that no second passes. */
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
      `is disconnected with the reason, and others are served meanwhile: ${name}`,
      inNoTime(async (stage) => {
        const culprit = await stage.join();
        const other = await stage.joinServing();
        const left = stage.next('left');
        const flooding = flood(culprit, frame);
        await stage.client();
        await other.handoffs(1);
        const [worker, { reason }] = await left;
        assert.equal(worker.id, culprit.id);
        assert.match(reason, /sent more than 2097152 bytes in a second/);
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
    'may change its capacity three times with each connection, but not four times',
    inNoTime(async (stage) => {
      const worker = await stage.joinServing();
      // The longest number.
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
      assert.match(reason, /sent more than 2097152 bytes in a second/);
    }),
  );

  it(
    'may send as much over a longer time',
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
    'is disconnected when too many bytes of answers wait',
    inNoTime(async (stage) => {
      const culprit = await stage.join();
      const left = stage.next('left');
      const flooding = flood(culprit, encodeJson({ type: 'serve', request: 1 }));
      const [worker, { reason }] = await left;
      assert.equal(worker.id, culprit.id);
      assert.match(reason, /left more than 262144 bytes of answers unread/);
      await flooding;
      assert.deepEqual(
        stage.refusedPeers.map(({ code, message }) => [code, message]),
        [['ERR_PROTOCOL', reason]],
      );
    }),
  );
});
