// Workers that break the protocol: each is told why and cut off, and nobody else is affected.
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

/** What a worker says that has received three connections and adopted the first, and what it is told. */
const violations: readonly [name: string, say: (worker: FakeWorker) => Promise<void>, reason: RegExp][] = [
  [
    'adopts what it was not given',
    (worker) => worker.adopt(4),
    /settles position 4, and positions 2 to 3 are in flight/,
  ],
  ['adopts the same twice', (worker) => worker.adopt(1), /settles position 1, and positions 2 to 3/],
  ['refuses what it has adopted', (worker) => worker.say(encodeRefused(1, 'capacity')), /settles position 1/],
  [
    'adopts what it has refused',
    (worker) => worker.say(encodeRefused(2, 'capacity'), encodeAdopted(2)),
    /settles position 2/,
  ],
  ['closes more than it has adopted', (worker) => worker.sayClosed(2), /closed 2 .* adopted 1/],
  [
    'opens again what it has closed',
    (worker) => worker.say(encodeClosed(1), encodeClosed(0)),
    /closed 0 connections in all, after 1/,
  ],
  [
    'refuses for no reason',
    (worker) => worker.say(Buffer.from('0000000a03000000000000000209', 'hex')),
    /no reason that is known/,
  ],
  [
    'says a count that is cut short',
    (worker) => worker.say(Buffer.from('0000000402000000', 'hex')),
    /has 4 bytes, not 9/,
  ],
  [
    'counts beyond all measure',
    (worker) => worker.say(Buffer.from('0000000902ffffffffffffffff', 'hex')),
    /absurdly large/,
  ],
  ['says an empty frame', (worker) => worker.say(Buffer.alloc(4)), /announces 0 bytes/],
  [
    'announces a frame that is too long',
    (worker) => worker.say(Buffer.from('00010001', 'hex')),
    /announces 65537 bytes/,
  ],
  [
    'says something of no type that there is',
    (worker) => worker.say(encodeFrame(Buffer.from('garbage'))),
    /begins with 103/,
  ],
  ['hands off a connection itself', (worker) => worker.say(encodeHandoff(0, 1)), /begins with 1$/],
  ['says what is no JSON', (worker) => worker.say(encodeFrame(Buffer.from('{'))), /not JSON/],
  [
    'says JSON of no type that there is',
    (worker) => worker.say(encodeFrame(Buffer.from('{"type":"surrender"}'))),
    /not understood/,
  ],
  [
    'wants a window of none',
    (worker) => worker.say(encodeJson({ type: 'window', window: 0 })),
    /not understood: .*window/s,
  ],
  [
    'listens at a port that no port is',
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
    'passes descriptors beside a frame that it never finishes',
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
      `is told so and cut off: ${name}`,
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
    'keeps what it adopts before it can know, and nothing that it adopts later',
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
    'is not raced: nothing of its connections goes elsewhere before it can know',
    onStage({}, async (stage) => {
      const culprit = await stage.joinServing();
      await stage.clients(2);
      await culprit.handoffs(2);
      const other = await stage.joinServing();
      // The farewell waits behind these answers: more than its channel holds.
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
    'is no heir from then on, though it has not read that yet',
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
