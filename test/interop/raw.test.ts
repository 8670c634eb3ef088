// Variant 3 with CPython at either end: one byte with one descriptor for each client, answered `OK`.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { describeWithEachPython, peer } from '../support/peers.js';
import { example, withPrograms } from '../support/program.js';
import { talkAtOnce } from '../support/tcp-client.js';

const CLIENTS = 5;

describeWithEachPython('the Node raw-server, joined by a Python worker', (python) => {
  it(
    'passes it every client as a socket that blocks, each when the last is answered OK',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const address = `${directory.path}/server`;
      const server = start(...example('raw-server', address, '0'));
      const [, port] = await server.line(/^SERVER: Listening on 127\.0\.0\.1:(\d+)$/);
      const worker = start(...peer(python, 'raw_worker', address));
      await talkAtOnce(Number(port), CLIENTS);
      server.signal('SIGTERM');
      assert.equal(await server.exit, 0);
      assert.equal(await worker.exit, 0);
      assert.deepEqual(worker.lines, ['JOINED', ...Array<string>(CLIENTS).fill('GOT FD blocking')]);
      assert.equal((await server.stderr) + (await worker.stderr), '');
      assert.equal(existsSync(address), false);
    }),
  );
});

describeWithEachPython('the Node raw-worker, joining a Python server', (python) => {
  it(
    'is passed every client, answers OK to each, and ends when the server does',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const address = `${directory.path}/server`;
      const server = start(...peer(python, 'raw_server', address, String(CLIENTS)));
      const worker = start(...example('raw-worker', address));
      const [, port] = await server.line(/^LISTENING (\d+)$/);
      await talkAtOnce(Number(port), CLIENTS);
      assert.equal(await server.exit, 0);
      assert.equal(await worker.exit, 0);
      assert.equal(worker.lines.filter((line) => /^WORKER: GOT FD \d+$/.test(line)).length, CLIENTS);
      assert.equal((await server.stderr) + (await worker.stderr), '');
    }),
  );
});
