// Hostile pickles: every input gives a value or a PassfdError, soon and with little memory.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { PassfdError } from '../../../src/fd/index.js';
import { dumps, loads, type PickleLimits } from '../../../src/multiprocessing/pickle/index.js';
import { op, refusedOpcodes } from '../../../src/multiprocessing/pickle/opcodes.js';
import { hex, pickle, protocol3, protocol4 } from './pickle-vectors.js';
import { STUCK_AFTER_MS } from '../../support/deadline.js';

const vectors = [...protocol3, ...protocol4].map((vector) => vector.pickle);
const opcodes = Object.values(op);
const malformed = { code: 'ERR_PICKLE' };

/** The opcode of a short text. */
function text(value: string): Buffer {
  return Buffer.from(`\x8c${String.fromCharCode(value.length)}${value}`, 'latin1');
}

const BYTEARRAY = Buffer.concat([text('builtins'), text('bytearray'), hex('93')]);

describe('an opcode that is more than data', () => {
  for (const [opcode, name] of refusedOpcodes) {
    it(`is refused by name: ${name}`, () => {
      const message = new RegExp(`uses ${name} at byte 3,`);
      assert.throws(() => loads(pickle('4e', Uint8Array.of(opcode))), {
        code: 'ERR_PICKLE_REFUSED',
        message,
      });
    });
  }

  it('is refused where it would run something', () => {
    const system = Buffer.from('\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.', 'latin1');
    assert.throws(() => loads(system), { code: 'ERR_PICKLE_REFUSED', message: /GLOBAL at byte 2/ });
    for (const [module, name] of [
      ['posix', 'system'],
      ['builtins', 'eval'],
      ['builtins', 'bytearray.fromhex'],
      ['_codecs', 'decode'],
      ['', 'bytearray'],
    ] as const) {
      const named = pickle(text(module), text(name), '93 29 52');
      assert.throws(() => loads(named), { code: 'ERR_PICKLE_REFUSED', message: /STACK_GLOBAL at byte/ });
    }
  });

  it('calls nothing except the names of plain types', () => {
    for (const calling of [pickle('4e 29 52'), pickle('4300 29 52'), pickle(BYTEARRAY, '5d 52')]) {
      assert.throws(() => loads(calling), { code: 'ERR_PICKLE_REFUSED', message: /REDUCE at byte/ });
    }
  });

  it('leaves no callable in the result', () => {
    for (const kept of ['', '85', '85 85', '94 86']) {
      const leaving = kept.endsWith('86') ? pickle(BYTEARRAY, '94 6800 86') : pickle(BYTEARRAY, kept);
      assert.throws(() => loads(leaving), { code: 'ERR_PICKLE_REFUSED', message: /callable bytearray/ });
    }
    for (const holding of [
      pickle('5d', BYTEARRAY, '61'),
      pickle('7d 4b01', BYTEARRAY, '73'),
      pickle('7d', BYTEARRAY, '4b01 73'),
      pickle('8f 28', BYTEARRAY, '90'),
      pickle('28', BYTEARRAY, '91'),
    ]) {
      assert.throws(() => loads(holding), { code: 'ERR_PICKLE_REFUSED', message: /callable bytearray/ });
    }
  });

  it('is malformed with other arguments than plain data has', () => {
    for (const args of [
      '4e 85',
      '4b05 85',
      '8c0161 85',
      '4300 4300 86',
      '8c0161 8c0475746638 86',
      '4300 4300 4300 87',
    ]) {
      assert.throws(() => loads(pickle(BYTEARRAY, args, '52')), malformed, args);
    }
    const set = (args: string): Buffer => pickle(text('builtins'), text('set'), '93', args, '52');
    for (const args of ['29', '4e 85', '8c0161 85', '5d 5d 61 85', '5d 5d 86', '29 85']) {
      assert.throws(() => loads(set(args)), malformed, args);
    }
    const encode = (args: string): Buffer => pickle(text('_codecs'), text('encode'), '93', args, '52');
    for (const args of ['29', '8c0161 85', '8c02c480 8c066c6174696e31 86', '4300 8c066c6174696e31 86']) {
      assert.throws(() => loads(encode(args)), malformed, args);
    }
  });

  it('is any that is not known', () => {
    const known = new Set<number>([...Object.values(op), ...refusedOpcodes.keys()]);
    for (let opcode = 0; opcode <= 0xff; opcode++) {
      if (!known.has(opcode)) assert.throws(() => loads(pickle(Uint8Array.of(opcode))), malformed);
    }
    assert.equal(known.size, 42 + 26);
  });
});

