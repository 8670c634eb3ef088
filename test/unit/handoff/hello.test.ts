// The first frame on a control socket, as bytes.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import {
  decodeIntroduction,
  encodeHello,
  MAX_HELLO_BYTES,
  MAX_WINDOW,
  PROTOCOL_VERSION,
  type Hello,
} from '../../../src/handoff/index.js';
import { dumps } from '../../../src/multiprocessing/index.js';
import { failsWith } from '../../support/errors.js';

const worker: Hello = { passfd: 1, role: 'worker', pid: 4711, window: MAX_WINDOW, capacity: null };

describe('a hello', () => {
  it('is the JSON of docs/protocol.md', () => {
    assert.equal(PROTOCOL_VERSION, 1);
    assert.equal(
      encodeHello(worker).toString(),
      '{"passfd":1,"role":"worker","pid":4711,"window":4096,"capacity":null}',
    );
    assert.equal(encodeHello({ passfd: 1, role: 'control' }).toString(), '{"passfd":1,"role":"control"}');
  });

  for (const hello of [
    worker,
    { ...worker, window: 1, capacity: 0 },
    { ...worker, returns: { id: 3, open: 0, custody: 1 } },
    { ...worker, returns: { id: 3, open: 0, custody: 1, child: { slot: 2, service: 'it' } } },
    { passfd: 1, role: 'control' },
  ] as const) {
    it(`is decoded as it was encoded: ${JSON.stringify(hello)}`, () => {
      assert.deepEqual(decodeIntroduction(encodeHello(hello)), { dialect: 'passfd', hello });
      assert.ok(encodeHello(hello).length <= MAX_HELLO_BYTES);
    });
  }

  it('may have unknown fields', () => {
    const said = Buffer.from(JSON.stringify({ ...worker, name: 'canary' }));
    assert.deepEqual(decodeIntroduction(said), { dialect: 'passfd', hello: worker });
  });

  for (const [text, reason] of [
    ['{"passfd":2,"role":"worker"}', /version 1, and the peer speaks 2/],
    ['{"passfd":"1","role":"worker"}', /the peer speaks "1"/],
    ['{"passfd":null,"role":"worker"}', /the peer speaks null/],
    ['{"role":"worker"}', /the peer speaks none/],
    ['{}', /the peer speaks none/],
    ['{"passfd":1}', /not understood/],
    ['{"passfd":1,"role":"takeover"}', /not understood/],
    ['{"passfd":1,"role":"worker"}', /not understood/],
    ['{"passfd":1,"role":"worker","pid":0,"window":1,"capacity":null}', /not understood/],
    ['{"passfd":1,"role":"worker","pid":1,"window":4097,"capacity":null}', /not understood/],
    ['{"passfd":1,"role":"worker","pid":1,"window":1.5,"capacity":null}', /not understood/],
    ['{"passfd":1,"role":"worker","pid":1,"window":1}', /not understood/],
    [
      '{"passfd":1,"role":"worker","pid":1,"window":1,"capacity":null,"returns":{"id":1,"open":0,"custody":0,"child":{"slot":0,"service":""}}}',
      /not understood/,
    ],
    ['{', /not JSON/],
    ['', /neither a hello of passfd nor a pickle/],
    ['GET /', /neither a hello of passfd nor a pickle/],
  ] as const) {
    it(`is refused with a reason: ${text}`, () => {
      assert.throws(() => decodeIntroduction(Buffer.from(text)), failsWith('ERR_HELLO', reason));
    });
  }
});

describe('a hello with many mistakes', () => {
  it('is refused with a short reason', () => {
    for (const wrong of [
      { passfd: 'x'.repeat(4000) },
      { passfd: 1, role: 'worker', returns: Array(900).fill('x') },
    ]) {
      assert.throws(
        () => decodeIntroduction(Buffer.from(JSON.stringify(wrong))),
        (error: Error) => error.message.length < 1000,
      );
    }
  });
});

describe('a pickle', () => {
  it('is recognised by its first byte, and not decoded', () => {
    for (const pickle of [dumps(4711), Buffer.of(0x80), Buffer.from('80ff', 'hex')]) {
      assert.deepEqual(decodeIntroduction(pickle), { dialect: 'multiprocessing', pickle });
    }
  });
});
