// The hand-off: a connection always belongs to exactly one process, a worker or the dispatcher.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { Descriptor, StreamSocket } from '../../../src/fd/index.js';
import { encodeAdopted, encodeClosed, encodeJson, encodeRefused } from '../../../src/handoff/index.js';
import { backlogOf, onStage } from '../../support/dispatcher-stage.js';
import { isPending, turns } from '../../support/loop.js';
import { receivedText } from '../../support/stream.js';

/** The addresses of clients: their own view, or that of the worker that has their connections. */
function from(sockets: readonly StreamSocket[]): unknown[] {
  return sockets.map(({ localAddress }) => localAddress);
}

function of(descriptors: readonly Descriptor[]): unknown[] {
  return descriptors.map(({ remoteAddress }) => remoteAddress);
}

describe('a connection', () => {
  it(
    'reaches a worker with the number of its listener',
    onStage({}, async (stage) => {
      const { dispatcher } = stage;
      const own = await stage.address();
      const other = await dispatcher.listen({ host: '127.0.0.1', port: 0 });
      const worker = await stage.join();
      const listeners = await worker.serve();
      assert.deepEqual(
        listeners.map(({ address }) => address),
        [own, other],
      );
      for (const [index, address] of [own, other, own].entries()) {
        const client = await stage.client(address);
        const { listener, descriptors } = await worker.handoff();
        assert.equal(listener, listeners[index % 2]?.id);
        assert.deepEqual(of(descriptors), from([client]));
      }
    }),
  );

  it(
    'stays open in the dispatcher until it is adopted, and no longer',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      const client = await stage.client();
      await worker.handoff();
      worker.closeConnections();
      const ended = receivedText(client);
      assert.equal(await isPending(ended), true);
      await worker.adopt();
      assert.equal(await ended, null);
    }),
  );

  it(
    'is in one batch with others that wait, up to 252 of them',
    onStage({ backlog: 400 }, async (stage) => {
      const address = await stage.address();
      const clients = await stage.clients(300, address);
      const worker = await stage.joinServing({ window: 400 });
      const first = await worker.handoff();
      const second = await worker.handoff();
      assert.deepEqual([first.descriptors.length, second.descriptors.length], [252, 48]);
      assert.deepEqual(of([...first.descriptors, ...second.descriptors]), from(clients));
    }),
  );

  it(
    'waits in the kernel while no worker is ready',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await stage.join();
      await worker.say(encodeJson({ type: 'serve', request: 1 }));
      await worker.next('listening');
      await stage.clients(2);
      await turns();
      assert.equal(backlogOf(address), 2);
      await worker.ready();
      await worker.handoffs(2);
      assert.equal(backlogOf(address), 0);
    }),
  );
});

describe('a worker that gets connections faster than it answers', () => {
  it(
    'is read even when no more connections come',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      const clients = await stage.clients(3);
      await worker.handoffs(3);
      worker.closeConnections();
      await worker.adopt();
      for (const client of clients) assert.equal(await receivedText(client), null);
      assert.equal(stage.dispatcher.status().connections.adopted, 3);
    }),
  );

  it(
    'is read at once when its window is full',
    onStage({ overload: 'refuse' }, async (stage) => {
      const worker = await stage.joinServing({ window: 4 });
      for (let round = 0; round < 20; round++) {
        const clients = await stage.clients(4);
        await worker.handoffs(4);
        await worker.adopt();
        await stage.until(() => stage.dispatcher.status().connections.inFlight === 0);
        worker.closeConnections();
        for (const client of clients) client.destroy();
      }
      assert.equal(stage.dispatcher.status().connections.refused, 0);
    }),
  );

  it(
    'goes on after a freeze',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.clients(3);
      await worker.handoffs(3);
      const frozen = await stage.dispatcher.freeze();
      await worker.adopt();
      frozen[Symbol.dispose]();
      stage.dispatcher.thaw();
      await stage.until(() => stage.dispatcher.status().connections.adopted === 3);
    }),
  );
});

