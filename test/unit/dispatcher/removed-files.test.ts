// Files of Unix sockets that are removed while the sockets are open: the dispatcher listens there again.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { describe, it, mock } from 'node:test';

import { connect, listen, StreamSocket } from '../../../src/fd/index.js';
import { native } from '../../../src/fd/native.js';
import { EMFILE } from '../../../src/fd/system-error.js';
import { onStage } from '../../support/dispatcher-stage.js';
import { failsWith } from '../../support/errors.js';
import { FakeWorker } from '../../support/fake-worker.js';
import { receivedText } from '../../support/stream.js';

describe('a Unix socket whose file was removed', () => {
  it(
    'is opened anew; clients of the old socket and of the new one are served',
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
    'is exchanged in the workers that keep it, under the same key',
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
    'by an app before its own listen, is there again afterwards, with the mode that the app asks for',
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
    'or rather renamed in its directory, is left alone',
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
    'can be reached again if it is the control socket',
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
    'can be reached again if it is the raw control socket',
    onStage({}, async (stage) => {
      const path = `${stage.directory}/raw`;
      await stage.dispatcher.openRawControl(path);
      rmSync(path);
      await stage.dispatcher.restoreFiles();
      stage.own(await connect(path));
      await stage.until(() => stage.dispatcher.workers.length === 1);
    }),
  );

  it(
    'is opened anew although another cannot be, whose directory is gone',
    onStage({}, async (stage) => {
      const gone = `${stage.directory}/gone`;
      mkdirSync(gone);
      await stage.dispatcher.listen({ path: `${gone}/web` });
      const address = { path: `${stage.directory}/web` };
      await stage.dispatcher.listen(address);
      rmSync(gone, { recursive: true });
      rmSync(address.path);
      await assert.rejects(stage.dispatcher.restoreFiles(), failsWith('ERR_ADDRESS_MISSING'));
      await stage.client(address);
    }),
  );

  it(
    'is opened anew although the control socket cannot be, whose path another program has',
    onStage({}, async (stage) => {
      const address = { path: `${stage.directory}/web` };
      await stage.dispatcher.listen(address);
      rmSync(stage.control);
      rmSync(address.path);
      const other = await listen(stage.control);
      await assert.rejects(stage.dispatcher.restoreFiles(), failsWith('ERR_ADDRESS_IN_USE'));
      await stage.client(address);
      await other.close();
    }),
  );

  for (const [how, blocked] of [
    ['whose directories are gone', []],
    ['the first since a file is in the place of its directory', ['one']],
    ['since files are in the place of their directories', ['one', 'two']],
  ] as const) {
    it(
      `is named with all others that cannot be opened anew, ${how}`,
      onStage({}, async (stage) => {
        const directories = ['one', 'two'].map((name) => `${stage.directory}/${name}`);
        for (const directory of directories) {
          mkdirSync(directory);
          await stage.dispatcher.listen({ path: `${directory}/web` });
        }
        for (const directory of directories) rmSync(directory, { recursive: true });
        for (const name of blocked) writeFileSync(`${stage.directory}/${name}`, 'no directory');
        await assert.rejects(stage.dispatcher.restoreFiles(), (error: Error) =>
          directories.every((directory) => error.message.includes(`${directory}/web`)),
        );
        for (const name of blocked) rmSync(`${stage.directory}/${name}`);
      }),
    );
  }

  it(
    'is left as it is while no descriptor is free for its clients, and no client is lost',
    onStage({}, async (stage) => {
      const address = { path: `${stage.directory}/web` };
      await stage.dispatcher.listen(address);
      const client = await stage.client(address);
      rmSync(address.path);
      const full = mock.method(native, 'accept', () => EMFILE).mock;
      await assert.rejects(stage.dispatcher.restoreFiles(), failsWith('ERR_DESCRIPTOR_LIMIT'));
      full.restore();
      assert.equal(existsSync(address.path), false);
      await stage.dispatcher.restoreFiles();
      const worker = await stage.joinServing();
      const [connection] = await worker.handoffs(1);
      await worker.adopt();
      await client.send(Buffer.from('here'));
      assert.ok(connection);
      using served = new StreamSocket(connection.duplicate());
      assert.equal(await receivedText(served), 'here');
    }),
  );

  it(
    'is left as it is then, too, if it is the control socket',
    onStage({}, async (stage) => {
      const full = mock.method(native, 'accept', () => EMFILE).mock;
      const worker = stage.own(new FakeWorker(await connect(stage.control)));
      await stage.until(() => stage.warnings.length > 0);
      rmSync(stage.control);
      await assert.rejects(stage.dispatcher.restoreFiles(), failsWith('ERR_DESCRIPTOR_LIMIT'));
      full.restore();
      await stage.dispatcher.restoreFiles();
      assert.equal((await worker.sayHello()).id, 1);
      stage.warnings.length = 0;
    }),
  );

  it(
    'is opened once when two ask for it at the same time',
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
