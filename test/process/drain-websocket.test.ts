// A drain and WebSockets: the app is notified, and the connections that it does not close stay open.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';

import { WebSocket } from 'ws';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd } from '../support/passfd.js';
import { withPrograms, type Program } from '../support/program.js';

const DRAIN_TIMEOUT_MS = 500;

/** Starts an app with two workers. @returns its port, when both listen */
async function portOf(program: Program): Promise<string> {
  await program.line(/^listening (\d+)$/);
  const [, port = ''] = await program.line(/^listening (\d+)$/);
  return port;
}

/** Connects until worker 1 is the one that answers. */
async function toFirstWorker(port: string): Promise<WebSocket> {
  for (;;) {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`);
    socket.on('error', () => undefined);
    const [worker] = (await once(socket, 'message')) as [Buffer];
    if (worker.toString() === '1') return socket;
    socket.terminate();
  }
}

describe('`passfd drain` of a worker with an open WebSocket', () => {
  it(
    'lets the app send its clients away, and resolves when they are gone',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(...passfd('run', '--workers', '2', '--control', control, app('drain-ws.js')));
      const socket = await toFirstWorker(await portOf(program));
      const closed = once(socket, 'close') as Promise<[number, Buffer]>;
      const drain = start(...passfd('drain', '1', '--control', control));
      const [code, reason] = await closed;
      assert.deepEqual([code, reason.toString()], [1012, 'service restart']);
      assert.equal(await drain.exit, 0);
    }),
  );

  it(
    'leaves it open until the drain timeout when the app does not handle drains',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const options = ['--workers', '2', '--drain-timeout', String(DRAIN_TIMEOUT_MS), '--control', control];
      const program = start(...passfd('run', ...options, app('ws.js')));
      const socket = await toFirstWorker(await portOf(program));
      start(...passfd('drain', '1', '--control', control));
      await program.errorLine(/worker draining/);
      socket.send('still there?');
      const [answer] = (await once(socket, 'message')) as [Buffer];
      assert.equal(answer.toString(), 'still there?');
      const closed = once(socket, 'close') as Promise<[number]>;
      const begin = performance.now();
      program.signal('SIGTERM');
      const [code] = await closed;
      assert.equal(code, 1006, 'nobody has closed it, its process has ended');
      assert.ok(performance.now() - begin >= DRAIN_TIMEOUT_MS);
      assert.equal(await program.exit, 0);
    }),
  );
});
