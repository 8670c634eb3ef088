// Poll: when it calls back, when it stops, and in which asynchronous context.
import assert from 'node:assert/strict';
import { AsyncLocalStorage, createHook, executionAsyncId } from 'node:async_hooks';
import { closeSync, openSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { native, READABLE, WRITABLE, type Poll } from '../../src/fd/native.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { turns } from '../support/loop.js';
import { openPair, receiveByte, sendByte, untilReadable, withPair } from './support.js';

/** Does nothing: for a Poll that is never called, or whose calls do not matter. */
function ignore(): void {
  return;
}

/** The arguments of the first callback of a new Poll. The callback closes the Poll. */
async function firstCall(fd: number, events: number): Promise<[number, number]> {
  return new Promise((resolve) => {
    const poll = new native.Poll(fd, (...call) => {
      poll.close();
      resolve(call);
    });
    poll.start(events);
  });
}

describe('a started Poll', () => {
  it(
    'calls back when there is something to read',
    keepsDescriptors(() =>
      withPair(async (one, other) => {
        const call = firstCall(one, READABLE);
        sendByte(other);
        assert.deepEqual(await call, [0, READABLE]);
      }),
    ),
  );

  it(
    'calls back when there is room to write',
    keepsDescriptors(() =>
      withPair(async (one) => {
        assert.deepEqual(await firstCall(one, WRITABLE), [0, WRITABLE]);
      }),
    ),
  );

  it(
    'calls back once for both',
    keepsDescriptors(() =>
      withPair(async (one, other) => {
        sendByte(other);
        assert.deepEqual(await firstCall(one, READABLE | WRITABLE), [0, READABLE | WRITABLE]);
      }),
    ),
  );

  it(
    'does not call back for what it was not started for',
    keepsDescriptors(() =>
      withPair(async (one, other) => {
        let calls = 0;
        const poll = new native.Poll(one, () => calls++);
        poll.start(READABLE);
        assert.deepEqual(await firstCall(other, WRITABLE), [0, WRITABLE]);
        await turns();
        assert.equal(calls, 0);
        poll.close();
      }),
    ),
  );

  it(
    'calls back again and again until what is there is read',
    keepsDescriptors(() =>
      withPair(async (one, other) => {
        sendByte(other);
        const calls = await new Promise<number>((resolve) => {
          let count = 0;
          const poll = new native.Poll(one, () => {
            if (++count < 5) return;
            receiveByte(one);
            setImmediate(() => {
              poll.close();
              resolve(count);
            });
          });
          poll.start(READABLE);
        });
        assert.equal(calls, 5);
      }),
    ),
  );

  it(
    'takes the end of the stream for something to read',
    keepsDescriptors(async () => {
      const [one, other] = openPair();
      native.close(other);
      assert.deepEqual(await firstCall(one, READABLE), [0, READABLE]);
      native.close(one);
    }),
  );

  it(
    'reports an error condition once, as a negative status, and is stopped then',
    keepsDescriptors(async () => {
      const [one, other] = openPair();
      const calls: number[] = [];
      const poll = new native.Poll(one, (status) => calls.push(status));
      poll.start(READABLE);
      sendByte(one);
      native.close(other); // unread, so that this end is reset
      await turns();
      assert.equal(calls.length, 1);
      assert.ok((calls[0] ?? 0) < 0);
      poll.start(READABLE);
      await turns();
      assert.equal(calls.length, 2);
      poll.close();
      native.close(one);
    }),
  );

  it(
    'waits for other events when it is started again',
    keepsDescriptors(() =>
      withPair(async (one) => {
        const events = await new Promise<number>((resolve) => {
          const poll = new native.Poll(one, (_, events) => {
            poll.close();
            resolve(events);
          });
          poll.start(READABLE);
          poll.start(WRITABLE);
        });
        assert.equal(events, WRITABLE);
      }),
    ),
  );
});

describe('a Poll that is stopped or closed', () => {
  it(
    'does not call back',
    keepsDescriptors(() =>
      withPair((one, other) =>
        withPair(async (witness, itsPeer) => {
          let calls = 0;
          const poll = new native.Poll(one, () => calls++);
          poll.start(READABLE);
          poll.stop();
          sendByte(other);
          sendByte(itsPeer);
          await untilReadable(witness);
          await turns();
          assert.equal(calls, 0);
          poll.close();
        }),
      ),
    ),
  );

  it(
    'calls back after it was started again',
    keepsDescriptors(() =>
      withPair(async (one, other) => {
        sendByte(other);
        const calls = await new Promise<number>((resolve) => {
          let count = 0;
          const poll = new native.Poll(one, () => {
            poll.stop();
            if (++count < 3) {
              setImmediate(() => {
                poll.start(READABLE);
              });
            } else {
              poll.close();
              resolve(count);
            }
          });
          poll.start(READABLE);
        });
        assert.equal(calls, 3);
      }),
    ),
  );

  it(
    'may close itself and the descriptor in its own callback',
    keepsDescriptors(async () => {
      const [one, other] = openPair();
      sendByte(other);
      let calls = 0;
      await new Promise<void>((resolve) => {
        const poll = new native.Poll(one, () => {
          calls++;
          poll.close();
          native.close(one);
          resolve();
        });
        poll.start(READABLE);
      });
      native.close(other);
      await turns();
      assert.equal(calls, 1);
    }),
  );

  it(
    'is not called any more in the turn in which another one closes it',
    keepsDescriptors(() =>
      withPair((one, itsPeer) =>
        withPair(async (other, peer) => {
          const called: string[] = [];
          const closeBoth = (name: string): void => {
            called.push(name);
            first.close();
            second.close();
          };
          const first: Poll = new native.Poll(one, () => {
            closeBoth('first');
          });
          const second: Poll = new native.Poll(other, () => {
            closeBoth('second');
          });
          first.start(READABLE);
          second.start(READABLE);
          sendByte(itsPeer);
          sendByte(peer);
          await turns();
          assert.equal(called.length, 1);
        }),
      ),
    ),
  );

  it(
    'may be closed twice and stopped after that, but not started',
    keepsDescriptors(() =>
      withPair((one) => {
        const poll = new native.Poll(one, ignore);
        poll.start(READABLE);
        poll.close();
        poll.close();
        poll.stop();
        poll.ref();
        poll.unref();
        assert.throws(
          () => {
            poll.start(READABLE);
          },
          { name: 'Error', code: 'EBADF' },
        );
      }),
    ),
  );

  it(
    'makes room for another one on the same descriptor at once',
    keepsDescriptors(() =>
      withPair(async (one, other) => {
        const poll = new native.Poll(one, ignore);
        poll.start(READABLE);
        poll.close();
        sendByte(other);
        assert.deepEqual(await firstCall(one, READABLE), [0, READABLE]);
      }),
    ),
  );
});

describe('a new Poll', () => {
  it(
    'makes the descriptor non-blocking',
    keepsDescriptors(() =>
      withPair((one) => {
        assert.equal(native.isNonblocking(one), 0);
        new native.Poll(one, ignore).close();
        assert.equal(native.isNonblocking(one), 1);
      }),
    ),
  );

  it(
    'throws EPERM for a regular file',
    keepsDescriptors(() => {
      const fd = openSync(fileURLToPath(import.meta.url), 'r');
      assert.throws(() => new native.Poll(fd, ignore), { name: 'Error', code: 'EPERM' });
      closeSync(fd);
    }),
  );

  it('throws EBADF for a descriptor that is not open', () => {
    assert.throws(() => new native.Poll(2 ** 31 - 1, ignore), { name: 'Error', code: 'EBADF' });
  });

  it(
    'throws EEXIST, at the latest when it starts, where another one watches the same descriptor',
    keepsDescriptors(() =>
      withPair((one) => {
        const first = new native.Poll(one, ignore);
        const second = new native.Poll(one, ignore);
        first.start(READABLE);
        assert.throws(
          () => {
            second.start(READABLE);
          },
          { name: 'Error', code: 'EEXIST' },
        );
        assert.throws(() => new native.Poll(one, ignore), { name: 'Error', code: 'EEXIST' });
        second.close();
        first.close();
      }),
    ),
  );
});

describe('the callback of a Poll', () => {
  it(
    'runs with its ticks and promise jobs before the next callback runs',
    keepsDescriptors(() =>
      withPair((one, itsPeer) =>
        withPair(async (other, peer) => {
          const log: string[] = [];
          const polls = [one, other].map((fd) => {
            const poll: Poll = new native.Poll(fd, () => {
              poll.close();
              log.push('callback');
              process.nextTick(() => log.push('tick'));
              Promise.resolve().then(() => log.push('job'), ignore);
            });
            return poll;
          });
          sendByte(itsPeer);
          sendByte(peer);
          for (const poll of polls) poll.start(READABLE);
          await turns();
          assert.deepEqual(log, ['callback', 'tick', 'job', 'callback', 'tick', 'job']);
        }),
      ),
    ),
  );

  it(
    'sees the AsyncLocalStorage of the place where the Poll was made',
    keepsDescriptors(() =>
      withPair(async (one) => {
        const storage = new AsyncLocalStorage<string>();
        const seen = await new Promise<unknown>((resolve) => {
          const poll = storage.run('made', () => {
            return new native.Poll(one, () => {
              poll.close();
              resolve(storage.getStore());
            });
          });
          storage.run('started', () => {
            poll.start(WRITABLE);
          });
        });
        assert.equal(seen, 'made');
        assert.equal(storage.getStore(), undefined);
      }),
    ),
  );

  it(
    'is known to async_hooks as passfd.Poll until the Poll is closed',
    keepsDescriptors(() =>
      withPair(async (one) => {
        const made: number[] = [];
        const destroyed: number[] = [];
        const hook = createHook({
          init: (id, type) => {
            if (type === 'passfd.Poll') made.push(id);
          },
          destroy: (id) => destroyed.push(id),
        }).enable();
        const id = await new Promise<number>((resolve) => {
          const poll = new native.Poll(one, () => {
            poll.close();
            resolve(executionAsyncId());
          });
          poll.start(WRITABLE);
        });
        await turns();
        hook.disable();
        assert.deepEqual(made, [id]);
        assert.ok(destroyed.includes(id));
      }),
    ),
  );
});
