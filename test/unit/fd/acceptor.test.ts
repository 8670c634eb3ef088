// Acceptor: takes connections out of the backlog exactly when asked.
import assert from 'node:assert/strict';
import { getEventListeners, once } from 'node:events';
import { constants } from 'node:os';
import { describe, it, mock } from 'node:test';

import {
  Acceptor,
  connect,
  listen,
  socketPair,
  StreamSocket,
  type Descriptor,
  type PassfdError,
  type TcpAddress,
} from '../../../src/fd/index.js';
import { closeAll as closeTogether } from '../../../src/fd/descriptor.js';
import { native } from '../../../src/fd/native.js';
import { EMFILE } from '../../../src/fd/system-error.js';
import { keepsDescriptors, openDescriptors } from '../../support/descriptors.js';
import { openFile } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';
import { received, receivedText } from '../../support/stream.js';

const loopback = { host: '127.0.0.1', port: 0 };
const reason = new Error('given up');

/** Connections that wait in the backlog. */
async function clients(acceptor: Acceptor, count: number): Promise<Disposable> {
  const sockets = await Promise.all(Array.from({ length: count }, () => connect(acceptor.address)));
  return {
    [Symbol.dispose]: () => {
      for (const socket of sockets) socket.destroy();
    },
  };
}

function closeAll(descriptors: readonly Descriptor[]): void {
  for (const descriptor of descriptors) descriptor.close();
}

describe('accept', () => {
  it(
    'brings the connections in the order in which they came, as blocking sockets',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      using first = await connect(acceptor.address);
      using second = await connect(acceptor.address);
      for (const client of [first, second]) {
        using accepted = await acceptor.accept();
        assert.deepEqual(accepted.remoteAddress, client.localAddress);
        assert.equal(native.isNonblocking(accepted.fd), 0);
      }
    }),
  );

  it(
    'waits for a connection, and several wait in the order of the calls',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      const waiting = [acceptor.accept(), acceptor.acceptUpTo(1), acceptor.accept()] as const;
      assert.equal(await isPending(Promise.race(waiting)), true);
      const ports: number[] = [];
      using all = new DisposableSockets();
      for (let count = 0; count < 3; count++) {
        const client = all.add(await connect(acceptor.address));
        ports.push((client.localAddress as TcpAddress).port);
      }
      const accepted = (await Promise.all(waiting)).flat();
      assert.deepEqual(
        accepted.map((descriptor) => (descriptor.remoteAddress as TcpAddress).port),
        ports,
      );
      closeAll(accepted);
    }),
  );

  it(
    'takes no connection until it is asked to',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      using waiting = await clients(acceptor, 3);
      closeAll([await acceptor.accept()]);
      assert.equal(await isPending(new Promise(() => undefined)), true);
      closeAll(await acceptor.acceptUpTo(2));
      assert.notEqual(waiting, undefined);
    }),
  );

  it(
    'stops waiting when the signal aborts, and other accepts go on',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      const { signal } = new AbortController();
      const controller = new AbortController();
      const before = acceptor.accept({ signal });
      const aborted = acceptor.accept({ signal: controller.signal });
      const later = acceptor.accept({ signal });
      controller.abort(reason);
      await assert.rejects(aborted, reason);
      await assert.rejects(acceptor.accept({ signal: controller.signal }), reason);
      using waiting = await clients(acceptor, 2);
      closeAll(await Promise.all([before, later]));
      assert.equal(getEventListeners(signal, 'abort').length, 0);
      assert.notEqual(waiting, undefined);
    }),
  );
});

describe('acceptUpTo', () => {
  it(
    'brings the waiting connections, up to the count',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      using waiting = await clients(acceptor, 10);
      for (const [asked, brought] of [
        [4, 4],
        [1, 1],
        [100, 5],
      ] as const) {
        const accepted = await acceptor.acceptUpTo(asked);
        assert.equal(accepted.length, brought);
        closeAll(accepted);
      }
      assert.notEqual(waiting, undefined);
    }),
  );

  it(
    'takes a count from 1 to 1024',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      for (const count of [0, -1, 1.5, 1025, NaN]) {
        await assert.rejects(acceptor.acceptUpTo(count), TypeError);
      }
      using waiting = await clients(acceptor, 1);
      closeAll(await acceptor.acceptUpTo(1024));
      assert.notEqual(waiting, undefined);
    }),
  );
});

