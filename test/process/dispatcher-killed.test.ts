// Workers after the dispatcher that started them is killed.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Dispatcher } from '../../src/dispatcher/index.js';
import { connect as connectSocket } from '../../src/fd/index.js';
import { encodeJson } from '../../src/handoff/index.js';
import { ACCEPT_MODES } from '../support/accept-modes.js';
import { FakeWorker } from '../support/fake-worker.js';
import { temporaryDirectory } from '../support/files.js';
import { turns } from '../support/loop.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { isAlive, untilEnded } from '../support/processes.js';
import { withPrograms, type Program } from '../support/program.js';
import { withoutWill } from '../support/will.js';

const lateListen = fileURLToPath(new URL('fixtures/late-listen.js', import.meta.url));

describe('a worker whose dispatcher is killed', () => {
  for (const accept of ACCEPT_MODES) {
    it(
      `answers its clients and then exits, also when a server of its own listens: ${accept}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const flags = ['--accept', accept, '--workers', '1', '--control', control];
        const program = start(...passfd('run', ...flags, app('exclusive.js')));
        const [, port] = await program.line(/^listening (\d+)$/);
        const client = connect(Number(port), '127.0.0.1');
        await once(client, 'connect');
        for (;;) {
          const [worker] = (await statusOf(control)).workers;
          if (worker?.active !== 1) continue;
          program.kill();
          assert.equal(isAlive(worker.pid), true);
          client.write('still there?');
          const [answer] = (await once(client, 'data')) as [Buffer];
          assert.equal(answer.toString(), 'still there?');
          client.end();
          // The worker shares the output of the program. So the output is closed when the worker has ended.
          await program.exit;
          assert.equal(isAlive(worker.pid), false);
          return;
        }
      }),
    );
  }

  it(
    'waits for the next dispatcher until the orphan timeout, and then frees the address: hand-off',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const wait = ['--orphan-timeout', '5000', '--accept', 'hand-off'];
      const flags = ['--workers', '1', ...wait, '--control', control];
      const program = start(...passfd('run', ...flags, app('http.js')));
      const [, port = ''] = await program.line(/^listening (\d+)$/);
      program.kill();
      // A client is not refused while the worker has the listening socket.
      const waiting = connect(Number(port), '127.0.0.1');
      await once(waiting, 'connect');
      const ended = once(waiting, 'error') as Promise<[NodeJS.ErrnoException]>;
      // The worker shares the output of the program. So the output is closed when the worker has ended.
      await program.exit;
      const [error] = await ended;
      assert.equal(error.code, 'ECONNRESET');
      const late = connect(Number(port), '127.0.0.1');
      const [refusal] = (await once(late, 'error')) as [NodeJS.ErrnoException];
      assert.equal(refusal.code, 'ECONNREFUSED');
    }),
  );

  it(
    'accepts clients until the orphan timeout, and then frees the address: direct',
    { skip: !ACCEPT_MODES.includes('direct') && 'needs Linux' },
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const wait = ['--orphan-timeout', '5000', '--accept', 'direct'];
      const flags = ['--workers', '2', ...wait, '--control', `${directory.path}/control`];
      const program = start(...passfd('run', ...flags, app('http.js')));
      const [, port = ''] = await program.line(/^listening (\d+)$/);
      await program.line(/^listening (\d+)$/);
      program.kill();
      await program.ended;
      for (let client = 0; client < 20; client++) {
        const answer = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } });
        assert.match(await answer.text(), /^[12] /);
      }
      // The workers share the output of the program. So the output is closed when they have ended.
      await program.exit;
      const late = connect(Number(port), '127.0.0.1');
      const [refusal] = (await once(late, 'error')) as [NodeJS.ErrnoException];
      assert.equal(refusal.code, 'ECONNREFUSED');
    }),
  );

  it(
    'stays alive while a server waits to be served, and fails when no dispatcher comes any more',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      await using dispatcher = new Dispatcher();
      const control = `${directory.path}/control`;
      await dispatcher.openControl(control);
      const worker = start(process.execPath, [lateListen, control]);
      await worker.line(/^joined$/);
      await dispatcher.close();
      await worker.line(/^failed ERR_PEER_GONE$/);
      assert.equal(await worker.exit, 0);
    }),
  );

  it(
    'is killed when no dispatcher comes any more and SIGTERM does not end it',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(...passfd('run', '--workers', '1', '--control', control, app('stubborn.js')));
      const [, worker = ''] = await program.line(/^process (\d+) listens$/);
      program.kill();
      await program.line(/^told to end$/);
      // The worker shares the output of the program. So the output is closed when the worker ends.
      await program.exit;
      await untilEnded(Number(worker));
    }),
  );

  for (const accept of ACCEPT_MODES) {
    it(
      `is ended when the next dispatcher wants fewer workers: ${accept}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const run = (workers: string): Program => {
          const flags = [
            '--accept',
            accept,
            '--workers',
            workers,
            '--orphan-timeout',
            '60000',
            '--control',
            control,
          ];
          return start(...passfd('run', ...flags, app('http.js')));
        };
        const killed = run('2');
        await killed.line(/^listening/);
        const before = await workersAt(control, 2);
        killed.kill();
        const next = run('1');
        const after = await workersAt(control, 1);
        assert.deepEqual(after, before.slice(0, 1));
        while (before.some((pid) => !after.includes(pid) && isAlive(pid))) await turns(1);
        next.signal('SIGTERM');
        assert.equal(await next.exit, 0);
        await killed.exit;
      }),
    );
  }
});

