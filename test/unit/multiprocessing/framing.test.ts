// Frames, as bytes: the pure part of what `Connection` sends and receives.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { decodeHeader, decodeLongLength, encodeFrame } from '../../../src/multiprocessing/framing.js';
import { failsWith } from '../../support/errors.js';
import { vectors } from '../../support/vectors.js';

describe('a frame', () => {
  for (const { payload_hex, frame, note } of vectors.framing) {
    if (note !== undefined) continue;
    it(`is written byte for byte as CPython writes it: ${payload_hex === '' ? 'empty' : payload_hex}`, () => {
      assert.equal(Buffer.concat(encodeFrame(Buffer.from(payload_hex, 'hex'))).toString('hex'), frame);
    });
  }

  it('is sent in one piece up to 16 KiB, and without a copy of a larger payload', () => {
    assert.equal(encodeFrame(Buffer.alloc(16_384)).length, 1);
    const large = Buffer.alloc(16_385);
    const [header, payload] = encodeFrame(large);
    assert.deepEqual(header, Buffer.from('00004001', 'hex'));
    assert.equal(payload, large);
  });
});

describe('the length of a frame', () => {
  it('is a signed number of 32 bits', () => {
    assert.equal(decodeHeader(Buffer.from('00000005', 'hex')), 5);
    assert.equal(decodeHeader(Buffer.from('7fffffff', 'hex')), 0x7fff_ffff);
  });

  it('follows in 64 bits after -1', () => {
    const long = vectors.framing.find(({ note }) => note !== undefined);
    const bytes = Buffer.from(long?.frame ?? '', 'hex');
    assert.equal(decodeHeader(bytes.subarray(0, 4)), 'long');
    assert.equal(decodeLongLength(bytes.subarray(4, 12)), 5);
  });

  for (const header of ['fffffffe', '80000000']) {
    it(`breaks the format when it is negative: ${header}`, () => {
      assert.throws(() => decodeHeader(Buffer.from(header, 'hex')), failsWith('ERR_FRAME'));
    });
  }

  it('breaks the format when no number can hold it', () => {
    assert.equal(decodeLongLength(Buffer.from('001fffffffffffff', 'hex')), Number.MAX_SAFE_INTEGER);
    assert.throws(() => decodeLongLength(Buffer.from('0020000000000000', 'hex')), failsWith('ERR_FRAME'));
    assert.throws(() => decodeLongLength(Buffer.from('8000000000000000', 'hex')), failsWith('ERR_FRAME'));
  });
});