describe('an Acceptor', () => {
  it(
    'rejects waiting accepts when it is closed, and all later ones',
    keepsDescriptors(async () => {
      const acceptor = await listen(loopback);
      const { signal } = new AbortController();
      const waiting = [acceptor.accept({ signal }), acceptor.acceptUpTo(3)];
      await acceptor.close();
      for (const accept of waiting) await assert.rejects(accept, { code: 'ERR_CLOSED' });
      await assert.rejects(acceptor.accept(), { code: 'ERR_CLOSED' });
      assert.equal(acceptor.closed, true);
      assert.equal(getEventListeners(signal, 'abort').length, 0);
      await acceptor.close();
      acceptor.ref().unref();
    }),
  );

  it(
    'is iterated until it is closed',
    keepsDescriptors(async () => {
      const acceptor = await listen(loopback);
      using waiting = await clients(acceptor, 3);
      let count = 0;
      for await (const descriptor of acceptor) {
        descriptor.close();
        count++;
        if (count === 3) acceptor.close().catch(assert.ifError);
      }
      assert.equal(count, 3);

      const idle = await listen(loopback);
      const iteration = (async () => {
        for await (const descriptor of idle) descriptor.close();
      })();
      assert.equal(await isPending(iteration), true);
      await idle.close();
      await iteration;
      assert.notEqual(waiting, undefined);
    }),
  );

  it(
    'accepts only a listening socket; other descriptors stay with the caller',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      using client = await connect(acceptor.address);
      using accepted = await acceptor.accept();
      using file = openFile('file');
      for (const wrong of [accepted, file]) {
        assert.throws(() => new Acceptor(wrong), {
          code: 'ERR_WRONG_KIND',
          message: /of kind (stream|file)$/,
        });
        assert.equal(wrong.closed, false);
      }
      assert.equal(client.closed, false);
    }),
  );

  it(
    'can be passed on, and the connections that wait go with it',
    keepsDescriptors(async () => {
      const giver = await listen(loopback);
      using client = await connect(giver.address);
      await using taker = new Acceptor(giver.duplicate());
      await giver.close();
      assert.deepEqual(taker.address, client.remoteAddress);
      using served = new StreamSocket(await taker.accept());
      await client.send(Buffer.from('x'));
      assert.equal((await received(served.receive())).bytes.toString(), 'x');
      client.destroy();
      assert.equal(await receivedText(served), null);
    }),
  );

  it(
    'is shut down for every holder of the socket: waiting clients are reset, new ones are refused, and the address is free',
    keepsDescriptors(async () => {
      const acceptor = await listen(loopback);
      const { address } = acceptor;
      using waiting = await connect(address);
      using held = acceptor.duplicate();
      await acceptor.shutdown();
      await assert.rejects(waiting.receive(), { code: 'ERR_PEER_GONE' });
      await assert.rejects(connect(address), { code: 'ERR_CONNECTION_REFUSED' });
      assert.equal(held.describe().kind === 'listener', false);
      await using again = await listen(address);
      assert.deepEqual(again.address, address);
      await assert.rejects(acceptor.shutdown(), { code: 'ERR_CLOSED' });
    }),
  );
});

describe('a consumer', () => {
  it(
    'learns when clients begin to wait because there is no room, and when none waits any more',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      const reports: unknown[] = [];
      let room = 0;
      acceptor.feed({
        room: () => room,
        take: (accepted) => {
          reports.push(accepted.length);
          closeAll(accepted);
        },
        crowded: (isCrowded) => reports.push(isCrowded),
        failed: assert.ifError,
      });
      await turns();
      assert.deepEqual(reports, []);
      using waiting = await clients(acceptor, 3);
      await turns();
      assert.deepEqual(reports.splice(0), [true]);
      room = 2;
      acceptor.resume();
      // The call itself accepts, so that the acceptor that is resumed first accepts first.
      assert.deepEqual(reports, [2]);
      await turns();
      assert.deepEqual(reports, [2, 1, false]);
      assert.notEqual(waiting, undefined);
    }),
  );

  it(
    'learns once that no descriptor is free, and gets the connections when one is',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      const warnings: unknown[] = [];
      const warn = (warning: unknown): void => void warnings.push(warning);
      process.on('warning', warn);
      const full = mock.method(native, 'accept', () => EMFILE, { times: 3 });
      const failures: PassfdError[] = [];
      const taken = new Promise<Descriptor[]>((resolve) => {
        acceptor.feed({
          room: () => 9,
          take: resolve,
          failed: (error, isRepeated) => {
            if (!isRepeated) failures.push(error);
          },
        });
      });
      using waiting = await clients(acceptor, 1);
      closeAll(await taken);
      process.off('warning', warn);
      full.mock.restore();
      assert.deepEqual(
        failures.map(({ code }) => code),
        ['ERR_DESCRIPTOR_LIMIT'],
      );
      assert.match(failures[0]?.message ?? '', /wait in the backlog until a descriptor is free/);
      assert.deepEqual(warnings, []);
      assert.notEqual(waiting, undefined);
    }),
  );
});

