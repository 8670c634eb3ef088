// Govern: who watches a shared listening socket, shown by workers that are simulated.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { govern, nothingSeen } from '../../../src/dispatcher/direct/govern.js';
import { SharedSocket, STEP_MS, type Simulated } from '../../support/shared-socket.js';

function withWorkers(count: number, options: Partial<Simulated> = {}, cores?: number): SharedSocket {
  const socket = new SharedSocket(cores);
  for (let id = 1; id <= count; id++) socket.add(id, options);
  socket.pass(1);
  return socket;
}

function at(socket: SharedSocket, index: number): Simulated {
  const worker = socket.workers[index];
  assert.ok(worker);
  return worker;
}

/** The largest distance of a worker from its share, as a part of the share. */
function unevenness({ workers }: SharedSocket): number {
  const open = workers.reduce((sum, worker) => sum + worker.open, 0);
  const weight = workers.reduce((sum, worker) => sum + worker.weight, 0);
  return Math.max(...workers.map((worker) => Math.abs(worker.open / ((open * worker.weight) / weight) - 1)));
}

describe('long-lived connections', () => {
  for (const count of [1_000, 20_000]) {
    it(`of which there are ${count} are within 10 % of even over four workers, of which one starts late and one is restarted`, () => {
      const socket = withWorkers(3);
      socket.pass(count / 40, 20);
      socket.add(4);
      socket.pass(count / 40, 20);
      const lost = socket.remove(at(socket, 0));
      socket.add(5);
      socket.pass(Math.ceil(lost / 20), 20);
      socket.pass(20);
      assert.equal(socket.waiting, 0);
      assert.ok(unevenness(socket) < 0.1, String(socket.workers.map(({ open }) => open)));
    });
  }

  it('go to a new worker first', () => {
    const socket = withWorkers(3);
    socket.pass(30, 10);
    socket.add(4);
    socket.pass(2);
    const before = at(socket, 3).taken;
    socket.pass(5, 10);
    assert.deepEqual([before, at(socket, 3).taken], [0, 50]);
  });

  it('are spread by weight, the share of the dispatcher included', () => {
    const socket = withWorkers(2);
    socket.add(0, { isDispatcher: true, weight: 2 });
    socket.pass(100, 10);
    assert.ok(unevenness(socket) < 0.1, String(socket.workers.map(({ open }) => open)));
  });

  it('are spread over 64 workers, of which four watch at a time', () => {
    const socket = withWorkers(64);
    const watching = new Set<number>();
    for (let step = 0; step < 500; step++) {
      socket.pass(1, 20);
      assert.ok(socket.watching.length <= 4);
      for (const id of socket.watching) watching.add(id);
    }
    assert.equal(watching.size, 64);
    const most = Math.max(...socket.workers.map(({ open }) => open));
    const least = Math.min(...socket.workers.map(({ open }) => open));
    assert.ok(most - least <= 16 + 20 + 20, `${least} to ${most}`);
  });

  it('stay even although a worker claims to have none', () => {
    const socket = withWorkers(3);
    const liar = at(socket, 0);
    for (let step = 0; step < 300; step++) {
      socket.pass(1, 10);
      liar.open = 0;
    }
    assert.equal(socket.waiting, 0);
    assert.ok(socket.longestWait <= 1);
  });
});

describe('short connections', () => {
  it('are accepted by two workers for each core, however many workers there are', () => {
    const socket = withWorkers(64, { life: 2, turns: 25 });
    socket.pass(20, 200);
    const { changes } = socket;
    socket.pass(400, 200);
    assert.equal(socket.watching.length, 4);
    assert.equal(socket.changes, changes);
  });

  it('are accepted by more workers when the turns of the loops are long, and by fewer afterwards', () => {
    const socket = withWorkers(64, { life: 2, turns: 1, rate: 1 });
    socket.pass(40, 16);
    assert.ok(socket.watching.length >= 16, String(socket.watching.length));
    socket.pass(1_000, 2);
    assert.equal(socket.waiting, 0);
    assert.equal(socket.watching.length, 4);
  });

  it('change nobody while all goes well', () => {
    const socket = withWorkers(4, { life: 3 });
    socket.pass(20, 30);
    const { changes } = socket;
    socket.pass(2_000, 30);
    assert.equal(socket.changes, changes);
  });

  it('are accepted by a worker with many long-lived ones too, if the others cannot catch up and clients wait', () => {
    const socket = withWorkers(2, { life: 4, turns: 40 });
    const full = at(socket, 0);
    full.open = 5_000;
    socket.pass(20, 10);
    assert.deepEqual(socket.watching, [2]);
    socket.pass(400, 30);
    assert.ok(full.taken > 1_000, String(full.taken));
    assert.ok(at(socket, 1).taken > 1_000);
  });
});

