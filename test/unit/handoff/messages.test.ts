// The messages between dispatcher and worker, as bytes.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import {
  decodeFromWorker,
  decodeToWorker,
  encodeAdopted,
  encodeClosed,
  encodeFrame,
  encodeHandoff,
  encodeJson,
  encodeRefused,
  MAX_BATCH,
  type FromWorker,
  type ToWorker,
} from '../../../src/handoff/index.js';
import { refusalReasons } from '../../../src/handoff/messages.js';
import { failsWith } from '../../support/errors.js';

/** The payload of a frame, if its length is right. */
function payloadOf(frame: Buffer): Buffer {
  assert.equal(frame.readUInt32BE(0), frame.length - 4);
  return frame.subarray(4);
}

const protocolError = failsWith('ERR_PROTOCOL');

describe('a message with a number', () => {
  const large = 2 ** 53 - 1;
  for (const [name, frame, hex, message] of [
    ['adopted', encodeAdopted(1), '00000009' + '02' + '0000000000000001', { type: 'adopted', position: 1 }],
    [
      'adopted',
      encodeAdopted(large),
      '00000009' + '02' + '001fffffffffffff',
      { type: 'adopted', position: large },
    ],
    [
      'adopted',
      encodeAdopted(2 ** 32),
      '00000009' + '02' + '0000000100000000',
      { type: 'adopted', position: 2 ** 32 },
    ],
    [
      'closed',
      encodeClosed(0x1234),
      '00000009' + '04' + '0000000000001234',
      { type: 'closed', total: 0x1234 },
    ],
    [
      'refused',
      encodeRefused(0xffff_ffff, 'capacity'),
      '0000000a' + '03' + '00000000ffffffff' + '01',
      { type: 'refused', position: 0xffff_ffff, reason: 'capacity' },
    ],
  ] as const) {
    it(`has the bytes of docs/protocol.md: ${name}, ${hex}`, () => {
      assert.equal(frame.toString('hex'), hex);
      assert.deepEqual(decodeFromWorker(payloadOf(frame)), message);
    });
  }

  it('encodes each reason of a refusal as a byte of its own, from 1', () => {
    assert.deepEqual(refusalReasons, ['capacity', 'not-listening', 'descriptors', 'draining']);
    for (const [index, reason] of refusalReasons.entries()) {
      const payload = payloadOf(encodeRefused(7, reason));
      assert.equal(payload.at(-1), index + 1);
      assert.deepEqual(decodeFromWorker(payload), { type: 'refused', position: 7, reason });
    }
    for (const reason of [0, refusalReasons.length + 1, 255]) {
      const payload = payloadOf(encodeRefused(7, 'capacity'));
      payload[payload.length - 1] = reason;
      assert.throws(() => decodeFromWorker(payload), protocolError);
    }
  });

  it('has the length of its type', () => {
    for (const frame of [encodeAdopted(1), encodeClosed(1), encodeRefused(1, 'capacity')]) {
      const payload = payloadOf(frame);
      for (let length = 1; length < payload.length; length++) {
        assert.throws(() => decodeFromWorker(payload.subarray(0, length)), protocolError, String(length));
      }
      assert.throws(() => decodeFromWorker(Buffer.concat([payload, Buffer.of(0)])), protocolError);
    }
  });

  it('is at most the largest safe integer of JavaScript', () => {
    for (const type of ['02', '04']) {
      for (const hex of ['0020000000000000', 'ffffffffffffffff']) {
        assert.throws(
          () => decodeFromWorker(Buffer.from(type + hex, 'hex')),
          failsWith('ERR_PROTOCOL', /absurdly large/),
        );
      }
    }
  });
});