/** Makes accepting fail this many times, as at the descriptor limit, and stops the clock, so that no timer ends a pause. */
function atTheLimit(times: number): Disposable & { readonly calls: () => number } {
  mock.timers.enable({ apis: ['setTimeout'] });
  const full = mock.method(native, 'accept');
  for (let call = 0; call < times; call++) full.mock.mockImplementationOnce(() => EMFILE, call);
  return {
    calls: () => full.mock.callCount(),
    [Symbol.dispose]: () => {
      full.mock.restore();
      mock.timers.reset();
    },
  };
}

/** Waits until the condition holds. In 1000 turns of the event loop, everything that is ready has happened. */
async function until(holds: () => boolean): Promise<void> {
  for (let turn = 0; turn < 1000 && !holds(); turn++) await turns(1);
  assert.ok(holds());
}

describe('an acceptor that has found no free descriptor', () => {
  for (const [which, close] of [
    [
      'one',
      (held: Descriptor): void => {
        held.close();
      },
    ],
    [
      'one of many',
      (held: Descriptor): void => {
        closeTogether([held]);
      },
    ],
    [
      'a net.Socket',
      (held: Descriptor): void => {
        held.duplicate().toSocket().destroy();
      },
    ],
  ] as const) {
    it(
      `gives a caller that waits the next connection when this process closes ${which}, whatever the clock says`,
      keepsDescriptors(async () => {
        const [here, there] = socketPair();
        using held = here.release();
        using far = there;
        await using acceptor = await listen(loopback);
        using limit = atTheLimit(1);
        const warned = once(process, 'warning');
        const accepted: Descriptor[] = [];
        const accepting = acceptor.accept().then((descriptor) => accepted.push(descriptor));
        using waiting = await clients(acceptor, 1);
        await warned;
        await turns();
        assert.equal(limit.calls(), 1);
        close(held);
        await until(() => accepted.length === 1);
        await accepting;
        closeAll(accepted);
        assert.notEqual(waiting, undefined);
        assert.equal(far.closed, false);
      }),
    );
  }

  it(
    'feeds its consumer again when one is free, and reports the same failure as repeated',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      using limit = atTheLimit(2);
      const reports: (boolean | string)[] = [];
      acceptor.feed({
        room: () => 1,
        take: (descriptors) => {
          reports.push('taken');
          closeAll(descriptors);
        },
        failed: (_, isRepeated) => reports.push(isRepeated),
      });
      using waiting = await clients(acceptor, 1);
      await until(() => reports.length === 1);
      openFile('freed').close();
      await until(() => reports.length === 2);
      openFile('freed').close();
      await until(() => reports.length === 3);
      assert.deepEqual(reports, [false, true, 'taken']);
      assert.equal(limit.calls(), 3);
      assert.ok(waiting);
    }),
  );

  it(
    'accepts nothing more when it was closed meanwhile',
    keepsDescriptors(async () => {
      const acceptor = await listen(loopback);
      using limit = atTheLimit(1);
      const failed = new Promise<void>((resolve) => {
        acceptor.feed({
          room: () => 1,
          take: closeAll,
          failed: () => {
            resolve();
          },
        });
      });
      using waiting = await clients(acceptor, 1);
      await failed;
      await acceptor.close();
      openFile('freed').close();
      await turns();
      assert.equal(limit.calls(), 1);
      assert.ok(waiting);
    }),
  );

  it(
    'fills its reserve again at once when no client waited for it any more',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      mock.timers.enable({ apis: ['setTimeout'] });
      const results = [EMFILE, -constants.errno.EAGAIN];
      const accept = native.accept.bind(native);
      const calls = mock.method(native, 'accept', (...args: Parameters<typeof accept>) => {
        return results.shift() ?? accept(...args);
      });
      try {
        acceptor.keepSpare();
        const before = openDescriptors().length;
        acceptor.feed({
          room: () => (results.length > 0 ? 1 : 0),
          take: () => assert.fail('no connection is accepted'),
          failed: () => assert.fail('there is a reserve'),
        });
        using client = await clients(acceptor, 1);
        await until(() => results.length === 0);
        const CLIENT = 1;
        assert.equal(openDescriptors().length, before + CLIENT);
        assert.ok(client);
      } finally {
        calls.mock.restore();
        mock.timers.reset();
      }
    }),
  );

  it(
    'fills its reserve again as soon as this process closes a descriptor',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      using limit = atTheLimit(1);
      const held: Descriptor[] = [];
      acceptor.feed({
        room: () => 2 - held.length,
        take: (descriptors) => void held.push(...descriptors),
        failed: () => assert.fail('there is a reserve'),
      });
      acceptor.keepSpare();
      const before = openDescriptors().length;
      using waiting = await clients(acceptor, 1);
      await until(() => held.length === 1);
      const CLIENT_AND_SERVED = 2;
      assert.equal(openDescriptors().length, before - 1 + CLIENT_AND_SERVED);
      closeAll(held);
      assert.equal(openDescriptors().length, before + 1);
      assert.equal(limit.calls(), 2);
      assert.ok(waiting);
    }),
  );
});

