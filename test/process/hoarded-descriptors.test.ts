// A peer that sends descriptors with each byte, where none may come: the dispatcher keeps none, and the peer is ended.
import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { connect, MAX_DESCRIPTORS, PassfdError, type StreamSocket } from '../../src/fd/index.js';
import { encodeFrame, encodeHello, PROTOCOL_VERSION } from '../../src/handoff/index.js';
import { Client, Listener } from '../../src/multiprocessing/index.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { FakeWorker } from '../support/fake-worker.js';
import { openFile, temporaryDirectory } from '../support/files.js';
import { turns } from '../support/loop.js';
import { passfd } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

const MESSAGES = 40;

/** A process opens and closes some descriptors of its own meanwhile. */
const MARGIN = 20;

interface Place {
  readonly control: string;
  readonly raw: string;
}

/** A connection on which the service waits for bytes, and where no descriptor may come. */
const peers: Readonly<Record<string, (place: Place) => Promise<StreamSocket>>> = {
  'that has not proved yet that it has the key': ({ control }) => connect(control),
  'that has not said hello yet': async ({ control }) => (await Client(control, { authkey: 'key' })).socket,
  'that gives commands': async ({ control }) => {
    const { socket } = await Client(control, { authkey: 'key' });
    await socket.send(encodeFrame(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' })));
    return socket;
  },
  'that is a worker': async ({ control }) => (await FakeWorker.join(control, { authkey: 'key' })).socket,
  'that is a raw worker': ({ raw }) => connect(raw),
};

/** Announces a frame, and sends its bytes one by one, each with all the descriptors that a message can hold. */
async function hoard(socket: StreamSocket): Promise<void> {
  using file = openFile('unwanted');
  const descriptors = Array.from({ length: MAX_DESCRIPTORS }, () => file);
  try {
    await socket.send(Buffer.of(0, 0, 0, 2 * MESSAGES));
    for (let sent = 0; sent < MESSAGES; sent++) await socket.send(Buffer.of(0), descriptors);
  } catch (error) {
    assert.ok(error instanceof PassfdError && error.code === 'ERR_PEER_GONE', String(error));
  }
  // All of it was received, or the other end is closed.
  while (socket.unreadBytes > 0) await turns(1);
}

async function untilEnded(socket: StreamSocket): Promise<void> {
  try {
    while (await socket.receive());
  } catch (error) {
    assert.ok(error instanceof PassfdError && error.code === 'ERR_PEER_GONE', String(error));
  }
}

function countOpen(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

describe('a dispatcher', () => {
  for (const [which, meet] of Object.entries(peers)) {
    it(
      `keeps no descriptor of a peer ${which}, and ends it`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const place = { control: `${directory.path}/control`, raw: `${directory.path}/raw` };
        const key = `${directory.path}/key`;
        writeFileSync(key, 'key', { mode: 0o600 });
        const places = ['--control', place.control, '--raw-control', place.raw, '--authkey-file', key];
        const service = start(...passfd('serve', '--listen', '127.0.0.1:0', ...places));
        await service.errorLine(/127\.0\.0\.1:\d+/);
        const before = countOpen(service.pid);
        for (let round = 0; round < 3; round++) {
          using socket = await meet(place);
          await hoard(socket);
          assert.ok(countOpen(service.pid) <= before + MARGIN);
          await untilEnded(socket);
        }
      }),
    );
  }
});

describe('a Listener', () => {
  it(
    'keeps no descriptor of a client that has not proved yet that it has the key, and refuses it',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/listener`;
      await using listener = await Listener(path, { authkey: 'key' });
      const refused: unknown[] = [];
      listener.on('refused', (error) => refused.push(error.code));
      const closed = assert.rejects(listener.accept(), { code: 'ERR_CLOSED' });
      using socket = await connect(path);
      const before = countOpen(process.pid);
      await hoard(socket);
      assert.ok(countOpen(process.pid) <= before + MARGIN);
      await untilEnded(socket);
      assert.deepEqual(refused, ['ERR_HANDSHAKE']);
      await listener.close();
      await closed;
    }),
  );
});
