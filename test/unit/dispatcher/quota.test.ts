// Many channels: no user can have so many that others are locked out.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, it, mock } from 'node:test';

import { CONTROL_LIMITS, JOINED_LIMITS, Quota } from '../../../src/dispatcher/quota.js';
import { Dispatcher } from '../../../src/dispatcher/index.js';
import { connect } from '../../../src/fd/index.js';
import { encodeFrame, encodeHello, PROTOCOL_VERSION } from '../../../src/handoff/index.js';
import { Client } from '../../../src/multiprocessing/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import { failsWith } from '../../support/errors.js';
import { FakeWorker } from '../../support/fake-worker.js';
import { isPending, turns } from '../../support/loop.js';

/** Neither root nor the user of this process. */
const OTHER = (process.getuid?.() ?? 0) + 4711;

function user(uid: number): { readonly pid: number; readonly uid: number; readonly gid: number } {
  return { pid: 1, uid, gid: 1 };
}

describe('a quota', () => {
  it('has a limit for one user, and one for all users', () => {
    const quota = new Quota<string>({ of: 'things', total: 4, perUser: 2, reserved: 0 });
    for (const one of ['a', 'b']) {
      quota.check(user(1));
      quota.add(one, user(1));
    }
    assert.throws(
      () => {
        quota.check(user(1));
      },
      failsWith('ERR_QUOTA', /User 1 has 2 things already/),
    );
    quota.check(user(2));
    quota.add('c', user(2));
    quota.add('d', user(2));
    assert.throws(
      () => {
        quota.check(user(3));
      },
      failsWith('ERR_QUOTA', /There are 4 things already/),
    );
    quota.delete('a');
    quota.check(user(1));
    assert.deepEqual([...quota], ['b', 'c', 'd']);
  });

  it('is a quarter of the descriptor limit when that is low, and proportionally less for one user', () => {
    const limits = { of: 'things', total: 1000, perUser: 400, reserved: 0 };
    for (const [descriptors, perUser] of [
      [256, 25],
      [4000, 400],
      [Number.POSITIVE_INFINITY, 400],
    ] as const) {
      assert.equal(new Quota(limits, descriptors).perUser, perUser);
    }
    const few = new Quota<number>(limits, 16);
    for (const one of [1, 2, 3, 4]) {
      few.check(user(one));
      few.add(one, user(one));
    }
    assert.throws(
      () => {
        few.check(user(5));
      },
      failsWith('ERR_QUOTA', /There are 4 things already/),
    );
  });

  it('counts the descriptors that each entry takes, when the limit is low', () => {
    const THREE = 3;
    const quota = new Quota<string>({ of: 'things', total: 1000, perUser: 400, reserved: 0 }, 40);
    quota.check(user(1), THREE);
    quota.add('a', user(1), THREE);
    quota.check(user(1), 2);
    assert.throws(
      () => {
        quota.check(user(1), THREE);
      },
      failsWith('ERR_QUOTA', /User 1 has 1 things already/),
    );
    quota.add('b', user(2), THREE);
    quota.add('c', user(3), THREE);
    quota.check(user(4));
    assert.throws(
      () => {
        quota.check(user(4), 2);
      },
      failsWith('ERR_QUOTA', /There are 3 things already/),
    );
    quota.delete('b');
    quota.check(user(4), THREE);
  });
});

