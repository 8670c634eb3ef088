// What is open for long outlives generations of the dispatcher, since no byte of it ever comes by there.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { describe, it } from 'node:test';
import { WebSocket } from 'ws';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

const TAKEOVERS = 10;
const DOWNLOAD_BYTES = 100 * 1024 * 1024;

describe('over ten takeovers', () => {
  it(
    'a slow download of 100 MB comes whole, and a WebSocket stays open',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const service = start(...passfd('run', '--workers', '2', '--control', control, app('long-lived.js')));
      const [, port = ''] = await service.line(/^listening (\d+)$/);
      const socket = new WebSocket(`ws://127.0.0.1:${port}`);
      await once(socket, 'open');
      const download = get(`http://127.0.0.1:${port}/${DOWNLOAD_BYTES}`, { agent: false });
      const [response] = (await once(download, 'response')) as [IncomingMessage];
      const bytes = response[Symbol.asyncIterator]() as AsyncIterator<Buffer, undefined>;
      let received = 0;
      const read = async (upTo: number): Promise<void> => {
        while (received < upTo) {
          const { value: chunk } = await bytes.next();
          if (!chunk) return;
          assert.ok(chunk.every((byte, index) => byte === (received + index) % 251));
          received += chunk.length;
        }
      };
      const said = new Set<string>();
      for (let count = 1; count <= TAKEOVERS; count++) {
        assert.equal(await start(...passfd('takeover', '--control', control)).exit, 0);
        await read((DOWNLOAD_BYTES / (TAKEOVERS + 1)) * count);
        socket.send('still there?');
        const [answer] = (await once(socket, 'message')) as [Buffer];
        said.add(answer.toString());
      }
      await read(Number.POSITIVE_INFINITY);
      assert.equal(received, DOWNLOAD_BYTES);
      // By one worker, and so over one connection.
      assert.match([...said].join(), /^\d+ still there\?$/);
      assert.equal((await statusOf(control)).generation, 1 + TAKEOVERS);
      socket.close();
      await once(socket, 'close');
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
    }),
  );
});
