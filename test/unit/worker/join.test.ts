// Joining a dispatcher: the welcome, and the ways in which there is none; and finding it again.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import assert from 'node:assert/strict';
import { join as joinPath } from 'node:path';
import { describe, it } from 'node:test';

import { listen, socketPair } from '../../../src/fd/index.js';
import { encodeJson } from '../../../src/handoff/index.js';
import { Listener } from '../../../src/multiprocessing/index.js';
import { join } from '../../../src/worker/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';
import { LISTENER, onStage, PlayedDispatcher } from './played-dispatcher.js';

describe('joining', () => {
  it(
    'tells the worker its number, and removes the variable that named its channel',
    onStage(async ({ worker }) => {
      assert.equal(worker.id, 3);
      assert.equal(worker.serves, true);
      assert.equal(process.env['PASSFD_CHANNEL_FD'], undefined);
      await Promise.resolve();
    }),
  );

  it(
    'fails with the reason of a dispatcher that says farewell',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      process.env['PASSFD_CHANNEL_FD'] = String(there.release().release());
      const joining = join();
      await here.send(encodeJson({ type: 'farewell', code: 'ERR_HELLO', reason: 'another version' }));
      here.destroy();
      await assert.rejects(joining, failsWith('ERR_DISPATCHER', /another version/));
    }),
  );

  it(
    'fails when the dispatcher ends the channel without a word',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      process.env['PASSFD_CHANNEL_FD'] = String(there.release().release());
      const joining = join();
      here.destroy();
      await assert.rejects(joining, failsWith('ERR_PEER_GONE'));
    }),
  );

  it(
    'fails when the dispatcher says nothing in time',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      process.env['PASSFD_CHANNEL_FD'] = String(there.release().release());
      await assert.rejects(join({ handshakeTimeoutMs: 20 }), failsWith('ERR_HANDSHAKE_TIMEOUT'));
      here.destroy();
    }),
  );

  it('fails at once with a window that is none', async () => {
    await assert.rejects(join({ window: 0 }), TypeError);
  });
});

describe('a worker whose dispatcher died', () => {
  it(
    'joins the next one at the same path, and asks for its connections again from position 1',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const control = joinPath(directory.path, 'control');
      const listener = await Listener(control);
      const acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const server = createServer((socket) => socket.end());
      const joining = join({ control });
      const first = new PlayedDispatcher((await listener.accept()).socket);
      const [worker] = await Promise.all([joining, first.welcome()]);
      await Promise.all([worker.serve(server), first.grant(acceptor)]);
      const gone = once(worker, 'disconnected');
      const back = once(worker, 'reconnected');
      first.socket.destroy();
      await gone;
      assert.ok(server.listening);

      const second = new PlayedDispatcher((await listener.accept()).socket);
      await second.welcome();
      await second.grant(acceptor);
      await Promise.all([back, second.hears('ready')]);
      const client = connect('port' in acceptor.address ? acceptor.address.port : 0, '127.0.0.1');
      using connection = await acceptor.accept();
      await second.handOff([connection], LISTENER);
      assert.equal((await second.hears('adopted')).position, 1);
      connection.close();
      client.resume();
      await once(client, 'close');

      server.close();
      await worker.close();
      second.socket.destroy();
      await acceptor.close();
      await listener.close();
    }),
  );
});
