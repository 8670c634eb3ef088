// What a Notifier sends, as a manager in another process gets it: over a real socket, whose queue is short.
import assert from 'node:assert/strict';
import { fstatSync } from 'node:fs';
import { describe, it } from 'node:test';

import { MAX_DESCRIPTORS, type PassfdError } from '../../src/fd/index.js';
import { Notifier } from '../../src/systemd/index.js';
import { openFile, temporaryDirectory } from '../support/files.js';
import { isPending } from '../support/loop.js';
import { withPrograms } from '../support/program.js';
import { ServiceManager, withoutServiceManager } from '../support/service-manager.js';

/** A manager that this process notifies. */
function notifying(
  body: (notifier: Notifier, manager: ServiceManager, warnings: readonly PassfdError[]) => Promise<void>,
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const notify = `${directory.path}/notify`;
    const manager = new ServiceManager(start, { command: [], notify });
    await manager.addresses();
    const warnings: PassfdError[] = [];
    const warn = (warning: PassfdError): void => {
      warnings.push(warning);
    };
    using notifier = new Notifier({ NOTIFY_SOCKET: notify }, { warn });
    await body(notifier, manager, warnings);
    await manager.end();
  });
}

function identityOf({ fd }: { readonly fd: number }): number[] {
  const { dev, ino } = fstatSync(fd);
  return [dev, ino];
}

describe('a notifier', { skip: withoutServiceManager }, () => {
  it(
    'tells when it begins to reload by the clock that the manager has too',
    notifying(async (notifier, manager) => {
      notifier.ready();
      const before = await manager.next();
      notifier.reloading();
      const { lines, usec, pid } = await manager.next();
      const [first, second = ''] = lines;
      const [, told] = /^MONOTONIC_USEC=(\d+)$/.exec(second) ?? [];
      assert.equal(first, 'RELOADING=1');
      assert.ok(
        Number(told) >= before.usec && Number(told) <= usec,
        `${before.usec} ${String(told)} ${usec}`,
      );
      assert.equal(pid, process.pid);
    }),
  );

  it(
    'has descriptors stored under a name, as many as there are',
    notifying(async (notifier, manager) => {
      using file = openFile('stored');
      notifier.store('one', [file]);
      const { lines, fds } = await manager.next();
      assert.deepEqual([lines, fds], [['FDSTORE=1', 'FDNAME=one'], [identityOf(file)]]);
      notifier.store(
        'many',
        Array.from({ length: MAX_DESCRIPTORS + 1 }, () => file),
      );
      const counts = [(await manager.next()).fds.length, (await manager.next()).fds.length];
      assert.deepEqual(counts, [MAX_DESCRIPTORS, 1]);
      notifier.removeStored('many');
      assert.deepEqual((await manager.next()).lines, ['FDSTOREREMOVE=1', 'FDNAME=many']);
    }),
  );

  it(
    'keeps what the manager has no room for, with descriptors that are closed here meanwhile, and sends all in order',
    notifying(async (notifier, manager, warnings) => {
      await manager.turnDeaf();
      const file = openFile('stored');
      const identity = identityOf(file);
      const names = Array.from({ length: 100 }, (_, index) => String(index));
      for (const name of names) notifier.removeStored(name);
      notifier.store('last', [file]);
      file.close();
      const sent = notifier.barrier();
      assert.equal(await isPending(sent), true);
      manager.hear();
      for (const name of names) {
        assert.deepEqual((await manager.next()).lines, ['FDSTOREREMOVE=1', `FDNAME=${name}`]);
      }
      assert.deepEqual((await manager.next()).fds, [identity]);
      assert.equal(await sent, true);
      assert.deepEqual(warnings, []);
    }),
  );

  it(
    'waits at a barrier until the manager has read all of it, and sends one descriptor with that',
    notifying(async (notifier, manager) => {
      await manager.turnDeaf();
      notifier.mainPid(process.pid);
      const read = notifier.barrier();
      assert.equal(await isPending(read), true);
      manager.hear();
      assert.equal(await read, true);
      assert.deepEqual((await manager.next()).lines, [`MAINPID=${process.pid}`]);
      const { lines, fds } = await manager.next();
      assert.deepEqual([lines, fds.length], [['BARRIER=1'], 1]);
    }),
  );

  it(
    'gives a barrier up after its time, with a warning',
    notifying(async (notifier, manager, warnings) => {
      await manager.turnDeaf();
      assert.equal(await notifier.barrier(10), false);
      assert.deepEqual(
        warnings.map(({ code, message }) => [code, message]),
        [
          [
            'ERR_SYSTEM',
            'The service manager may have missed notifications: it has not read it within 10 ms',
          ],
        ],
      );
    }),
  );
});

describe('a service manager that a test waits at', { skip: withoutServiceManager }, () => {
  it(
    'says at once what the service printed when that ends without a notification',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const command = [process.execPath, '-e', "console.log('gave up'); process.exitCode = 3"];
      const manager = new ServiceManager(start, { command, notify: `${directory.path}/notify` });
      await manager.addresses();
      await manager.start();
      await assert.rejects(manager.notified('READY=1'), /ended with 3, .*\ngave up/);
    }),
  );
});
