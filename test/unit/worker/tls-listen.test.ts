// What a worker with a TLS server sends about its ticket keys, and what it does with the secret of the dispatcher.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createPlainServer, type Server as NetServer } from 'node:net';
import { describe, it } from 'node:test';
import { createServer, type Server } from 'node:tls';

import { TicketSecret, type TicketSecretMessage } from '../../../src/handoff/index.js';
import { LISTENER, onStage, type Stage } from './played-dispatcher.js';

const OLD: TicketSecretMessage = { secret: Buffer.alloc(32, 1).toString('base64'), ageMs: 1000 };
const NEW: TicketSecretMessage = { secret: Buffer.alloc(32, 2).toString('base64'), ageMs: 0 };

function keysOf(server: Server): string {
  return server.getTicketKeys().toString('hex');
}

/** Serves, and answers with this secret. @returns what the worker has sent about tickets */
async function serve(
  { dispatcher, worker, acceptor }: Stage,
  server: NetServer,
  tickets?: TicketSecretMessage,
): Promise<unknown> {
  const serving = worker.serve(server);
  const { request, tickets: asked } = await dispatcher.hears('serve');
  const listeners = [
    { id: LISTENER, address: acceptor.address },
    { id: LISTENER + 1, address: acceptor.address },
  ];
  await dispatcher.say({ type: 'listening', request, listeners, tickets });
  await serving;
  return asked;
}

/** When the worker answers this, it has read every message before it. */
async function change(
  { dispatcher, worker }: Stage,
  listener: number,
  tickets: TicketSecretMessage,
): Promise<void> {
  await dispatcher.say({ type: 'tickets', listener, tickets });
  const drain = once(worker, 'drain');
  await dispatcher.say({ type: 'drain' });
  await drain;
}

describe('a worker whose server speaks TLS', () => {
  it(
    'asks for the secret, and has its keys when it listens',
    onStage(async (stage) => {
      const server = createServer();
      const before = keysOf(server);
      const atListening = once(server, 'listening').then(() => keysOf(server));
      assert.equal(await serve(stage, server, OLD), null);
      // Connections that follow the answer come later than this.
      const keys = keysOf(server);
      assert.notEqual(keys, before);
      assert.equal(await atListening, keys);
      server.close();
    }),
  );

  it(
    'has the keys of the next secret as soon as the secret comes',
    onStage(async (stage) => {
      const [server, other] = [createServer(), createServer()];
      await serve(stage, server, OLD);
      const before = keysOf(server);
      await change(stage, LISTENER, NEW);
      assert.notEqual(keysOf(server), before);
      assert.notEqual(keysOf(server), keysOf(other));
    }),
  );

  it(
    'keeps the keys of the first of its addresses',
    onStage(async (stage) => {
      const server = createServer();
      await serve(stage, server, OLD);
      const before = keysOf(server);
      await change(stage, LISTENER + 1, NEW);
      assert.equal(keysOf(server), before);
    }),
  );

  it(
    'keeps keys that the app sets while it listens',
    onStage(async (stage) => {
      const server = createServer();
      await serve(stage, server, OLD);
      const own = Buffer.alloc(48, 9);
      server.setTicketKeys(own);
      await change(stage, LISTENER, NEW);
      assert.equal(keysOf(server), own.toString('hex'));
    }),
  );

  it(
    "does not ask where the app's keys are in force, nor where its server speaks no TLS",
    onStage(async (stage) => {
      const own = createServer({ ticketKeys: Buffer.alloc(48, 9) });
      assert.equal(await serve(stage, own), undefined);
      own.close();
      await stage.dispatcher.hears('unlisten');
      const plain = createPlainServer();
      assert.equal(await serve(stage, plain), undefined);
      plain.close();
    }),
  );

  it(
    'has keys of its own at a dispatcher of an earlier release, which knows no secret',
    onStage(async (stage) => {
      const server = createServer();
      const before = keysOf(server);
      await serve(stage, server);
      assert.equal(keysOf(server), before);
      server.close();
    }),
  );

  it(
    'has the secret of its next address when it is closed and listens elsewhere',
    onStage(async (stage) => {
      const server = createServer();
      await serve(stage, server, OLD);
      const before = keysOf(server);
      const closed = once(server, 'close');
      server.close();
      await closed;
      assert.equal(await serve(stage, server, NEW), null, 'it brings nothing from another address');
      assert.notEqual(keysOf(server), before);
      server.close();
    }),
  );
});

it('a secret ages while a process has it', () => {
  const secret = TicketSecret.decode(OLD, 50_000);
  assert.deepEqual(secret.encode(52_000), { ...OLD, ageMs: 3000 });
});
