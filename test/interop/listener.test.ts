// Variant 2 with CPython at either end: a worker joins with the key, says its process id, and is passed the clients.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { describeWithEachPython, peer } from '../support/peers.js';
import { example, withPrograms } from '../support/program.js';
import { talkAtOnce } from '../support/tcp-client.js';

const CLIENTS = 5;

describeWithEachPython('the Node server, joined by a Python worker', (python) => {
  it(
    'takes its process id, and passes it every client as a socket that blocks',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const address = `${directory.path}/server`;
      const server = start(...example('server', address, '0'));
      const [, port] = await server.line(/^SERVER: Listening on 127\.0\.0\.1:(\d+)$/);
      const worker = start(...peer(python, 'listener_worker', address));
      await talkAtOnce(Number(port), CLIENTS);
      server.signal('SIGTERM');
      assert.equal(await server.exit, 0);
      assert.equal(await worker.exit, 0);
      assert.ok(server.lines.includes(`SERVER: Worker ${worker.pid} joined`), server.lines.join('\n'));
      assert.deepEqual(worker.lines, ['JOINED', ...Array<string>(CLIENTS).fill('GOT FD blocking')]);
      assert.equal((await server.stderr) + (await worker.stderr), '');
      assert.equal(existsSync(address), false);
    }),
  );
});

describeWithEachPython('the Node worker, joining a Python server', (python) => {
  it(
    'says its process id, is passed every client, and ends when the server does',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const address = `${directory.path}/server`;
      const server = start(...peer(python, 'listener_server', address, String(CLIENTS)));
      const worker = start(...example('worker', address));
      const [, port] = await server.line(/^LISTENING (\d+)$/);
      assert.equal((await server.line(/^WORKER (\d+)$/))[1], String(worker.pid));
      await talkAtOnce(Number(port), CLIENTS);
      assert.equal(await server.exit, 0);
      assert.equal(await worker.exit, 0);
      assert.equal(worker.lines.filter((line) => /^WORKER: GOT FD \d+$/.test(line)).length, CLIENTS);
      assert.equal((await server.stderr) + (await worker.stderr), '');
    }),
  );
});