describe('a worker that ends', () => {
  it(
    'loses what it had not adopted to another worker, and nothing else',
    onStage({}, async (stage) => {
      const dying = await stage.joinServing();
      const clients = await stage.clients(5);
      const given = await dying.handoffs(5);
      assert.deepEqual(of(given), from(clients));
      await dying.adopt(2);
      const heir = await stage.joinServing();
      const left = stage.next('left');
      dying.die();
      const [worker, how] = await left;
      assert.deepEqual([worker.id, how], [dying.id, { redelivered: 3, reason: 'its channel ended' }]);
      assert.deepEqual(of(await heir.handoffs(3)), from(clients.slice(2)));
      for (const client of clients.slice(0, 2)) assert.equal(await receivedText(client), null);
      for (const client of clients.slice(2)) assert.equal(await isPending(client.receive()), true);
      const { connections } = stage.dispatcher.status();
      assert.deepEqual(connections, {
        accepted: 5,
        adopted: 2,
        redelivered: 3,
        refused: 0,
        waiting: 0,
        inFlight: 3,
      });
    }),
  );

  it(
    'keeps what it adopted in its last message',
    onStage({}, async (stage) => {
      const dying = await stage.joinServing();
      const clients = await stage.clients(4);
      await dying.handoffs(4);
      const heir = await stage.joinServing();
      const left = stage.next('left');
      // All of these messages are unread in the channel when the worker has ended.
      await dying.say(encodeAdopted(1), encodeRefused(2, 'draining'), encodeAdopted(3), encodeClosed(1));
      dying.die();
      const [worker, { redelivered }] = await left;
      assert.equal(redelivered, 1);
      assert.equal(worker.adopted, 2);
      const inherited = await heir.handoffs(2);
      assert.deepEqual(
        of(inherited),
        from([clients[1], clients[3]].filter((client) => client !== undefined)),
      );
    }),
  );

  it(
    'leaves what it had not adopted to the next worker, if there is no other',
    onStage({}, async (stage) => {
      const dying = await stage.joinServing();
      const clients = await stage.clients(3);
      await dying.handoffs(3);
      const left = stage.next('left');
      dying.die();
      await left;
      assert.equal(stage.dispatcher.status().connections.waiting, 3);
      const late = await stage.client();
      const heir = await stage.joinServing();
      assert.deepEqual(of(await heir.handoffs(4)), from([...clients, late]));
    }),
  );

  it(
    'does not keep others from connections to their own addresses',
    onStage({}, async (stage) => {
      const dying = await stage.join();
      const { address } = await dying.listenAt({ host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 });
      await dying.ready();
      await stage.clients(3, address);
      await dying.handoffs(3);
      // This worker has less room than connections wait for the other address.
      const other = await stage.joinServing({ window: 2 });
      const left = stage.next('left');
      dying.die();
      await left;
      assert.equal(stage.dispatcher.status().connections.waiting, 3);
      const client = await stage.client();
      assert.deepEqual(of(await other.handoffs(1)), from([client]));
    }),
  );
});

describe('a refused connection', () => {
  it(
    'goes to another worker, and the next ones too',
    onStage({}, async (stage) => {
      const refuser = await stage.joinServing();
      const client = await stage.client();
      await refuser.handoffs(1);
      const other = await stage.joinServing();
      await refuser.refuse('capacity');
      assert.deepEqual(of(await other.handoffs(1)), from([client]));
      const others = await stage.clients(4);
      assert.deepEqual(of(await other.handoffs(4)), from(others));
      assert.equal(stage.dispatcher.status().connections.redelivered, 1);
    }),
  );

  it(
    'comes back to the only worker as soon as that has closed another',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      const clients = await stage.clients(2);
      await worker.handoffs(2);
      await worker.say(encodeAdopted(1), encodeRefused(2, 'descriptors'));
      const [[starved]] = await Promise.all([stage.next('starved')]);
      assert.equal(starved.id, worker.id);
      assert.equal(stage.dispatcher.status().connections.waiting, 1);
      await worker.sayClosed(1);
      assert.deepEqual(of(await worker.handoffs(1)), from(clients.slice(1)));
    }),
  );

  it(
    'does not come back at once to a worker that repeats the number of closed connections',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      // All messages are handled before any timer runs.
      const waiting = new Promise((resolve) => {
        stage.dispatcher.once('draining', () => {
          resolve(stage.dispatcher.status().connections.waiting);
        });
      });
      await worker.say(encodeRefused(1, 'capacity'), encodeClosed(0), encodeJson({ type: 'draining' }));
      assert.equal(await waiting, 1);
    }),
  );

  it(
    'comes back to the only worker after a pause, if that closes nothing',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      const clients = await stage.clients(1);
      await worker.handoffs(1);
      await worker.refuse('descriptors');
      assert.deepEqual(of(await worker.handoffs(1)), from(clients));
    }),
  );

  it(
    'is counted once as redelivered, when a worker gets it, however often it was refused',
    onStage({}, async (stage) => {
      const refuser = await stage.joinServing();
      await stage.client();
      for (let times = 0; times < 3; times++) {
        await refuser.handoffs(1);
        await refuser.refuse('descriptors');
        await stage.next('starved');
        assert.equal(stage.dispatcher.status().connections.redelivered, times === 0 ? 0 : 1);
      }
      await refuser.handoffs(1);
      assert.equal(stage.dispatcher.status().connections.redelivered, 1);
    }),
  );

  it(
    'is refused with its whole batch by one message, and settled with the next',
    onStage({}, async (stage) => {
      const refuser = await stage.joinServing();
      const clients = await stage.clients(6);
      await refuser.handoffs(6);
      const other = await stage.joinServing();
      await refuser.say(encodeAdopted(1), encodeRefused(4, 'capacity'), encodeAdopted(6));
      assert.deepEqual(of(await other.handoffs(3)), from(clients.slice(1, 4)));
      await stage.until(() => stage.dispatcher.status().connections.adopted === 3);
    }),
  );
});