describe('a hand-off', () => {
  it('has the listener and the number of descriptors that come with its first byte', () => {
    const frame = encodeHandoff(0x1234, MAX_BATCH);
    assert.equal(frame.toString('hex'), '00000004' + '01' + '1234' + 'fc');
    assert.deepEqual(decodeToWorker(payloadOf(frame)), {
      type: 'handoff',
      listener: 0x1234,
      count: MAX_BATCH,
    });
  });

  it('goes to workers only, and its answers go to dispatchers only', () => {
    assert.throws(() => decodeFromWorker(payloadOf(encodeHandoff(0, 1))), protocolError);
    for (const frame of [encodeAdopted(1), encodeRefused(1, 'capacity'), encodeClosed(1)]) {
      assert.throws(() => decodeToWorker(payloadOf(frame)), protocolError);
    }
  });

  it('has one length', () => {
    for (const hex of ['01', '010000', '0100000100']) {
      assert.throws(() => decodeToWorker(Buffer.from(hex, 'hex')), failsWith('ERR_PROTOCOL', /not 4/));
    }
  });
});

const fromWorker: readonly Exclude<FromWorker, { type: 'adopted' | 'refused' | 'closed' }>[] = [
  { type: 'ready' },
  { type: 'serve', request: 1 },
  { type: 'listen', request: 2, address: { host: null, port: 0, ipv6Only: false, index: 3 }, backlog: 511 },
  {
    type: 'listen',
    request: 7,
    address: { host: 'fe80::1%eth0', port: 1, ipv6Only: false, index: 0 },
    backlog: 0,
  },
  {
    type: 'listen',
    request: 3,
    address: { host: '::1', port: 65_535, ipv6Only: true, index: 0 },
    backlog: 0,
  },
  { type: 'listen', request: 4, address: { path: '/run/app', mode: 0o660 }, backlog: 1 },
  { type: 'listen', request: 5, address: { path: '\0abstract', mode: 0 }, backlog: 1 },
  { type: 'listen', request: 6, address: { fd: 3 }, backlog: 1 },
  { type: 'unlisten', listeners: [0, 65_535] },
  { type: 'window', window: 1 },
  { type: 'capacity', capacity: 0 },
  { type: 'capacity', capacity: null },
  { type: 'draining' },
  { type: 'holding', on: true },
  { type: 'unwatched', listener: 65_535 },
];

const toWorker: readonly Exclude<ToWorker, { type: 'handoff' | 'handoff-again' }>[] = [
  { type: 'welcome', passfd: 1, id: 1, pid: 4711, serves: true },
  { type: 'welcome', passfd: 1, id: 1, pid: 4711, serves: true, holding: true },
  { type: 'welcome', passfd: 1, id: 1, pid: 4711, serves: true, direct: true },
  { type: 'board' },
  { type: 'watch', listener: 0, on: true, place: 0 },
  { type: 'watch', listener: 65_535, on: false, place: 251 },
  { type: 'listening', request: 1, listeners: [] },
  {
    type: 'listening',
    request: 2,
    listeners: [
      { id: 0, address: { host: '127.0.0.1', port: 80 } },
      { id: 1, address: { path: '/run/app' } },
    ],
  },
  { type: 'listen-failed', request: 3, code: 'EADDRINUSE', reason: 'ünderstandable' },
  { type: 'drain' },
  { type: 'farewell', code: 'ERR_PROTOCOL', reason: '' },
];

