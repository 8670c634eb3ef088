// Sockets that were replaced because their file was removed: a crash, a slow worker and another program at the path.
import assert from 'node:assert/strict';
import { existsSync, rmSync, statSync } from 'node:fs';
import { describe, it, mock } from 'node:test';

import { Listeners } from '../../../src/dispatcher/listeners.js';
import type { PassfdWorker } from '../../../src/dispatcher/workers/passfd-worker.js';
import { connect, listen, PassfdError, type Acceptor, type Descriptor } from '../../../src/fd/index.js';
import { native } from '../../../src/fd/native.js';
import { EAGAIN, EMFILE } from '../../../src/fd/system-error.js';
import type { CustodyLabel } from '../../../src/handoff/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { onStage } from '../../support/dispatcher-stage.js';
import { failsWith } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';

const MODE = 0o600;

const anyPort = { host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 } as const;

/** The listening sockets of a dispatcher that takes back the sockets that workers have kept. */
interface Scene {
  readonly listeners: Listeners;
  readonly path: string;
  /** Connections that were accepted from a socket whose path is gone. */
  readonly rescued: Descriptor[];
  readonly warnings: unknown[];
  /** A socket at the path, and a client that waits there. */
  readonly listen: () => Promise<Acceptor>;
  /** No connection can be accepted while `body` runs. */
  readonly whileFull: (body: () => Promise<void>) => Promise<void>;
  /** Removes the file, as an app or a cleaner does. */
  readonly removeFile: () => void;
}

function withScene(body: (scene: Scene) => Promise<void>): () => Promise<void> {
  return keepsDescriptors(async () => {
    await using directory = await temporaryDirectory();
    const path = `${directory.path}/web`;
    const acceptors: Acceptor[] = [];
    const clients: Disposable[] = [];
    const rescued: Descriptor[] = [];
    const warnings: unknown[] = [];
    let isFull = false;
    const ignore = (): void => undefined;
    const listeners = new Listeners({
      opened: ignore,
      stranded: (_loop, acceptor) => {
        if (isFull) throw new PassfdError('ERR_DESCRIPTOR_LIMIT', 'No descriptor is left');
        rescued.push(...acceptor.acceptNow());
      },
      exchanged: ignore,
      closing: ignore,
      closed: ignore,
      refusedPeer: (error) => warnings.push(error),
      warned: (error) => warnings.push(error),
    });
    try {
      await body({
        listeners,
        path,
        rescued,
        warnings,
        listen: async () => {
          const acceptor = await listen(path);
          acceptors.push(acceptor);
          clients.push(await connect(path));
          return acceptor;
        },
        whileFull: async (run) => {
          isFull = true;
          await run();
          isFull = false;
        },
        removeFile: () => {
          rmSync(path);
        },
      });
    } finally {
      for (const loop of [...listeners]) await listeners.close(loop);
      await listeners.closeReturned();
      for (const one of [...clients, ...rescued]) one[Symbol.dispose]();
      for (const acceptor of acceptors) await acceptor.close();
    }
  });
}

/** The label with which a worker keeps it. */
function labelOf(key: string, { fileIdentity }: Acceptor): CustodyLabel {
  return { key, file: fileIdentity };
}

describe('a worker that has missed an exchange, and a worker that has not,', () => {
  for (const isMissedFirst of [true, false]) {
    const order = isMissedFirst ? 'in this order' : 'the other one first';
    it(
      `bring both sockets of an address that was asked for, ${order}: clients of both are served, at the one with the file`,
      withScene(async ({ listeners, path, rescued, warnings, listen: listenThere, removeFile }) => {
        const missed = await listenThere();
        removeFile();
        const present = await listenThere();
        const key = `wanted ${JSON.stringify({ path, mode: MODE })}`;
        const { ino } = statSync(path);
        for (const acceptor of isMissedFirst ? [missed, present] : [present, missed]) {
          await listeners.takeReturned(labelOf(key, acceptor), acceptor.duplicate());
          await listeners.takeReturned(labelOf(key, acceptor), acceptor.duplicate());
        }
        const [loop, ...others] = listeners;
        assert.deepEqual(others, []);
        assert.equal(loop?.acceptor.inode, present.inode);
        assert.equal(rescued.length, 1);
        assert.equal(statSync(path).ino, ino);
        assert.deepEqual(warnings, []);
      }),
    );

    it(
      `bring both sockets of the dispatcher's own address, ${order}: clients of both are served, at the one with the file`,
      withScene(async ({ listeners, path, rescued, warnings, listen: listenThere, removeFile }) => {
        const missed = await listenThere();
        removeFile();
        const present = await listenThere();
        const key = `own ${path}`;
        const { ino } = statSync(path);
        for (const acceptor of isMissedFirst ? [missed, present] : [present, missed]) {
          await listeners.takeReturned(labelOf(key, acceptor), acceptor.duplicate());
        }
        const loop = await listeners.openOwn({ path }, undefined);
        await listeners.closeReturned();
        assert.equal(loop.acceptor.inode, present.inode);
        assert.equal(rescued.length, 1);
        assert.equal(statSync(path).ino, ino);
        assert.deepEqual(warnings, []);
      }),
    );

    it(
      `bring both while no descriptor is free, ${order}: clients of both are served when one is`,
      withScene(async (scene) => {
        const { listeners, path, rescued, warnings } = scene;
        const missed = await scene.listen();
        scene.removeFile();
        const present = await scene.listen();
        const key = `wanted ${JSON.stringify({ path, mode: MODE })}`;
        await scene.whileFull(async () => {
          for (const acceptor of isMissedFirst ? [missed, present] : [present, missed]) {
            await listeners.takeReturned(labelOf(key, acceptor), acceptor.duplicate());
            await listeners.takeReturned(labelOf(key, acceptor), acceptor.duplicate());
          }
          await listeners.closeReturned();
        });
        assert.equal(rescued.length, 0);
        assert.equal(warnings.length, 1);
        await listeners.closeReturned();
        const [loop, ...others] = listeners;
        assert.deepEqual(others, []);
        assert.equal(loop?.acceptor.inode, present.inode);
        assert.equal(rescued.length, 1);
        assert.equal(existsSync(path), true);
      }),
    );

    it(
      `come back to the dispatcher's own address, one of them after its start, ${order}`,
      withScene(async ({ listeners, path, rescued, listen: listenThere, removeFile }) => {
        const missed = await listenThere();
        removeFile();
        const present = await listenThere();
        const key = `own ${path}`;
        const [first, second] = isMissedFirst ? [missed, present] : [present, missed];
        await listeners.takeReturned(labelOf(key, first), first.duplicate());
        const loop = await listeners.openOwn({ path }, undefined);
        await listeners.closeReturned();
        await listeners.takeReturned(labelOf(key, second), second.duplicate());
        await listeners.closeReturned();
        assert.equal(loop.acceptor.inode, present.inode);
        assert.equal(rescued.length, 1);
        assert.equal(existsSync(path), true);
      }),
    );
  }
});