describe('a worker that takes nothing', () => {
  it('keeps no client waiting when it sleeps for 200 ms of each second', () => {
    const socket = withWorkers(2, { life: 2 });
    socket.pass(20, 20);
    socket.longestWait = 0;
    at(socket, 0).isBlocked = (step) => step % 200 < 40;
    socket.pass(2_000, 20);
    assert.equal(socket.longestWait, 0);
  });

  it('keeps clients waiting for 30 ms at most when only it watched', () => {
    const socket = withWorkers(2);
    const [full, empty] = [at(socket, 0), at(socket, 1)];
    full.open = 100;
    socket.pass(12, 1);
    assert.deepEqual(socket.watching, [2]);
    empty.isBlocked = () => true;
    const { changes } = socket;
    socket.pass(40, 1);
    assert.equal(socket.changes, changes + 1);
    assert.ok(socket.longestWait * STEP_MS <= 30, String(socket.longestWait));
    assert.equal(socket.waiting, 0);
  });

  it('counts again when it takes a connection', () => {
    const socket = withWorkers(2);
    const [full, empty] = [at(socket, 0), at(socket, 1)];
    full.open = 100;
    let isBlocked = true;
    empty.isBlocked = () => isBlocked;
    socket.pass(20, 5);
    assert.ok(full.isWatching);
    isBlocked = false;
    full.rate = 2;
    socket.pass(20, 5);
    assert.ok(!full.isWatching);
  });

  it('sets no standard for the others: it is stalled', () => {
    const socket = withWorkers(3);
    at(socket, 0).isAble = false;
    socket.pass(100, 10);
    assert.deepEqual(socket.watching, [1, 2, 3]);
    assert.equal(socket.longestWait, 0);
  });

  it('is replaced by another one where only some watch', () => {
    const socket = withWorkers(64, { life: 2 });
    const stuck = socket.workers.slice(0, 4);
    for (const worker of stuck) worker.isBlocked = () => true;
    socket.pass(20, 20);
    assert.ok(socket.longestWait * STEP_MS <= 30, String(socket.longestWait));
    assert.equal(socket.watching.length, 8);
  });
});

describe('a worker alone', () => {
  it('is looked at seldom, however much it accepts', () => {
    const alone = { id: 1, weight: 1, open: 500, isWatching: true, isAble: true, accepted: 400, turns: 50 };
    const look = { queue: 3, cores: 2, elapsedMs: 50 };
    assert.equal(govern(nothingSeen, { ...look, watchers: [alone] }).nextMs, 50);
    assert.equal(govern(nothingSeen, { ...look, watchers: [alone, { ...alone, id: 2 }] }).nextMs, 5);
  });
});

describe('no rule stops a service', () => {
  it('because a worker alone always watches', () => {
    const socket = withWorkers(1);
    socket.pass(500, 20);
    at(socket, 0).isAble = false;
    socket.pass(10, 20);
    assert.deepEqual(socket.watching, [1]);
    assert.equal(socket.changes, 1);
  });

  it('because all watch when all have stalled', () => {
    const socket = withWorkers(8, { isAble: false });
    socket.pass(3, 1);
    assert.equal(socket.watching.length, 8);
  });

  it('because all watch when clients wait and nobody takes one', () => {
    const socket = withWorkers(64);
    for (const worker of socket.workers) worker.isBlocked = () => true;
    socket.pass(4, 1);
    assert.equal(socket.watching.length, 64);
  });

  it('because nothing is decided where there is no worker', () => {
    const socket = new SharedSocket();
    socket.pass(10, 1);
    assert.equal(socket.waiting, 10);
  });
});