describe('a pickle', () => {
  it('is malformed when it ends at any byte but its last', () => {
    for (const vector of vectors) {
      for (let length = 0; length < vector.length; length++) {
        const error = errorOf(vector.subarray(0, length));
        // The refused opcode may come before the end.
        assert.ok(error?.code === 'ERR_PICKLE' || errorOf(vector)?.code === 'ERR_PICKLE_REFUSED');
      }
    }
  });

  const broken: [what: string, bytes: Buffer][] = [
    ['nothing is in it', Buffer.alloc(0)],
    ['its protocol is missing', hex('4e 2e')],
    ['its protocol is 1', hex('8001 4e 2e')],
    ['its protocol is 6', hex('8006 4e 2e')],
    ['its protocol comes twice', pickle('8004 4e')],
    ['bytes follow its end', hex('8004 4e 2e 00')],
    ['it has no value', pickle()],
    ['it has two values', pickle('4e 4e')],
    ['a mark is open', pickle('28 4e')],
    ['a mark is missing', pickle('5d 4e 65')],
    ['an item is below a mark', pickle('5d 4e 28 61 74 86')],
    ['a list is below a mark', pickle('5d 28 4e 61 74 86')],
    ['tuple items are below a mark', pickle('4e 4e 28 86 74 86')],
    ['a memoized value is below a mark', pickle('4e 28 94 74 86')],
    ['there is nothing to memoize', pickle('94')],
    ['an item goes into None', pickle('4e 4e 61')],
    ['an item goes into a tuple', pickle('29 4e 61')],
    ['an item goes into a dict', pickle('7d 4e 61')],
    ['members go into a frozenset', pickle('28 91 28 4e 90')],
    ['members go into a list', pickle('5d 28 4e 90')],
    ['keys go into a set', pickle('8f 4e 4e 73')],
    ['a key has no value', pickle('7d 28 4e 75')],
    ['a key is bytes', pickle('7d 4300 4e 73')],
    ['a key is a tuple', pickle('7d 29 4e 73')],
    ['a member is a list', pickle('8f 28 5d 90')],
    ['a member of a frozenset is a frozenset', pickle('28 28 91 91')],
    ['a str is not UTF-8', pickle('8c01ff')],
    ['a str is cut in a character', pickle('8c02eda0')],
    ['a str is not UTF-8 after a lone surrogate', pickle('8c05eda08080ed')],
    ['a surrogate is inside a character', pickle('8c04e1eda080')],
    ['an int has a negative length', pickle('8b ffffffff')],
    ['a frame is longer than the rest', pickle('95 0300000000000000 4e')],
    ['a frame is of 2^64 - 1 bytes', pickle('95 ffffffffffffffff 4e')],
    ['text is of 2^64 - 1 bytes', pickle('8d ffffffffffffffff')],
    ['bytes are of 2^63 bytes', pickle('8e 0000000000000080')],
    ['a bytearray is of 2^53 bytes', pickle('96 0000000000002000')],
    ['bytes are of 4 GiB - 1', pickle('42 ffffffff')],
    ['a memo entry is unknown', pickle('6800')],
    ['memo entry 2^31 is asked for', pickle('6a 00000080')],
    ['memo entry 1 is made before entry 0', pickle('4e 71 01')],
    ['memo entry 2^31 is made', pickle('4e 72 00000080')],
    ['a list is in itself', pickle('5d 94 6800 61')],
    ['a list is in its own tuple', pickle('5d 94 6800 85 61')],
    ['a list is in the list in it', pickle('5d 94 5d 6800 61 61')],
    ['a dict is in itself', pickle('7d 94 4e 6800 73')],
    ['a list gets an item after it was put into another', pickle('5d 94 5d 6800 61 6800 4e 61 86')],
  ];
  for (const [what, bytes] of broken) {
    it(`is malformed when ${what}`, () => {
      assert.throws(() => loads(bytes), malformed);
    });
  }
});

