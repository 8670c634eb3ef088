// connect: waiting for a listener and for room in its backlog, and aborting that.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { describe, it } from 'node:test';

import { connect, listen, type TcpAddress } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { temporaryDirectory } from '../../support/files.js';
import { leaveSocketFile } from '../../support/listeners.js';
import { isPending } from '../../support/loop.js';

const reason = new Error('given up');

describe('connect to a listener whose backlog is full', () => {
  it(
    'waits for room',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/s`;
      await using acceptor = await listen(path, { backlog: 0 });
      using first = await connect(path);
      const waiting = connect(path);
      assert.equal(await isPending(waiting), true);
      using accepted = await acceptor.accept();
      using second = await waiting;
      using next = await acceptor.accept();
      assert.deepEqual(
        [first, second, accepted, next].map(({ closed }) => closed),
        [false, false, false, false],
      );
    }),
  );

  it(
    'stops waiting when the signal aborts, with its reason',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/s`;
      await using acceptor = await listen(path, { backlog: 0 });
      using first = await connect(path);
      const controller = new AbortController();
      const waiting = connect(path, { signal: controller.signal });
      assert.equal(await isPending(waiting), true);
      controller.abort(reason);
      await assert.rejects(waiting, reason);
      assert.equal(first.closed || acceptor.closed, false);
      assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
    }),
  );
});

describe('connect with waitForListener', () => {
  it(
    'waits until a process listens at the path, also while a left-over file is there',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      for (const path of [`${directory.path}/s`, `${directory.path}/stale`]) {
        if (path.endsWith('stale')) await leaveSocketFile(path);
        const waiting = connect(path, { waitForListener: true });
        assert.equal(await isPending(waiting), true);
        await using acceptor = await listen(path);
        using client = await waiting;
        using accepted = await acceptor.accept();
        assert.equal(client.closed || accepted.closed, false);
      }
    }),
  );

  it(
    'waits until a process listens at the port',
    keepsDescriptors(async () => {
      const reserved = await listen({ host: '127.0.0.1', port: 0 });
      const { address } = reserved;
      await reserved.close();
      const waiting = connect(address, { waitForListener: true });
      assert.equal(await isPending(waiting), true);
      await using acceptor = await listen(address);
      using client = await waiting;
      using accepted = await acceptor.accept();
      assert.equal(client.closed || accepted.closed, false);
    }),
  );

  it(
    'stops waiting when the signal aborts, with its reason',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const controller = new AbortController();
      const waiting = connect(`${directory.path}/s`, { waitForListener: true, signal: controller.signal });
      assert.equal(await isPending(waiting), true);
      controller.abort(reason);
      await assert.rejects(waiting, reason);
    }),
  );

  it(
    'does not wait after an error that waiting cannot end',
    keepsDescriptors(async () => {
      const options = { waitForListener: true };
      await assert.rejects(connect('/'.padEnd(200, 's'), options), { code: 'ERR_ADDRESS' });
      await assert.rejects(connect('', options), TypeError);
    }),
  );
});

describe('connect over TCP', () => {
  it(
    'stops when the signal aborts while the name is looked up, or the connection is made',
    keepsDescriptors(async () => {
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const { port } = acceptor.address as TcpAddress;
      for (const host of ['localhost', '127.0.0.1']) {
        const controller = new AbortController();
        const connecting = connect({ host, port }, { signal: controller.signal });
        controller.abort(reason);
        await assert.rejects(connecting, reason);
        assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
        await assert.rejects(connect({ host, port }, { signal: controller.signal }), reason);
      }
    }),
  );
});