describe('a reserve that was filled before a descriptor was closed', () => {
  it(
    'leaves the next descriptor to the sockets that wait',
    keepsDescriptors(async () => {
      await using reserved = await listen(loopback);
      await using other = await listen(loopback);
      using first = await clients(reserved, 1);
      using second = await clients(other, 1);
      const accepted: Descriptor[] = [];
      const consumer = {
        room: () => 1 - accepted.length,
        take: (descriptors: Descriptor[]) => void accepted.push(...descriptors),
        failed: () => undefined,
      };
      {
        using limit = atTheLimit(1);
        reserved.keepSpare();
        reserved.feed(consumer);
        await until(() => accepted.length === 1);
        reserved.resume();
        assert.equal(limit.calls(), 2);
      }
      using limit = atTheLimit(1);
      const accepting = other.accept();
      await until(() => limit.calls() === 1);
      accepted.pop()?.close();
      await until(() => limit.calls() === 2);
      (await accepting).close();
      assert.notEqual([first, second], undefined);
    }),
  );
});

describe('a consumer of a socket at which accepting fails', () => {
  it(
    'gets each failure, marked as repeated or not, and as new when accepting had worked meanwhile',
    keepsDescriptors(async () => {
      await using acceptor = await listen(loopback);
      const results = [-constants.errno.ENOMEM, EMFILE, -constants.errno.ENOMEM, EMFILE, undefined, EMFILE];
      const accept = native.accept.bind(native);
      const failing = mock.method(native, 'accept', (...args: Parameters<typeof accept>) => {
        return results.shift() ?? accept(...args);
      });
      const reports: unknown[] = [];
      const bothTaken = new Promise<void>((resolve) => {
        acceptor.feed({
          room: () => 1,
          take: (accepted) => {
            closeAll(accepted);
            reports.push('taken');
            if (reports.length === 7) resolve();
          },
          failed: ({ code }, isRepeated) => reports.push([code, isRepeated]),
        });
      });
      using waiting = await clients(acceptor, 2);
      await bothTaken;
      assert.deepEqual(reports, [
        ['ERR_SYSTEM', false],
        ['ERR_DESCRIPTOR_LIMIT', false],
        ['ERR_SYSTEM', true],
        ['ERR_DESCRIPTOR_LIMIT', true],
        'taken',
        ['ERR_DESCRIPTOR_LIMIT', false],
        'taken',
      ]);
      failing.mock.restore();
      assert.notEqual(waiting, undefined);
    }),
  );
});

/** Sockets that are closed together. */
class DisposableSockets implements Disposable {
  readonly #sockets: StreamSocket[] = [];

  add(socket: StreamSocket): StreamSocket {
    this.#sockets.push(socket);
    return socket;
  }

  [Symbol.dispose](): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}
