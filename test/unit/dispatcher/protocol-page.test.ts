// Rules of docs/protocol.md for workers in other languages that the page's own worker does not use.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { encodeJson } from '../../../src/handoff/index.js';
import { onStage } from '../../support/dispatcher-stage.js';

const anyPort = { host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 } as const;

describe('a worker written by the protocol page', () => {
  it(
    'sends unlisten as often as listen, and may name ids that it does not serve',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const first = await worker.listenAt(anyPort);
      const second = await worker.listenAt(anyPort);
      assert.deepEqual(second, first);
      const UNKNOWN = first.id + 1;
      await worker.say(encodeJson({ type: 'unlisten', request: 7, listeners: [first.id, UNKNOWN] }));
      await worker.next('unlistened');
      assert.equal(stage.dispatcher.status().listeners.length, 1);
      await worker.say(encodeJson({ type: 'unlisten', request: 8, listeners: [first.id] }));
      await worker.next('unlistened');
      assert.equal(stage.dispatcher.status().listeners.length, 0);
    }),
  );

  it(
    'is not told to drain when it drains already',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      const draining = stage.next('draining');
      await worker.say(encodeJson({ type: 'draining' }));
      await draining;
      await stage.dispatcher.drainWorker(worker.id);
      await worker.say(encodeJson({ type: 'serve', request: 9 }));
      await worker.next('listening');
    }),
  );

  it(
    'leaves when it shuts down its sending side',
    onStage({}, async (stage) => {
      const leaving = await stage.joinServing();
      await stage.client();
      await leaving.handoffs(1);
      const heir = await stage.joinServing();
      const left = stage.next('left');
      await leaving.socket.end();
      assert.equal((await left)[1].redelivered, 1);
      await heir.handoffs(1);
    }),
  );
});