/** A peer that will send commands. */
async function commander(stage: Stage): Promise<FakeWorker> {
  const peer = stage.own(new FakeWorker(await connect(stage.control)));
  await peer.say(encodeFrame(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' })));
  return peer;
}

/** A command that never ends, and the number of peers that wait for it. */
class Endless {
  waiting = 0;

  readonly wait = (_message: unknown, _progress: unknown, hungUp: AbortSignal): Promise<never> => {
    this.waiting++;
    return new Promise((_, reject) => {
      hungUp.addEventListener('abort', () => {
        this.waiting--;
        reject(hungUp.reason as Error);
      });
    });
  };
}

function ask(peer: FakeWorker, ...commands: object[]): Promise<void> {
  return peer.say(...commands.map((command) => encodeFrame(Buffer.from(JSON.stringify(command)))));
}

async function answerOf(peer: FakeWorker): Promise<string> {
  return String((await peer.socket.receive())?.bytes);
}

describe('a quota with a reserve', () => {
  it("keeps places for root and the dispatcher's user when others fill the rest", () => {
    const quota = new Quota<number>({ of: 'things', total: 8, perUser: 4, reserved: 4 });
    for (const one of [1, 2, 3, 4]) {
      quota.check(user(OTHER + one));
      quota.add(one, user(OTHER + one));
    }
    assert.throws(
      () => {
        quota.check(user(OTHER));
      },
      failsWith('ERR_QUOTA', /There are 4 things of other users already; .* reserved for root/),
    );
    for (const one of [5, 6, 7, 8]) {
      quota.check(user(0));
      quota.add(one, user(0));
    }
    assert.throws(
      () => {
        quota.check(user(0));
      },
      failsWith('ERR_QUOTA', /There are 8 things already/),
    );
  });

  it('keeps descriptors, too, when the limit is low', () => {
    const quota = new Quota<number>({ of: 'things', total: 100, perUser: 100, reserved: 50 }, 40);
    quota.check(user(OTHER), 5);
    quota.add(1, user(OTHER), 5);
    assert.throws(
      () => {
        quota.check(user(OTHER + 1));
      },
      failsWith('ERR_QUOTA', /reserved for root/),
    );
    quota.check(user(0), 5);
  });
});

describe('many control connections of one user', () => {
  const { perUser } = new Quota(CONTROL_LIMITS);

  /** The body of a test in which one user has all its connections wait for an answer. */
  function allWaiting(
    body: (stage: Stage, peers: readonly FakeWorker[], endless: Endless) => Promise<void>,
  ): () => Promise<void> {
    const endless = new Endless();
    return onStage({ control: { commands: { wait: endless.wait } } }, async (stage) => {
      const peers: FakeWorker[] = [];
      while (peers.length < perUser) {
        const peer = await commander(stage);
        peers.push(peer);
        await ask(peer, { type: 'wait' });
        await stage.until(() => endless.waiting === peers.length);
      }
      await body(stage, peers, endless);
    });
  }

  it(
    'that wait for an answer are refused after the 64th, with a reason, and take no place of a worker',
    allWaiting(async (stage) => {
      const farewell = await (await commander(stage)).next('farewell');
      assert.equal(farewell.code, 'ERR_QUOTA');
      assert.match(farewell.reason, new RegExp(`has ${perUser} control connections already`));
      assert.deepEqual(
        stage.refusedPeers.map(({ code }) => code),
        ['ERR_QUOTA'],
      );
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
    }),
  );

  it(
    'free a place as soon as one hangs up, whatever it waits for and has asked for',
    allWaiting(async (stage, [first, second], endless) => {
      assert.ok(first && second);
      first.die();
      await stage.until(() => endless.waiting === perUser - 1);
      const another = await commander(stage);
      await ask(another, { type: 'status' });
      assert.match(await answerOf(another), /"type":"done"/);
      await ask(second, { type: 'wait' }, { type: 'wait' });
      second.die();
      await stage.until(() => endless.waiting === perUser - 2);
    }),
  );

  it(
    'make room when they are idle: the oldest gets a farewell',
    onStage({}, async (stage) => {
      const peers: FakeWorker[] = [];
      while (peers.length < perUser) peers.push(await commander(stage));
      const another = await commander(stage);
      await ask(another, { type: 'status' });
      assert.match(await answerOf(another), /"type":"done"/);
      const [first, second] = peers;
      assert.ok(first && second);
      assert.match((await first.next('farewell')).reason, /was idle/);
      await ask(second, { type: 'status' });
      assert.match(await answerOf(second), /"type":"done"/);
    }),
  );
});

describe('a drain whose client has hung up', () => {
  it(
    'goes on, and takes no place of other clients',
    onStage({}, async (stage) => {
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      await worker.adopt();
      await stage.until(() => stage.dispatcher.workers[0]?.active === 1);
      const { perUser } = new Quota(CONTROL_LIMITS);
      for (let count = 0; count < perUser + 6; count++) {
        const peer = await commander(stage);
        await ask(peer, { type: 'drain', worker: worker.id });
        await stage.until(() => stage.dispatcher.workers[0]?.state === 'draining');
        await turns();
        peer.die();
        await turns();
      }
      assert.equal((await worker.message())?.type, 'drain');
      const drained = commander(stage).then(async (peer) => {
        await ask(peer, { type: 'drain', worker: worker.id });
        return answerOf(peer);
      });
      assert.equal(await isPending(drained), true);
      await worker.sayClosed(1);
      assert.match(await drained, /"type":"done","result":null/);
      assert.deepEqual(stage.refusedPeers, []);
    }),
  );
});

describe('a control connection', () => {
  it(
    'gets the answers to commands that it sends at once, in order, also when it then ends its direction',
    onStage({}, async (stage) => {
      const peer = await commander(stage);
      await ask(peer, ...Array.from({ length: 16 }, (_, index) => ({ type: `number ${index}` })));
      await peer.socket.end();
      let said = '';
      for await (const { bytes } of peer.socket) said += String(bytes);
      const numbers = [...said.matchAll(/command \\"number (\d+)\\"/g)].map(([, number]) => Number(number));
      assert.deepEqual(
        numbers,
        Array.from({ length: 16 }, (_, index) => index),
      );
    }),
  );

  it(
    'is disconnected with a reason when too much waits for a running command',
    onStage({ control: { commands: { wait: new Endless().wait } } }, async (stage) => {
      const peer = await commander(stage);
      await ask(peer, ...Array<object>(18).fill({ type: 'wait' }));
      const farewell = await peer.next('farewell');
      assert.deepEqual(
        [farewell.code, farewell.reason],
        ['ERR_PROTOCOL', 'More than 16 commands wait for their turn'],
      );
      const refused = stage.next('peerRefused');
      const large = await commander(stage);
      const padding = 'x'.repeat(40_000);
      await ask(large, { type: 'wait' }, { type: 'wait', padding }, { type: 'wait', padding });
      const [{ code }] = await refused;
      assert.equal(code, 'ERR_FRAME_TOO_LARGE');
    }),
  );
});

describe('a command of 64 KiB', () => {
  const commandOf = (length: number): Buffer => {
    const text = JSON.stringify({ type: 'status', padding: '' });
    return Buffer.from(JSON.stringify({ type: 'status', padding: 'x'.repeat(length - text.length) }));
  };

  let release = (): void => undefined;
  const opened = new Promise<void>((resolve) => (release = resolve));

  it(
    'is accepted in pieces, after long commands that had to wait; one byte more is not',
    onStage({ control: { commands: { open: () => opened } } }, async (stage) => {
      using connection = await Client(stage.control);
      await connection.sendBytes(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' }));
      await connection.sendBytes(Buffer.from('{"type":"open"}'));
      await connection.sendBytes(commandOf(60_000));
      // From here on the dispatcher reads the next command, while this one waits for its turn.
      await turns();
      release();
      for (let answers = 0; answers < 2; answers++) await connection.recvBytes();
      const command = encodeFrame(commandOf(65_536));
      for (let at = 0; at < command.length; at += 20_000) {
        await connection.socket.send(command.subarray(at, at + 20_000));
        await turns();
      }
      assert.match((await connection.recvBytes()).toString(), /"type":"done"/);
      const refused = stage.next('peerRefused');
      await connection.sendBytes(commandOf(65_537)).catch(() => undefined);
      const [{ code }] = await refused;
      assert.equal(code, 'ERR_FRAME_TOO_LARGE');
    }),
  );
});

describe('many workers of one user', () => {
  it(
    'are refused after the 512th, with a reason',
    onStage({}, async (stage) => {
      const { perUser } = new Quota(JOINED_LIMITS);
      for (let count = 0; count < perUser; count++) await stage.join();
      const late = stage.own(new FakeWorker(await connect(stage.control)));
      const hello = { passfd: PROTOCOL_VERSION, role: 'worker', pid: 1, window: 1, capacity: null } as const;
      await late.say(encodeFrame(encodeHello(hello)));
      const { code, reason } = await late.next('farewell');
      assert.equal(code, 'ERR_QUOTA');
      assert.match(reason, new RegExp(`has ${perUser} workers already`));
      assert.equal(stage.dispatcher.workers.length, perUser);
    }),
  );

  it(
    'lose no place when a dispatcher dies: those that return are admitted',
    onStage({}, async (stage) => {
      const { perUser } = new Quota(JOINED_LIMITS);
      for (let count = 0; count < perUser; count++) await stage.join();
      const back = await stage.join({ returns: { id: perUser + 7 } });
      assert.equal(back.id, perUser + 7);
      assert.equal(stage.dispatcher.workers.length, perUser + 1);
    }),
  );
});

/** The most new workers that may join wait. One more is refused. One leaves, and another joins. Then an old one returns. */
async function fillAndReturn(stage: Stage, perUser: number): Promise<void> {
  await using next = new Dispatcher();
  const opened = next.openControl(stage.control, { awaited: [{ id: 1, pid: process.pid }] });
  await stage.until(() => existsSync(stage.control));
  const newWorker = async (): Promise<FakeWorker> => {
    const worker = stage.own(new FakeWorker(await connect(stage.control)));
    const hello = {
      passfd: PROTOCOL_VERSION,
      role: 'worker',
      pid: 1,
      window: 1,
      capacity: null,
    } as const;
    await worker.say(encodeFrame(encodeHello(hello)));
    return worker;
  };
  const first = await newWorker();
  for (let count = 1; count < perUser; count++) await newWorker();
  const { code, reason } = await (await newWorker()).next('farewell');
  assert.equal(code, 'ERR_QUOTA');
  assert.match(reason, new RegExp(`has ${perUser} workers already`));
  assert.deepEqual(next.workers, []);
  first.die();
  await turns();
  const late = await newWorker();
  await stage.join({ custody: true, returns: { id: 1 } });
  await opened;
  assert.equal((await late.next('welcome')).type, 'welcome');
}

describe('new workers that wait while others return', () => {
  it(
    'are no more than may join, and free a place when they hang up',
    onStage({}, async (stage) => {
      const { perUser } = new Quota(JOINED_LIMITS);
      await stage.dispatcher.close();
      // The dispatcher waits, however long the workers take to come.
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        await fillAndReturn(stage, perUser);
      } finally {
        mock.timers.reset();
      }
    }),
  );
});
