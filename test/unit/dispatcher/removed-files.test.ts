// Files of Unix sockets that somebody removes while their sockets live: the dispatcher can be reached there again.
import assert from 'node:assert/strict';
import { existsSync, renameSync, rmSync, statSync } from 'node:fs';
import { describe, it } from 'node:test';

import { connect } from '../../../src/fd/index.js';
import { onStage } from '../../support/dispatcher-stage.js';

describe('a Unix socket whose file was removed', () => {
  it(
    'is opened anew, and who waited at the one before is served, as who comes then',
    onStage({}, async (stage) => {
      const address = { path: `${stage.directory}/web` };
      await stage.dispatcher.listen(address);
      const early = await stage.client(address);
      rmSync(address.path);
      const told = stage.next('relistened');
      await stage.dispatcher.restoreFiles();
      assert.deepEqual((await told)[0], address);
      const late = await stage.client(address);
      const worker = await stage.joinServing();
      await worker.handoffs(2);
      await worker.adopt();
      assert.deepEqual([early.closed, late.closed], [false, false]);
      await stage.dispatcher.close();
      assert.equal(existsSync(address.path), false);
    }),
  );

  it(
    'is exchanged where workers keep it, under the same key',
    onStage({}, async (stage) => {
      const address = { path: `${stage.directory}/web` };
      const worker = await stage.join({ custody: true });
      await stage.dispatcher.listen(address);
      const before = stage.own((await worker.entrusted()).descriptor);
      rmSync(address.path);
      await stage.dispatcher.restoreFiles();
      const after = stage.own((await worker.entrusted()).descriptor);
      assert.notEqual(after.inode, before.inode);
      assert.deepEqual(after.localAddress, address);
    }),
  );

  it(
    'by an app in front of its own listen, is there again behind that, with the mode that it asks for',
    onStage({}, async (stage) => {
      const wanted = { path: `${stage.directory}/web`, mode: 0o660 };
      const [first, second] = [await stage.join(), await stage.join()];
      const { id } = await first.listenAt(wanted);
      rmSync(wanted.path);
      assert.equal((await second.listenAt(wanted)).id, id);
      assert.equal(statSync(wanted.path).mode & 0o777, wanted.mode);
      await stage.client({ path: wanted.path });
    }),
  );

  it(
    'and renamed in its directory instead, is left alone',
    onStage({}, async (stage) => {
      const address = { path: `${stage.directory}/draft` };
      await stage.dispatcher.listen(address);
      renameSync(address.path, `${stage.directory}/web`);
      await stage.dispatcher.restoreFiles();
      assert.equal(existsSync(address.path), false);
      await stage.client({ path: `${stage.directory}/web` });
    }),
  );

  it(
    'is reached again also where it is the control socket',
    onStage({}, async (stage) => {
      await stage.join();
      rmSync(stage.control);
      await stage.dispatcher.restoreFiles();
      (await connect(stage.control)).destroy();
      await stage.join();
      await stage.until(() => stage.dispatcher.workers.length === 2);
    }),
  );

  it(
    'is opened once, though two ask for it at the same time',
    onStage({}, async (stage) => {
      const address = { path: `${stage.directory}/web` };
      await stage.dispatcher.listen(address);
      rmSync(address.path);
      let told = 0;
      stage.dispatcher.on('relistened', () => told++);
      await Promise.all([stage.dispatcher.restoreFiles(), stage.dispatcher.restoreFiles()]);
      assert.equal(told, 1);
    }),
  );
});
