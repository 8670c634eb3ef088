// Workers that break the protocol: each gets a farewell with the reason, and no other worker is affected.
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';

import { LastWill } from '../../../src/fd/internal.js';
import {
  encodeAdopted,
  encodeClosed,
  encodeFrame,
  encodeHandoff,
  encodeJson,
  encodeRefused,
} from '../../../src/handoff/index.js';
import { onStage } from '../../support/dispatcher-stage.js';
import type { FakeWorker } from '../../support/fake-worker.js';
import { openFile } from '../../support/files.js';
import { turns } from '../../support/loop.js';
import { withoutWill } from '../../support/will.js';

/** What a worker does after it received three connections and adopted the first, and the reason in its farewell. */
const violations: readonly [name: string, say: (worker: FakeWorker) => Promise<void>, reason: RegExp][] = [
  [
    'adopts what it was not sent',
    (worker) => worker.adopt(4),
    /settles position 4, and positions 2 to 3 are in flight/,
  ],
  [
    'adopts the same connection twice',
    (worker) => worker.adopt(1),
    /settles position 1, and positions 2 to 3/,
  ],
  ['refuses what it has adopted', (worker) => worker.say(encodeRefused(1, 'capacity')), /settles position 1/],
  [
    'adopts what it has refused',
    (worker) => worker.say(encodeRefused(2, 'capacity'), encodeAdopted(2)),
    /settles position 2/,
  ],
  [
    'closes more than it has adopted',
    (worker) => worker.sayClosed(2),
    /2 closed connections after 0, and had adopted 1/,
  ],
  [
    'reports fewer closed connections than before',
    (worker) => worker.say(encodeClosed(1), encodeClosed(0)),
    /0 closed connections after 1/,
  ],
  [
    'refuses without a known reason',
    (worker) => worker.say(Buffer.from('0000000a03000000000000000209', 'hex')),
    /no reason that is known/,
  ],
  [
    'sends a count that is cut short',
    (worker) => worker.say(Buffer.from('0000000402000000', 'hex')),
    /has 4 bytes, not 9/,
  ],
  [
    'sends a count that is too large',
    (worker) => worker.say(Buffer.from('0000000902ffffffffffffffff', 'hex')),
    /absurdly large/,
  ],
  ['sends an empty frame', (worker) => worker.say(Buffer.alloc(4)), /announces 0 bytes/],
  [
    'announces a frame that is too long',
    (worker) => worker.say(Buffer.from('00010001', 'hex')),
    /announces 65537 bytes/,
  ],
  [
    'sends a message of an unknown binary type',
    (worker) => worker.say(encodeFrame(Buffer.from('garbage'))),
    /begins with 103/,
  ],
  ['hands off a connection itself', (worker) => worker.say(encodeHandoff(0, 1)), /begins with 1$/],
  ['sends what is no JSON', (worker) => worker.say(encodeFrame(Buffer.from('{'))), /not JSON/],
  [
    'sends JSON of an unknown type',
    (worker) => worker.say(encodeFrame(Buffer.from('{"type":"surrender"}'))),
    /not understood/,
  ],
  [
    'asks for a window of 0',
    (worker) => worker.say(encodeJson({ type: 'window', window: 0 })),
    /not understood: .*window/s,
  ],
  [
    'listens at a port that does not exist',
    (worker) => worker.askToListen({ host: '127.0.0.1', port: 65_536, ipv6Only: false, index: 0 }),
    /not understood: .*port/s,
  ],
  [
    'passes a descriptor',
    async (worker) => {
      using file = openFile('unwanted');
      await worker.socket.send(encodeJson({ type: 'ready' }), [file]);
    },
    /passed descriptors/,
  ],
  [
    'passes descriptors with a frame that it never finishes',
    async (worker) => {
      using file = openFile('unwanted');
      await worker.socket.send(Buffer.from('00', 'hex'), Array<typeof file>(100).fill(file));
    },
    /passed descriptors/,
  ],
];