describe('a limit', () => {
  const thousand = Array.from({ length: 1000 }, (_, index) => index);
  const cases: [name: keyof PickleLimits, limit: number, within: Buffer, over: Buffer][] = [
    ['bytes', 4, pickle('4e'), pickle('4e 94')],
    ['depth', 0, pickle('4e'), pickle('5d')],
    ['depth', 2, pickle('5d 5d 61'), pickle('5d 5d 5d 61 61')],
    ['depth', 2, pickle('29 85'), pickle('29 85 85')],
    ['depth', 2, pickle('28 28 74 74'), pickle('28 28 28 30')],
    ['values', 3, pickle('5d 28 4e 4e 65'), pickle('5d 28 4e 4e 4e 65')],
    ['values', 3, pickle('5d 94 6800 86'), pickle('5d 94 6800 6800 87')],
    ['values', 1, pickle('4e 94'), pickle('4e 94 94')],
    ['numericKeys', 1000, dumps(new Set(thousand)), dumps([new Set(thousand), new Map([[1, 1]])])],
    ['numericKeys', 1, pickle('28 88 47 0000000000000000 91'), pickle('28 4b01 8a09 000000000000000001 91')],
    ['integerBytes', 2, pickle('8a02 0102'), pickle('8a03 010203')],
    ['integerBytes', 2, pickle('8b02000000 0102'), pickle('8b03000000 010203')],
  ];
  for (const [name, limit, within, over] of cases) {
    it(`of ${limit} holds for ${name}: ${over.toString('hex', 2, 14)}`, () => {
      loads(within, { [name]: limit });
      assert.throws(() => loads(over, { [name]: limit }), {
        code: 'ERR_PICKLE',
        message: `A pickle is over the limit ${name}: ${limit}`,
      });
    });
  }

  it('that is no number is a wrong argument', () => {
    assert.throws(() => loads(pickle('4e'), { depth: NaN }), TypeError);
    assert.throws(() => loads(pickle('4e'), { values: -1 }), TypeError);
  });
});

describe('without other limits, loads', () => {
  const hostile: [what: string, bytes: Buffer][] = [
    ['100 000 lists in each other', pickle(repeated('5d', 100_000), repeated('61', 99_999))],
    ['100 000 tuples in each other', pickle('29', repeated('85', 100_000))],
    ['100 000 marks', pickle(repeated('28', 100_000))],
    ['a value that doubles 100 times', pickle('5d', doublings(100))],
    ['lists that double when they were taken already', lateDoublings(100)],
    ['a million and one dicts, before it looks what becomes of them', pickle(repeated('7d', 1_000_001))],
    ['a million references', pickle('28 4e 94', repeated('6800', 1_000_001), '74')],
    ['a million memo entries', pickle('4e', repeated('94', 1_000_001))],
    [
      'a long dict in many tuples, which takes no time for each',
      pickle(longDict(20_000), '28', repeated('6800 85', 20_000), '74'),
    ],
    ['ints whose hashes all collide', pickle('8f 28', colliding(50_000), '90')],
    ['an int of a megabyte', pickle('8b 00001000', Buffer.alloc(0x10_0000, 0x7f))],
    ['more than 64 MiB', Buffer.alloc(64 * 1024 * 1024 + 1)],
  ];
  for (const [what, bytes] of hostile) {
    it(`refuses ${what}`, { timeout: STUCK_AFTER_MS }, () => {
      assert.throws(() => loads(bytes), { code: 'ERR_PICKLE', message: /over the limit/ });
    });
  }

  it('refuses sets and bytes made of one shared value many times', () => {
    const list = Buffer.concat([hex('5d 28'), repeated('8c0161', 1000), hex('65 85 94')]);
    const set = Buffer.concat([text('builtins'), text('set'), hex('93 94')]);
    const sets = pickle(list, set, '28', repeated('6801 6800 52', 1001), '74 87');
    assert.throws(() => loads(sets), { code: 'ERR_PICKLE', message: /over the limit values/ });
    const long = Buffer.concat([
      hex('58 00001000'),
      Buffer.alloc(0x10_0000, 'a'),
      text('latin1'),
      hex('86 94'),
    ]);
    const encode = Buffer.concat([text('_codecs'), text('encode'), hex('93 94')]);
    const copies = pickle(long, encode, '28', repeated('6801 6800 52', 65), '74 87');
    assert.throws(() => loads(copies), { code: 'ERR_PICKLE', message: /over the limit bytes/ });
  });

  it('reads 1000 levels', () => {
    loads(pickle(repeated('5d', 1000), repeated('61', 999)));
  });
});

