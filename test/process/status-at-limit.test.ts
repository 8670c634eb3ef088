// A dispatcher at its descriptor limit: who asks what is wrong gets an answer.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { connect, type StreamSocket } from '../../src/fd/index.js';
import { encodeFrame } from '../../src/handoff/index.js';
import { FakeWorker } from '../support/fake-worker.js';
import { temporaryDirectory } from '../support/files.js';
import { passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

/** Node itself needs more than a hundred while it loads the program. */
const LIMIT = 256;

/** Peers of a control socket that end, each in its way. */
const ENDS: readonly [name: string, visit: (control: string) => Promise<void>][] = [
  [
    'that say nonsense, and are refused',
    async (control) => {
      using peer = new FakeWorker(await connect(control));
      await peer.say(encodeFrame(Buffer.from('nonsense')));
      await peer.next('farewell');
      assert.equal(await peer.message(), null);
    },
  ],
  [
    'that hang up without a word',
    async (control) => {
      (await connect(control)).destroy();
    },
  ],
  [
    'that join, and leave',
    async (control) => {
      (await FakeWorker.join(control)).die();
    },
  ],
];

/** The body of a test whose clients take all descriptors of the dispatcher, and more of them wait. */
function atLimit(body: (control: string) => Promise<void>): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    const command = passfd('serve', '--listen', '127.0.0.1:0', '--control', control).flat();
    const service = start('/bin/sh', ['-c', 'ulimit -n "$0" && exec "$@"', String(LIMIT), ...command]);
    const [, port] = await service.errorLine(/"127\.0\.0\.1:(\d+)","msg":"listening"/);
    using worker = await FakeWorker.join(control, { window: 4 * LIMIT });
    await worker.serve();
    const clients: StreamSocket[] = [];
    try {
      while (clients.length < 2 * LIMIT) {
        clients.push(await connect({ host: '127.0.0.1', port: Number(port) }));
      }
      await service.errorLine(/ERR_DESCRIPTOR_LIMIT/);
      await body(control);
    } finally {
      for (const client of clients) client.destroy();
    }
  });
}

describe('a dispatcher whose last descriptor is taken by connections that no worker adopts', () => {
  it(
    'answers to passfd status, again and again',
    atLimit(async (control) => {
      for (let times = 0; times < 3; times++) {
        const { accepted, inFlight } = (await statusOf(control)).connections;
        assert.deepEqual([accepted > 0, inFlight], [true, accepted]);
      }
    }),
  );

  for (const [name, visit] of ENDS) {
    it(
      `answers to it behind peers ${name}`,
      atLimit(async (control) => {
        for (let times = 0; times < 3; times++) {
          await visit(control);
          await statusOf(control);
        }
      }),
    );
  }
});
