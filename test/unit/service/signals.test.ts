// Signals that ask a service to stop: which of them is a second request.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';

import { SAME_REQUEST_MS, Signals, type SignalHost } from '../../../src/service/signals.js';

interface Scene {
  /** The calls of the handlers so far. */
  readonly told: string[];
  /** The process gets a signal this many milliseconds after the last one. */
  readonly get: (signal: 'SIGTERM' | 'SIGINT', afterMs: number) => Promise<void>;
  readonly signals: Signals;
}

function withSignals(body: (scene: Scene) => Promise<void>): () => Promise<void> {
  return async () => {
    const told: string[] = [];
    let now = 1000;
    const host: SignalHost = { now: () => now, raise: (signal) => told.push(`raised ${signal}`) };
    using signals = new Signals(
      {
        stop: (signal) => told.push(`stop by ${signal}`),
        repeated: (signal) => told.push(`${signal} again`),
        SIGHUP: () => told.push('SIGHUP'),
        SIGUSR2: () => told.push('SIGUSR2'),
      },
      host,
    );
    signals.second.then(
      () => told.push('at once'),
      () => undefined,
    );
    const get: Scene['get'] = async (signal, afterMs) => {
      now += afterMs;
      process.emit(signal);
      await setImmediate();
    };
    await body({ told, get, signals });
  };
}

describe('a signal that asks a service to stop', () => {
  it(
    'is the same request when it comes soon after the first, with either signal and any number of times',
    withSignals(async ({ told, get, signals }) => {
      await get('SIGINT', 0);
      await get('SIGTERM', 2);
      await get('SIGINT', 98);
      await get('SIGTERM', SAME_REQUEST_MS - 101);
      assert.deepEqual(told, ['stop by SIGINT', 'SIGTERM again', 'SIGINT again', 'SIGTERM again']);
      assert.equal(signals.isStoppedAtOnce, false);
    }),
  );

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    it(
      `is a second request when it comes later: ${signal}`,
      withSignals(async ({ told, get, signals }) => {
        await get('SIGTERM', 0);
        await get(signal, SAME_REQUEST_MS);
        assert.deepEqual(told, ['stop by SIGTERM', 'at once']);
        assert.equal(signals.isStoppedAtOnce, true);
      }),
    );
  }

  it(
    'is measured from the first one, not from those that were ignored',
    withSignals(async ({ told, get }) => {
      await get('SIGTERM', 0);
      await get('SIGTERM', SAME_REQUEST_MS - 1);
      await get('SIGTERM', 1);
      assert.deepEqual(told, ['stop by SIGTERM', 'SIGTERM again', 'at once']);
    }),
  );

  it(
    'is measured from the request that the generation before got, and passes on',
    withSignals(async ({ told, get, signals }) => {
      signals.expectRequest(SAME_REQUEST_MS - 1);
      await get('SIGTERM', 0);
      await get('SIGTERM', 0);
      await get('SIGINT', 1);
      assert.deepEqual(told, ['stop by SIGTERM', 'SIGTERM again', 'at once']);
    }),
  );

  it(
    'is measured from that request when it was long ago, too',
    withSignals(async ({ told, get, signals }) => {
      signals.expectRequest(10 * SAME_REQUEST_MS);
      await get('SIGTERM', 0);
      await get('SIGTERM', 1);
      assert.deepEqual(told, ['stop by SIGTERM', 'at once']);
    }),
  );

  it(
    'is the same request when this generation got it too, and the one before passes it on late',
    withSignals(async ({ told, get, signals }) => {
      await get('SIGTERM', 0);
      signals.expectRequest(0);
      await get('SIGTERM', SAME_REQUEST_MS + 200);
      assert.deepEqual(told, ['stop by SIGTERM', 'SIGTERM again']);
      await get('SIGTERM', 1);
      assert.deepEqual(told, ['stop by SIGTERM', 'SIGTERM again', 'at once']);
    }),
  );

  it(
    'reports how long ago it came',
    withSignals(async ({ get, signals }) => {
      assert.equal(signals.stoppingForMs, undefined);
      await get('SIGTERM', 0);
      await get('SIGTERM', 100);
      assert.equal(signals.stoppingForMs, 100);
    }),
  );

  it(
    'does not kill a process that is about to end, unless it is a new request',
    withSignals(async ({ told, get, signals }) => {
      await get('SIGINT', 0);
      signals.end();
      await get('SIGTERM', SAME_REQUEST_MS - 1);
      assert.deepEqual(told, ['stop by SIGINT']);
      await get('SIGTERM', 1);
      assert.deepEqual(told, ['stop by SIGINT', 'raised SIGTERM']);
    }),
  );

  it(
    'does not kill a process that has passed it on and is about to end',
    withSignals(async ({ told, get, signals }) => {
      signals.passOnTo((signal) => told.push(`passed on ${signal}`));
      await get('SIGINT', 0);
      signals.end();
      await get('SIGTERM', 1);
      assert.deepEqual(told, ['passed on SIGINT']);
    }),
  );

  it(
    'goes only to the next generation after a takeover',
    withSignals(async ({ told, get, signals }) => {
      const passed: string[] = [];
      signals.passOnTo((signal) => passed.push(signal));
      await get('SIGTERM', 0);
      await get('SIGTERM', 1);
      assert.deepEqual([told, passed], [[], ['SIGTERM', 'SIGTERM']]);
    }),
  );
});