describe('a mutated pickle', () => {
  const SEED = 20_240_229;
  const MUTANTS = 40_000;

  it(`gives a value that can go out again, or a PassfdError (seed ${SEED})`, () => {
    const random = randomIntegers(SEED);
    let read = 0;
    for (let count = 0; count < MUTANTS; count++) {
      const mutant = mutate(vectors, random);
      try {
        const value = loads(mutant);
        assert.deepEqual(loads(dumps(value)), value);
        read++;
      } catch (error) {
        assert.ok(error instanceof PassfdError, `${mutant.toString('hex')}: ${String(error)}`);
      }
    }
    // Mutants that all fail at once would test nothing.
    assert.ok(read > MUTANTS / 20 && read < (MUTANTS * 19) / 20, `${read} were read`);
  });
});

function errorOf(bytes: Buffer): PassfdError | undefined {
  try {
    loads(bytes);
    return undefined;
  } catch (error) {
    assert.ok(error instanceof PassfdError, String(error));
    return error;
  }
}

function repeated(digits: string, count: number): Buffer {
  return Buffer.alloc(hex(digits).length * count, hex(digits));
}

/** Each list holds the one before twice. */
function doublings(count: number): Buffer {
  return Buffer.concat(Array.from({ length: count }, (_, index) => Uint8Array.of(0x94, 0x68, index, 0x86)));
}

/** Each empty list is on the stack twice. Then the last list is put into the one before it, and so on. */
function lateDoublings(count: number): Buffer {
  const lists = Array.from({ length: count }, (_, index) => Uint8Array.of(0x5d, 0x94, 0x68, index));
  return pickle(...lists, repeated('86 61', count - 1), '86');
}

/** Its last key makes it a `Map`. It is memo entry 0. */
function longDict(length: number): Buffer {
  const keys: unknown[] = Array.from({ length }, (_, index) => `key ${index}`);
  return dumps(new Map([...keys, 1].map((key) => [key, null]))).subarray(2, -1);
}

/** V8 hashes a bigint by its lowest 64 bits. */
function colliding(count: number): Buffer {
  const integers = Buffer.alloc(count * 14);
  for (let index = 0; index < count; index++) {
    integers.set([0x8a, 12, 5], index * 14);
    integers.writeUInt32LE(index + 1, index * 14 + 10);
  }
  return integers;
}

/** From 0 to `below` - 1, the same for the same seed (mulberry32). */
function randomIntegers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** Changes, removes, repeats or moves in one to three places. */
function mutate(originals: readonly Buffer[], random: (below: number) => number): Buffer {
  const pick = (): Buffer => originals[random(originals.length)] ?? Buffer.alloc(0);
  let bytes = Buffer.from(pick());
  for (let changes = 1 + random(3); changes > 0; changes--) {
    const at = random(bytes.length + 1);
    const [before, after] = [bytes.subarray(0, at), bytes.subarray(at)];
    const other = pick();
    const piece = other.subarray(random(other.length), random(other.length + 1));
    const kind = random(4);
    if (kind === 0) bytes = Buffer.concat([before, Uint8Array.of(random(256)), after.subarray(1)]);
    else if (kind === 1) bytes = Buffer.concat([before, after.subarray(1 + random(4))]);
    else if (kind === 2) bytes = Buffer.concat([before, piece, after]);
    else bytes = Buffer.concat([before, Uint8Array.of(opcodes[random(opcodes.length)] ?? 0), after]);
  }
  return bytes;
}