describe('a message in JSON', () => {
  for (const message of fromWorker) {
    it(`is decoded by the dispatcher as it was encoded: ${JSON.stringify(message)}`, () => {
      assert.deepEqual(decodeFromWorker(payloadOf(encodeJson(message))), message);
    });
  }

  for (const message of toWorker) {
    it(`is decoded by the worker as it was encoded: ${JSON.stringify(message)}`, () => {
      assert.deepEqual(decodeToWorker(payloadOf(encodeJson(message))), message);
    });
  }

  it('is UTF-8 after its length', () => {
    assert.equal(
      encodeJson({ type: 'ready' }).toString('hex'),
      '00000010' + Buffer.from('{"type":"ready"}').toString('hex'),
    );
  });

  it('may have unknown fields, from a later release', () => {
    const payload = Buffer.from('{"type":"ready","since":1}');
    assert.deepEqual(decodeFromWorker(payload), { type: 'ready' });
  });

  for (const text of [
    '{"type":"drain"}',
    '{"type":"welcome","passfd":1,"id":1,"pid":1,"serves":true}',
    '{"type":"__proto__"}',
    '{}',
    '{"type":"serve"}',
    '{"type":"serve","request":-1}',
    '{"type":"serve","request":0.5}',
    '{"type":"serve","request":"1"}',
    '{"type":"listen","request":1,"address":{},"backlog":1}',
    '{"type":"listen","request":1,"address":{"path":"/run/app","mode":512},"backlog":1}',
    '{"type":"listen","request":1,"address":{"host":"::","port":65536,"ipv6Only":true,"index":0},"backlog":1}',
    '{"type":"listen","request":1,"address":{"fd":-1},"backlog":1}',
    '{"type":"listen","request":1,"address":{"host":"localhost","port":1,"ipv6Only":false,"index":0},"backlog":1}',
    '{"type":"listen","request":1,"address":{"fd":3},"backlog":-1}',
    '{"type":"unlisten","listeners":[65536]}',
    '{"type":"unlisten","listeners":"all"}',
    '{"type":"window","window":0}',
    '{"type":"window","window":4097}',
    '{"type":"capacity","capacity":-1}',
    '{"type":"capacity"}',
    '{"type":"unwatched"}',
    '{"type":"unwatched","listener":65536}',
    '{"type":"board"}',
    '{"type":"ready"',
    '["ready"]',
    'null',
    '',
    '\0',
    '\x7f',
  ]) {
    it(`breaks the protocol when no worker sends it: ${JSON.stringify(text)}`, () => {
      assert.throws(() => decodeFromWorker(Buffer.from(text)), protocolError);
    });
  }

  for (const text of [
    '{"type":"watch","listener":0,"on":true}',
    '{"type":"watch","listener":0,"on":1,"place":0}',
    '{"type":"watch","listener":0,"on":true,"place":252}',
    '{"type":"watch","listener":0,"on":true,"place":-1}',
    '{"type":"watch","listener":65536,"on":true,"place":0}',
    '{"type":"unwatched","listener":0}',
  ]) {
    it(`breaks the protocol when no dispatcher sends it: ${text}`, () => {
      assert.throws(() => decodeToWorker(Buffer.from(text)), protocolError);
    });
  }

  it('is refused with a short reason, however many mistakes it has', () => {
    const wrong = JSON.stringify({ type: 'unlisten', listeners: Array<string>(9000).fill('x') });
    assert.throws(
      () => decodeFromWorker(Buffer.from(wrong)),
      (error: Error) => error.message.length < 1000 && error.message.includes('listeners'),
    );
  });

  it('may be a challenge, when only the dispatcher has a key: the error says what to do', () => {
    assert.throws(
      () => decodeToWorker(Buffer.from('#CHALLENGE#{sha256}xyz')),
      failsWith('ERR_AUTHENTICATION', /--authkey-file FILE or PASSFD_AUTHKEY$/),
    );
  });

  it('breaks the protocol as garbage, in either direction', () => {
    let state = 1;
    const random = (): number => (state = (state * 48_271) % 2_147_483_647);
    for (let round = 0; round < 2000; round++) {
      const garbage = Buffer.from(Array.from({ length: random() % 32 }, () => random() % 256));
      for (const decode of [decodeFromWorker, decodeToWorker]) {
        try {
          decode(garbage);
        } catch (error) {
          protocolError(error);
        }
      }
    }
  });
});

describe('a frame of given bytes', () => {
  it('is their length and the bytes', () => {
    assert.equal(encodeFrame(Buffer.from('{}')).toString('hex'), '000000027b7d');
  });
});