describe('a connection that waits in a dispatcher that is killed', { skip: withoutWill() }, () => {
  it(
    'goes to a worker also when its address was closed and opened again before',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(...passfd('serve', '--listen', '127.0.0.1:0', '--control', control));
      await program.errorLine(/"listening"/);
      using worker = await FakeWorker.join(control);
      const first = await worker.listenAt({ host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 });
      assert.ok('port' in first.address);
      await worker.unlisten(first.id);
      const { id, address } = await worker.listenAt({ ...first.address, ipv6Only: false, index: 0 });
      await worker.ready();
      using client = await connectSocket(address);
      await worker.handoff();
      worker.closeConnections();
      // The connection comes back, and no worker has room for it.
      await worker.say(encodeJson({ type: 'capacity', capacity: 0 }));
      await worker.refuse('descriptors');
      while ((await statusOf(control)).connections.waiting === 0);
      program.kill();
      await worker.next('orphaned');
      const { listener, descriptors } = await worker.handoff();
      assert.deepEqual([listener, descriptors[0]?.remoteAddress], [id, client.localAddress]);
      await program.exit;
    }),
  );

  it(
    'goes to a worker also after the process of the last will was killed',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const service = start(...passfd('serve', '--listen', '127.0.0.1:0', '--control', control));
      await service.errorLine(/"listening"/);
      const first = await willOf(service.pid);
      process.kill(first, 'SIGKILL');
      await service.errorLine(/passfd-will was killed/);
      await willOf(service.pid, first);
      assert.equal(willsOf(service.pid).length, 1);
      service.signal('SIGTERM');
      assert.equal(await service.exit, 0);
    }),
  );
});

/** The last-will process of this one, once it has its name; not `before`. */
async function willOf(pid: number, before?: number): Promise<number> {
  for (;;) {
    const will = willsOf(pid).find((found) => found !== before);
    if (will !== undefined) return will;
    await turns();
  }
}

/** The last-will processes of this one. */
function willsOf(pid: number): number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').trim().split(' '),
  );
  return children.map(Number).filter((child) => {
    try {
      return readFileSync(`/proc/${child}/comm`, 'utf8').trim() === 'passfd-will';
    } catch {
      return false; // it has ended
    }
  });
}

/** The processes of the workers in the order of their slots, once there are `count` and all are ready. */
async function workersAt(control: string, count: number): Promise<number[]> {
  for (;;) {
    const status = await statusOf(control).catch(() => undefined);
    const workers = status?.workers ?? [];
    const isReady = workers.length === count && workers.every(({ state }) => state === 'ready');
    if (isReady) return workers.map(({ pid }) => pid);
  }
}
