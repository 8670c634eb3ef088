// Pulse: when the event loop of a worker counts as stalled, by what its board shows.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { feel, firstPulse, type Beat, type Pulse } from '../../../src/dispatcher/direct/pulse.js';

const LOOK_MS = 5;

/** The same beat for some time. */
function still(before: Pulse, beat: Beat, forMs: number): Pulse {
  let pulse = before;
  for (let ms = 0; ms < forMs; ms += LOOK_MS) pulse = feel(pulse, beat, LOOK_MS);
  return pulse;
}

const busy: Beat = { turns: 7, isAsleep: false, isWatching: true };
const asleep: Beat = { turns: 7, isAsleep: true, isWatching: true };
const alive = feel(firstPulse, busy, LOOK_MS);

describe('an event loop', () => {
  it('has stalled when it is in one turn for a second, and is never called', () => {
    assert.deepEqual(still(alive, busy, 995), { ...alive, stillMs: 995 });
    const stalled = still(alive, busy, 1_000);
    assert.ok(stalled.isStalled && !stalled.isCalled);
  });

  it('that sleeps is called, and has stalled when it does not wake up for a second', () => {
    assert.ok(!still(alive, asleep, 245).isCalled);
    const called = still(alive, asleep, 250);
    assert.deepEqual(called, { ...alive, stillMs: 0, isCalled: true });
    assert.ok(!still(called, asleep, 995).isStalled);
    assert.ok(still(called, asleep, 1_000).isStalled);
  });

  it('that sleeps and wakes up when it is called has not stalled', () => {
    const called = still(alive, asleep, 250);
    const awake = feel(called, { ...asleep, turns: 8 }, LOOK_MS);
    assert.deepEqual(awake, { turns: 8, stillMs: 0, isCalled: false, isStalled: false });
  });

  it('that sleeps and does not watch is left alone', () => {
    assert.deepEqual(still(alive, { ...asleep, isWatching: false }, 10_000), alive);
  });

  it('that was called is judged although it was told to stop watching meanwhile', () => {
    const called = still(alive, asleep, 250);
    assert.ok(still(called, { ...asleep, isWatching: false }, 1_000).isStalled);
  });

  it('has stalled until its next turn, whatever else is seen', () => {
    const stalled = still(alive, busy, 1_000);
    assert.equal(still(stalled, asleep, 10_000), stalled);
    assert.ok(!feel(stalled, { ...busy, turns: 8 }, LOOK_MS).isStalled);
  });

  it('whose turns go round 32 bits is alive', () => {
    const last = feel(firstPulse, { ...busy, turns: 4_294_967_295 }, LOOK_MS);
    assert.equal(feel(last, { ...busy, turns: 0 }, 5_000).stillMs, 0);
  });
});
