// The mutual challenge, compared byte for byte with what CPython sent.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import {
  authenticateClient,
  authenticateToListener,
  createAnswer,
  createMessage,
  isRightAnswer,
  MAX_HANDSHAKE_FRAME_BYTES,
  toKey,
  type HandshakeChannel,
} from '../../../src/multiprocessing/authentication.js';
import { failsWith } from '../../support/errors.js';
import { vectors } from '../../support/vectors.js';

const key = toKey(vectors.key);
const CHALLENGE_BYTES = '#CHALLENGE#'.length;

/** A channel whose other end sends these frames, whatever it gets, and records what was sent to it. */
function scripted(...incoming: readonly (string | Buffer)[]): { channel: HandshakeChannel; sent: string[] } {
  const frames = incoming.map((frame) => Buffer.from(frame));
  const sent: string[] = [];
  return {
    sent,
    channel: {
      sendBytes: (bytes) => {
        sent.push(Buffer.from(bytes).toString('latin1'));
        return Promise.resolve();
      },
      recvBytes: (maxLength) => {
        assert.equal(maxLength, MAX_HANDSHAKE_FRAME_BYTES);
        const frame = frames.shift();
        return frame ? Promise.resolve(frame) : Promise.reject(new Error('The script has ended'));
      },
    },
  };
}

/** The payload of a frame in the vectors, without the header. */
function payload(frame: string): Buffer {
  return Buffer.from(frame, 'hex').subarray(4);
}

describe('the answer to a challenge', () => {
  for (const { challenge, modern_response } of vectors.challenge_responses) {
    const message = Buffer.from(challenge, 'hex');
    it(`is CPython's, byte for byte: to ${message.toString('latin1', 0, 10).replace(/[^ -~]/g, '.')}`, () => {
      assert.equal(createAnswer(key, message).toString('hex'), modern_response);
    });
  }

  for (const [version, { same_key }] of Object.entries(vectors.handshakes)) {
    it(`is the one that was given in a whole handshake: ${version}`, () => {
      const [challenge, answer] = same_key.map(({ frame }) => payload(frame));
      assert.ok(challenge && answer);
      assert.ok(isRightAnswer(key, challenge.subarray(CHALLENGE_BYTES), answer));
    });
  }

  it('is not given to a message that is too short, or asks for a digest that is not allowed', () => {
    const nonce = '.'.repeat(40);
    for (const message of [
      '',
      '.'.repeat(19),
      `{sha512}${nonce}`,
      `{SHA256}${nonce}`,
      `sha256${nonce}`,
      `{sha256${nonce}`,
    ]) {
      assert.throws(() => createAnswer(key, Buffer.from(message)), failsWith('ERR_HANDSHAKE'), message);
    }
  });

  it('to 20 bytes is MD5 without a name, even when they begin with one', () => {
    assert.equal(createAnswer(key, Buffer.from(`{sha256}${'.'.repeat(12)}`)).length, 16);
  });
});

describe('an answer', () => {
  const message = createMessage();

  it('is right in every digest that CPython takes, and in the MD5 of an old one', () => {
    for (const name of ['md5', 'sha256', 'sha384', 'sha3_256', 'sha3_384']) {
      const asked = Buffer.concat([Buffer.from(`{${name}}`), Buffer.alloc(40, 1)]);
      assert.ok(isRightAnswer(key, asked, createAnswer(key, asked)), name);
    }
    for (const { challenge, legacy_response } of vectors.challenge_responses) {
      assert.ok(isRightAnswer(key, Buffer.from(challenge, 'hex'), Buffer.from(legacy_response, 'hex')));
    }
  });

  it('is wrong with another key, a changed bit, a missing byte, one too many, or none at all', () => {
    const answer = createAnswer(key, message);
    const changed = Buffer.from(answer);
    changed[20] = (changed[20] ?? 0) ^ 1;
    for (const wrong of [
      createAnswer(toKey('another'), message),
      changed,
      answer.subarray(0, -1),
      Buffer.concat([answer, Buffer.of(0)]),
      Buffer.alloc(0),
      Buffer.alloc(16),
      Buffer.alloc(20),
      answer.subarray('{sha256}'.length),
    ]) {
      assert.equal(isRightAnswer(key, message, wrong), false, wrong.toString('hex'));
    }
  });
});

describe('a message', () => {
  it('asks for SHA-256 and is never the same twice', () => {
    assert.match(createMessage().toString('latin1'), /^\{sha256\}/);
    assert.equal(createMessage().length, 48);
    assert.notDeepEqual(createMessage(), createMessage());
  });
});

describe('a key', () => {
  it('is a string or bytes, and not empty', () => {
    assert.deepEqual(toKey('peekaboo'), toKey(Buffer.from('peekaboo')));
    assert.throws(() => toKey(''), TypeError);
    assert.throws(() => toKey(new Uint8Array()), TypeError);
  });
});

describe('a handshake', () => {
  it('rejects a wrong answer with #FAILURE#, and sends nothing more', async () => {
    const { channel, sent } = scripted(Buffer.alloc(16));
    await assert.rejects(authenticateClient(channel, key), failsWith('ERR_AUTHENTICATION'));
    assert.deepEqual(sent.slice(1), ['#FAILURE#']);
  });

  it('does not answer a frame that is no challenge', async () => {
    const { channel, sent } = scripted('#WELCOME#');
    await assert.rejects(authenticateToListener(channel, key), failsWith('ERR_HANDSHAKE'));
    assert.deepEqual(sent, []);
  });

  it('ends when its answer is rejected, and sends no challenge', async () => {
    for (const verdict of ['#FAILURE#', '#WELCOME', '']) {
      const { channel, sent } = scripted(
        Buffer.concat([Buffer.from('#CHALLENGE#'), createMessage()]),
        verdict,
      );
      await assert.rejects(authenticateToListener(channel, key), failsWith('ERR_AUTHENTICATION'));
      assert.equal(sent.length, 1);
    }
  });
});
