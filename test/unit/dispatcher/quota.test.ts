// Many channels: nobody has so many that others find no place.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { CONTROL_LIMITS, JOINED_LIMITS, Quota } from '../../../src/dispatcher/quota.js';
import { connect } from '../../../src/fd/index.js';
import { encodeFrame, encodeHello, PROTOCOL_VERSION } from '../../../src/handoff/index.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import { failsWith } from '../../support/errors.js';
import { FakeWorker } from '../../support/fake-worker.js';

function user(uid: number): { readonly pid: number; readonly uid: number; readonly gid: number } {
  return { pid: 1, uid, gid: 1 };
}

describe('a quota', () => {
  it('has an end for one user, and one for all of them', () => {
    const quota = new Quota<string>({ of: 'things', total: 4, perUser: 2 });
    for (const one of ['a', 'b']) {
      quota.check(user(1));
      quota.add(one, user(1));
    }
    assert.throws(
      () => {
        quota.check(user(1));
      },
      failsWith('ERR_DISPATCHER', /User 1 has 2 things here/),
    );
    quota.check(user(2));
    quota.add('c', user(2));
    quota.add('d', user(2));
    assert.throws(
      () => {
        quota.check(user(3));
      },
      failsWith('ERR_DISPATCHER', /There are 4 things here/),
    );
    quota.delete('a');
    quota.check(user(1));
    assert.deepEqual([...quota], ['b', 'c', 'd']);
  });

  it('is a quarter of the descriptors where there are few, and half of that for one user', () => {
    const limits = { of: 'things', total: 1000, perUser: 400 };
    for (const [descriptors, perUser] of [
      [256, 32],
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
      failsWith('ERR_DISPATCHER', /There are 4 things here/),
    );
  });

  it('counts the descriptors that each takes, where there are few', () => {
    const THREE = 3;
    const quota = new Quota<string>({ of: 'things', total: 1000, perUser: 400 }, 40);
    quota.check(user(1), THREE);
    quota.add('a', user(1), THREE);
    quota.check(user(1), 2);
    assert.throws(
      () => {
        quota.check(user(1), THREE);
      },
      failsWith('ERR_DISPATCHER', /User 1 has 1 things here/),
    );
    quota.add('b', user(2), THREE);
    quota.add('c', user(3), THREE);
    quota.check(user(4));
    assert.throws(
      () => {
        quota.check(user(4), 2);
      },
      failsWith('ERR_DISPATCHER', /There are 3 things here/),
    );
    quota.delete('b');
    quota.check(user(4), THREE);
  });
});

/** Somebody who will give commands. */
async function commander(stage: Stage): Promise<FakeWorker> {
  const peer = stage.own(new FakeWorker(await connect(stage.control)));
  await peer.say(encodeFrame(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' })));
  return peer;
}

describe('many control connections of one user', () => {
  it(
    'are refused behind the 64th, with a reason, and a place that becomes free is given away',
    onStage({}, async (stage) => {
      const { perUser } = new Quota(CONTROL_LIMITS);
      const peers: FakeWorker[] = [];
      while (peers.length < perUser) peers.push(await commander(stage));
      const farewell = await (await commander(stage)).next('farewell');
      assert.equal(farewell.code, 'ERR_DISPATCHER');
      assert.match(farewell.reason, new RegExp(`has ${perUser} control connections here`));
      assert.deepEqual(
        stage.refusedPeers.map(({ code }) => code),
        ['ERR_DISPATCHER'],
      );
      // Workers are not their concern.
      const worker = await stage.joinServing();
      await stage.client();
      await worker.handoffs(1);
      const [first, second] = peers;
      assert.ok(first && second);
      first.die();
      // What the dispatcher hears behind that end comes when it has seen the end.
      await second.say(encodeFrame(Buffer.from('{"type":"status"}')));
      assert.notEqual(await second.socket.receive(), null);
      const another = await commander(stage);
      await another.say(encodeFrame(Buffer.from('{"type":"status"}')));
      const answer = await another.socket.receive();
      assert.doesNotMatch(String(answer?.bytes), /farewell/);
    }),
  );
});

describe('many workers of one user', () => {
  it(
    'are refused behind the 512th, with a reason',
    onStage({}, async (stage) => {
      const { perUser } = new Quota(JOINED_LIMITS);
      for (let count = 0; count < perUser; count++) await stage.join();
      const late = stage.own(new FakeWorker(await connect(stage.control)));
      const hello = { passfd: PROTOCOL_VERSION, role: 'worker', pid: 1, window: 1, capacity: null } as const;
      await late.say(encodeFrame(encodeHello(hello)));
      const { code, reason } = await late.next('farewell');
      assert.equal(code, 'ERR_DISPATCHER');
      assert.match(reason, new RegExp(`has ${perUser} workers here`));
      assert.equal(stage.dispatcher.workers.length, perUser);
    }),
  );

  it(
    'lose no place because of a dispatcher that died: those that come back are let in all the same',
    onStage({}, async (stage) => {
      const { perUser } = new Quota(JOINED_LIMITS);
      for (let count = 0; count < perUser; count++) await stage.join();
      const back = await stage.join({ returns: { id: perUser + 7 } });
      assert.equal(back.id, perUser + 7);
      assert.equal(stage.dispatcher.workers.length, perUser + 1);
    }),
  );
});