describe('a file of another program at the path of a socket that is brought back', () => {
  it(
    'is reported, and stays',
    withScene(async ({ listeners, path, warnings, listen: listenThere, removeFile }) => {
      const ours = await listenThere();
      removeFile();
      await listenThere();
      const key = `wanted ${JSON.stringify({ path, mode: MODE })}`;
      await listeners.takeReturned(labelOf(key, ours), ours.duplicate());
      const [loop] = listeners;
      assert.ok(loop);
      await assert.rejects(listeners.restoreFile(loop), failsWith('ERR_ADDRESS_IN_USE'));
      // The worker goes on with its other addresses.
      assert.equal(await listeners.openWanted({ path, mode: MODE }, 16), loop);
      assert.equal(warnings.length, 1);
      await listeners.end(loop);
      assert.equal(existsSync(path), true);
    }),
  );
});

describe('a socket whose clients could not be accepted for lack of a descriptor', () => {
  it(
    'is emptied by the next restoreFiles',
    onStage({}, async (stage) => {
      const wanted = { path: `${stage.directory}/web`, mode: MODE };
      const { path } = wanted;
      await using missed = await listen(path);
      const client = await stage.client(wanted);
      rmSync(path);
      await using present = await listen(path);
      const custody = [missed, present].map((acceptor) => ({
        ...labelOf(`wanted ${JSON.stringify(wanted)}`, acceptor),
        descriptor: stage.own(acceptor.duplicate()),
      }));
      const accept = mock.method(native, 'accept').mock;
      stage.dispatcher.once('joined', () => {
        accept.mockImplementation(() => EMFILE);
      });
      const returned = stage.next('returned');
      await stage.join({ custody: true, returns: { id: 1, custody } });
      await returned;
      accept.restore();
      assert.equal(stage.warnings.splice(0).length, 1);
      await stage.dispatcher.restoreFiles();
      const worker = await stage.join();
      await worker.listenAt(wanted);
      await worker.ready();
      await worker.handoffs(1);
      assert.equal(client.closed, false);
    }),
  );
});

describe('a Unix socket that is opened anew', () => {
  it(
    'has the backlog that the app had asked for, and hands it on',
    onStage({}, async (stage) => {
      const wanted = { path: `${stage.directory}/web`, mode: MODE };
      const worker = await stage.join({ custody: true });
      await worker.askToListen(wanted, 1);
      await worker.entrusted();
      await worker.next('listening');
      const frozen = await stage.dispatcher.freeze();
      assert.equal(frozen.snapshot.listeners[0]?.backlog, 1);
      frozen[Symbol.dispose]();
      stage.dispatcher.thaw();
      rmSync(wanted.path);
      await stage.dispatcher.restoreFiles();
      assert.equal((await worker.entrusted()).backlog, 1);
      // The kernel accepts one connection more than the backlog.
      for (let count = 0; count < 2; count++) await stage.client(wanted);
      assert.equal(native.connectUnix(Buffer.from(wanted.path)), EAGAIN);
    }),
  );
});

describe('a worker whose channel is full while a socket is exchanged', () => {
  for (const hasFirst of [true, false]) {
    it(
      `keeps neither socket when the address is closed, ${hasFirst ? 'and it had the first one' : 'and it had none'}`,
      onStage({}, async (stage) => {
        const full = await stage.join({ custody: true });
        const other = await stage.join();
        const handle = stage.dispatcher.workers.find(({ id }) => id === full.id) as PassfdWorker;
        const wanted = { path: `${stage.directory}/web`, mode: MODE };
        const fill = async (): Promise<void> => {
          while (handle.socket.unsent().length === 0) {
            const { id } = await other.listenAt(anyPort);
            await other.unlisten(id);
          }
        };
        if (!hasFirst) await fill();
        const { id } = await other.listenAt(wanted);
        await fill();
        rmSync(wanted.path);
        await stage.dispatcher.restoreFiles();
        await other.unlisten(id);
        await stage.until(() => stage.dispatcher.status().listeners.length === 0);
        // The messages until an address that stays open.
        await other.listenAt({ ...anyPort, index: 1 });
        const kept = new Set<number>();
        let key = '';
        while (!key.includes('"index":1')) {
          const message = await full.message();
          if (message?.type === 'custody') {
            ({ key } = message);
            kept.add(message.listener);
            full.take(1);
          }
          if (message?.type === 'release') for (const gone of message.listeners) kept.delete(gone);
        }
        assert.equal(kept.size, 1);
      }),
    );
  }
});