describe('a worker that breaks the protocol', () => {
  for (const [name, say, reason] of violations) {
    it(
      `is disconnected with the reason: ${name}`,
      onStage({}, async (stage) => {
        const { dispatcher } = stage;
        const culprit = await stage.joinServing();
        const clients = await stage.clients(3);
        await culprit.handoffs(3);
        await culprit.adopt(1);
        const other = await stage.joinServing();
        const left = stage.next('left');
        await say(culprit);

        const farewell = await culprit.next('farewell');
        assert.equal(farewell.code, 'ERR_PROTOCOL');
        assert.match(farewell.reason, reason);
        assert.equal(await culprit.message(), null);
        await assert.rejects(culprit.adopt(3), { code: 'ERR_PEER_GONE' });
        const [worker, how] = await left;
        assert.equal(worker.id, culprit.id);
        assert.deepEqual([how.reason, worker.adopted], [farewell.reason, 1]);

        const inherited = await other.handoffs(2);
        assert.deepEqual(
          new Set(inherited.map(({ remoteAddress }) => JSON.stringify(remoteAddress))),
          new Set(clients.slice(1).map(({ localAddress }) => JSON.stringify(localAddress))),
        );
        await stage.client();
        await other.handoffs(1);
        assert.deepEqual(
          stage.refusedPeers.map(({ code, message }) => [code, message]),
          [['ERR_PROTOCOL', farewell.reason]],
        );
        assert.equal(dispatcher.status().peers.refused, 1);
        assert.deepEqual(
          dispatcher.workers.map(({ id }) => id),
          [other.id],
        );
      }),
    );
  }

  it(
    'keeps what it adopts before it is disconnected, and nothing after that',
    onStage({}, async (stage) => {
      const culprit = await stage.joinServing();
      const clients = await stage.clients(3);
      await culprit.handoffs(3);
      const other = await stage.joinServing();
      const left = stage.next('left');
      await culprit.say(encodeAdopted(1), encodeClosed(9), encodeAdopted(2));
      const [worker, { redelivered }] = await left;
      assert.deepEqual([worker.adopted, redelivered], [2, 1]);
      await assert.rejects(culprit.adopt(3), { code: 'ERR_PEER_GONE' });
      const [connection] = await other.handoffs(1);
      assert.deepEqual(connection?.remoteAddress, clients[2]?.localAddress);
    }),
  );

  it(
    'keeps its connections until it has read the farewell: none goes to another worker before',
    onStage({}, async (stage) => {
      const culprit = await stage.joinServing();
      await stage.clients(2);
      await culprit.handoffs(2);
      const other = await stage.joinServing();
      // The farewell waits after these answers, which are more than the channel holds.
      await culprit.say(...Array<Buffer>(1000).fill(encodeJson({ type: 'serve', request: 1 })));
      await culprit.adopt(99);
      await stage.until(() => stage.refusedPeers.length > 0);
      await turns();
      assert.equal(stage.dispatcher.status().connections.redelivered, 0);
      let last;
      for (let message = await culprit.message(); message; message = await culprit.message()) last = message;
      assert.equal(last?.type, 'farewell');
      await other.handoffs(2);
    }),
  );

  it(
    'gets nothing by the last will any more, even if it has not read the farewell',
    { skip: withoutWill() },
    onStage({ lastWill: true }, async (stage) => {
      const setChannel = mock.method(LastWill.prototype, 'setChannel');
      try {
        const culprit = await stage.joinServing();
        await stage.client();
        await culprit.handoffs(1);
        assert.equal(setChannel.mock.calls.at(-1)?.arguments[1].isReady, true);
        await culprit.say(...Array<Buffer>(1000).fill(encodeJson({ type: 'serve', request: 1 })));
        await culprit.adopt(99);
        await stage.until(() => stage.dispatcher.workers[0]?.state === 'draining');
        assert.equal(setChannel.mock.calls.at(-1)?.arguments[1].isReady, false);
        culprit.die();
        await stage.next('left');
      } finally {
        setChannel.mock.restore();
      }
    }),
  );
});
