// The way back of a worker whose user has changed: which users may connect, and which socket is the worker's.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { connect } from '../../../src/fd/index.js';
import { callWorker, WayBack } from '../../../src/handoff/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { withoutPython } from '../../support/python.js';
import { passSlow, slowCloses } from '../../support/slow-close.js';

const skip = process.platform !== 'linux' && 'needs abstract sockets';
const user = process.getuid?.() ?? 0;
const { signal } = new AbortController();

/** The way back keeps no process alive. */
function alive(body: () => Promise<void>): () => Promise<void> {
  return keepsDescriptors(async () => {
    const timer = setInterval(() => undefined, 1_000);
    try {
      await body();
      await untilClosed();
    } finally {
      clearInterval(timer);
    }
  });
}

/** Threads close the sockets that any user can reach. */
async function untilClosed(): Promise<void> {
  while (slowCloses() > 0) await nextTurn();
}

async function opened(trusted: ReadonlySet<number>): Promise<WayBack> {
  const wayBack = await WayBack.open(trusted);
  assert.ok(wayBack);
  return wayBack;
}

describe('the way back of a worker', { skip }, () => {
  it(
    'gives the connection of a trusted user',
    alive(async () => {
      const wayBack = await opened(new Set([user]));
      const socket = await callWorker(process.pid, signal);
      await wayBack.untilCalled();
      const call = wayBack.take();
      assert.equal(call?.peer.uid, user);
      assert.equal(socket?.peer.pid, process.pid);
      call.destroy();
      socket.destroy();
      wayBack.close();
    }),
  );

  it(
    'keeps one connection: the last',
    alive(async () => {
      const wayBack = await opened(new Set([user]));
      const first = await callWorker(process.pid, signal);
      await wayBack.untilCalled();
      const second = await callWorker(process.pid, signal);
      await first?.untilReadable();
      assert.equal(first?.peek(1)?.length, 0);
      first.destroy();
      wayBack.close();
      await second?.untilReadable();
      assert.equal(second?.peek(1)?.length, 0);
      second.destroy();
    }),
  );

  it(
    'closes the connection of any other user',
    alive(async () => {
      const wayBack = await opened(new Set([user + 1]));
      const socket = await callWorker(process.pid, signal);
      await socket?.untilReadable();
      assert.equal(socket?.peek(1)?.length, 0);
      assert.equal(wayBack.take(), undefined);
      socket.destroy();
      wayBack.close();
    }),
  );

  it(
    'is not the socket of another process, whatever its name',
    alive(async () => {
      const name = `passfd-worker-${process.pid}-0`;
      const code = `
        import { listen } from '${new URL('../../../src/fd/index.js', import.meta.url).href}';
        const acceptor = await listen('\\0${name}');
        console.log('listening');
        await acceptor.accept();
        await acceptor.accept();
        setInterval(() => undefined, 1_000);`;
      const words = ['--input-type=module', '-e', code];
      const other = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] });
      const ended = once(other, 'exit');
      await once(other.stdout, 'data');
      (await connect(`\0${name}`)).destroy();
      assert.equal(await callWorker(process.pid, signal), undefined);
      other.kill();
      await ended;
    }),
  );

  it(
    'is closed by its caller without waiting, while something slow is in the queue',
    { skip: withoutPython },
    alive(async () => {
      const wayBack = await opened(new Set([user]));
      const socket = await callWorker(process.pid, signal);
      await wayBack.untilCalled();
      const call = wayBack.take();
      assert.ok(socket && call);
      const end = await passSlow(call);
      call.destroy();
      socket.discard();
      assert.equal(slowCloses(), 1);
      wayBack.close();
      await end();
    }),
  );

  it(
    'does not exist after it is closed',
    alive(async () => {
      (await opened(new Set())).close();
      await untilClosed();
      assert.equal(await callWorker(process.pid, signal), undefined);
      assert.ok(!readFileSync('/proc/net/unix', 'utf8').includes(`passfd-worker-${process.pid}-`));
    }),
  );
});