describe('what is in flight to a worker', () => {
  it(
    'is bounded by its window; other clients wait in the kernel until there is room',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await stage.joinServing({ window: 3 });
      const clients = await stage.clients(5);
      assert.deepEqual(of(await worker.handoffs(3)), from(clients.slice(0, 3)));
      await turns();
      assert.equal(backlogOf(address), 2);
      const { connections } = stage.dispatcher.status();
      assert.deepEqual([connections.accepted, connections.inFlight, connections.waiting], [3, 3, 0]);
      await worker.adopt(1);
      assert.deepEqual(of(await worker.handoffs(1)), from(clients.slice(3, 4)));
      await turns();
      assert.equal(backlogOf(address), 1);
      await worker.adopt(4);
      assert.deepEqual(of(await worker.handoffs(1)), from(clients.slice(4)));
    }),
  );

  it(
    'is bounded by the windows of all workers together',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const workers = [await stage.joinServing({ window: 2 }), await stage.joinServing({ window: 1 })];
      await stage.clients(5);
      await workers[0]?.handoffs(2);
      await workers[1]?.handoffs(1);
      await turns();
      assert.equal(backlogOf(address), 2);
      await workers[1]?.adopt();
      await workers[1]?.handoffs(1);
      await turns();
      assert.equal(backlogOf(address), 1);
    }),
  );

  it(
    'follows the window when the worker changes it',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await stage.joinServing({ window: 1 });
      await stage.clients(4);
      await worker.handoffs(1);
      await worker.say(encodeJson({ type: 'window', window: 3 }));
      await worker.handoffs(2);
      await worker.say(encodeJson({ type: 'window', window: 1 }), encodeAdopted(2));
      await turns();
      assert.equal(backlogOf(address), 1);
      await worker.adopt(3);
      await worker.handoffs(1);
    }),
  );

  it(
    'is bounded by its capacity, together with its open connections',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await stage.joinServing({ capacity: 2 });
      await stage.clients(4);
      await worker.handoffs(2);
      await worker.adopt();
      await turns();
      assert.equal(backlogOf(address), 2);
      await worker.sayClosed(1);
      await worker.handoffs(1);
      await turns();
      assert.equal(backlogOf(address), 1);
      await worker.say(encodeJson({ type: 'capacity', capacity: null }));
      await worker.handoffs(1);
    }),
  );

  it(
    'is bounded by the smaller of the two',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await stage.joinServing({ window: 1, capacity: 2 });
      await stage.clients(3);
      await worker.handoffs(1);
      await turns();
      assert.equal(backlogOf(address), 2);
      await worker.adopt();
      await worker.handoffs(1);
      await worker.adopt();
      await turns();
      assert.equal(backlogOf(address), 1);
    }),
  );

  it(
    'is nothing while its capacity is 0',
    onStage({}, async (stage) => {
      const address = await stage.address();
      const worker = await stage.joinServing({ capacity: 0 });
      await stage.clients(1);
      await turns();
      assert.equal(backlogOf(address), 1);
      await worker.say(encodeJson({ type: 'capacity', capacity: 1 }));
      await worker.handoffs(1);
    }),
  );
});
