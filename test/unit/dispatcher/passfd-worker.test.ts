// PassfdWorker: a worker that breaks the protocol while it is being frozen.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type {
  PassfdWorkerEvents,
  PassfdWorkerHost,
} from '../../../src/dispatcher/workers/passfd-worker-host.js';
import { PassfdWorker } from '../../../src/dispatcher/workers/passfd-worker.js';
import { PassfdError, socketPair } from '../../../src/fd/index.js';
import { encodeFrame, encodeJson, PROTOCOL_VERSION } from '../../../src/handoff/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';

const hello = {
  passfd: PROTOCOL_VERSION,
  role: 'worker',
  pid: process.pid,
  window: 8,
  capacity: null,
} as const;

describe('a worker that is being frozen', () => {
  it(
    'has the state of a worker being disconnected if its last message breaks the protocol',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      using theirs = there;
      let worker!: PassfdWorker;
      let fail: (error: Error) => void = () => undefined;
      const asked = new Promise<void>((resolve) => {
        const host: Partial<PassfdWorkerHost> = {
          listen: () =>
            new Promise((_, reject) => {
              fail = reject;
              resolve();
            }),
        };
        const events: Partial<PassfdWorkerEvents> = {
          broke: () => undefined,
          subscribed: () => undefined,
          left: () => undefined,
          leaving: () => undefined,
        };
        const identity = { id: 1, pid: process.pid, serves: false, isTrusted: true };
        worker = PassfdWorker.welcome(
          here,
          hello,
          identity,
          events as PassfdWorkerEvents,
          host as PassfdWorkerHost,
        );
      });
      const ended = worker.run();
      const address = { host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 };
      await theirs.send(
        Buffer.concat([
          encodeJson({ type: 'listen', request: 1, address, backlog: 1 }),
          encodeFrame(Buffer.of(99)),
        ]),
      );
      await asked;
      const freezing = worker.freeze();
      fail(new PassfdError('ERR_ADDRESS', 'not there'));
      const frozen = await freezing;
      const { snapshot } = frozen;
      assert.ok(snapshot.dialect === 'passfd');
      assert.match(snapshot.parting ?? '', /begins with 99/);
      assert.match(String(frozen.unsent().at(-1)?.bytes), /"farewell".*begins with 99/);
      worker.thaw();
      await ended;
    }),
  );
});
