// Pickles of plain data: writing and reading.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { PassfdError } from '../../../src/fd/index.js';
import { dumps, Float, FrozenSet, loads, Tuple } from '../../../src/multiprocessing/pickle/index.js';
import { BYTEARRAY, dict, hex, pickle, protocol3, protocol4, values, written } from './pickle-vectors.js';

const protocols = [
  { name: 'protocol 4', vectors: protocol4 },
  { name: 'protocol 3', vectors: protocol3 },
];

for (const { name, vectors } of protocols) {
  describe(`a ${name} pickle of CPython`, () => {
    for (const { python, pickle } of vectors) {
      it(`is read: ${python}`, () => {
        assert.ok(values.has(python));
        assert.deepEqual(loads(pickle), values.get(python));
      });
    }

    it('is one of 58', () => {
      assert.equal(vectors.length, 58);
    });
  });
}

class Point {
  readonly x = 1;
}

describe('dumps', () => {
  for (const { python, pickle } of protocol4.filter((vector) => vector.python !== BYTEARRAY)) {
    it(`writes ${python} as CPython does`, () => {
      const value = written.get(python) ?? values.get(python);
      assert.equal(dumps(value).toString('hex'), pickle.toString('hex'));
    });
  }

  it('writes a number as an int only when it is a safe integer, and -0 as a float', () => {
    assert.equal(loads(dumps(2 ** 53 - 1)), 2 ** 53 - 1);
    assert.deepEqual(dumps(-0), pickle('95 0a00000000000000 47 8000000000000000'));
    assert.equal(dumps(2 ** 53).includes(0x47), true);
    assert.equal(dumps(1e300).includes(0x47), true);
    assert.equal(dumps(new Float(1)).includes(0x47), true);
  });

  it('writes a safe bigint as the number would be', () => {
    for (const value of [0n, 255n, 256n, -1n, 2n ** 31n, -(2n ** 53n) + 1n]) {
      assert.deepEqual(dumps(value), dumps(Number(value)));
    }
  });

  it('writes an int of 256 bytes and more with a long length', () => {
    assert.equal(dumps(2n ** 2039n - 1n).includes(hex('8a ff')), true);
    assert.equal(dumps(2n ** 2039n).includes(hex('8b 00010000')), true);
  });

  it('writes only own enumerable properties with string keys', () => {
    const object = Object.defineProperty({ seen: 1, [Symbol('unseen')]: 2 }, 'hidden', { value: 3 });
    assert.deepEqual(loads(dumps(object)), dict({ seen: 1 }));
  });

  const unsupported: [what: string, value: unknown, message: RegExp][] = [
    ['undefined', undefined, /^value \(undefined\)/],
    ['a function', { run: () => 1 }, /^value\.run \(\[Function: run\]\)/],
    ['a symbol', [0, [Symbol('s')]], /^value\[1\]\[0\] \(Symbol\(s\)\)/],
    ['an instance of a class', { list: [1, 2, new Point()] }, /^value\.list\[2\] \(\[Point\]\)/],
    ['a date', new Map([['a key', new Date(0)]]), /^value\['a key'\] \(1970-01-01/],
    ['an array with a hole', new Tuple([new Array(1)]), /^value\[0\]\[0\] \(undefined\)/],
    ['an error', new Map([[1, new RangeError('far')]]), /^value\[1\] \(\[?RangeError/],
    ['an ArrayBuffer', new ArrayBuffer(1), /^value \(\[?ArrayBuffer/],
    ['bytes as a key', { m: new Map([[Buffer.from('k'), 1]]) }, /^value\.m has .*Buffer.* key/],
    ['a tuple as a member', [new Set([new Tuple([1])])], /^value\[0\] has \[Tuple\] for a key or member/],
    ['undefined as a member', new FrozenSet([undefined]), /^value has undefined for a key or member/],
  ];
  for (const [what, value, message] of unsupported) {
    it(`refuses ${what}, and says where it is`, () => {
      assert.throws(
        () => dumps(value),
        (error) => {
          assert.ok(error instanceof PassfdError);
          assert.equal(error.code, 'ERR_PICKLE_UNSUPPORTED');
          assert.match(error.message, message);
          return true;
        },
      );
    });
  }

  it('refuses a container that contains itself', () => {
    const list: unknown[] = [];
    list.push({ tuple: new Tuple([list]) });
    const map = new Map<string, unknown>();
    map.set('self', map);
    assert.throws(() => dumps(list), {
      code: 'ERR_PICKLE_UNSUPPORTED',
      message: /^value\[0\]\.tuple\[0\] is /,
    });
    assert.throws(() => dumps(map), { code: 'ERR_PICKLE_UNSUPPORTED', message: /^value\.self is / });
  });

  it('takes 1000 levels and refuses more, without overflowing the stack', () => {
    assert.equal(dumps(nested(1000)).length, dumps(nested(999)).length + 3);
    assert.throws(() => dumps(nested(1001)), { code: 'ERR_PICKLE_UNSUPPORTED', message: /deeper than 1000/ });
    assert.throws(() => dumps(nested(1_000_000)), { code: 'ERR_PICKLE_UNSUPPORTED' });
  });

  it('can write the same container again where it is not inside itself', () => {
    const shared: unknown[] = [];
    assert.deepEqual(loads(dumps([shared, { shared }])), [[], dict({ shared: [] })]);
  });
});

describe('what goes out', () => {
  const many = Array.from({ length: 2500 }, (_, index) => index);
  const samples: [what: string, value: unknown][] = [
    ['bytes of every length byte', [0, 1, 255, 256, 65_535, 65_536, 70_000].map((n) => Buffer.alloc(n, 7))],
    ['text of every length', [0, 1, 255, 256, 65_535, 65_536, 70_000].map((n) => 'é'.repeat(n))],
    [
      'lone surrogates among other characters',
      ['\ud83d', 'a\udfffb', '\ufffd\udc00é😀\ud800', '\ud7ff\ue000', '\ude00\ud83d'],
    ],
    ['text that begins with a byte order mark', '\ufefftext'],
    ['ints around every boundary', [1, 7, 8, 15, 16, 31, 32, 52, 53, 63, 64, 2039, 4096].flatMap(around)],
    ['floats', [0.1, -1e-300, Number.MAX_VALUE, Number.MIN_VALUE, Infinity, -Infinity, NaN, -0]],
    ['a long list', many],
    ['a long tuple', new Tuple(many)],
    ['a long dict', dict(Object.fromEntries(many.map((index) => [`key ${index}`, index])))],
    ['a long dict without str keys', new Map(many.map((index) => [index, [index]]))],
    ['a long set', new Set(many)],
    ['a long frozenset', new FrozenSet(many)],
    ['batches that are just full', [new Set(many.slice(500)), many.slice(500)]],
    [
      'keys of every kind',
      new Map<unknown, unknown>([
        [null, 1],
        [true, 2],
        [1.5, 3],
        [10n ** 20n, 4],
        ['k', 5],
      ]),
    ],
    [
      'keys that are special to JavaScript',
      dict(JSON.parse('{"__proto__": 1, "constructor": 2, "": 3}') as Record<string, unknown>),
    ],
    ['nested tuples', new Tuple([new Tuple([]), new Tuple([new Tuple([1]), new FrozenSet()])])],
  ];
  for (const [what, value] of samples) {
    it(`comes in again: ${what}`, () => {
      assert.deepEqual(loads(dumps(value)), value);
    });
  }

  it('stays shared when it was, beyond 256 entries too', () => {
    const lists = Array.from({ length: 300 }, (_, index) => [index]);
    const back = loads(dumps([...lists, ...lists])) as unknown[];
    assert.deepEqual(back, [...lists, ...lists]);
    assert.equal(back[0], back[300]);
    assert.equal(back[299], back[599]);
  });
});

describe('loads', () => {
  it('gives a dict with str keys as an object without a prototype', () => {
    const value = loads(dumps(JSON.parse('{"__proto__": {"polluted": true}}'))) as object;
    assert.equal(Object.getPrototypeOf(value), null);
    assert.deepEqual(Object.keys(value), ['__proto__']);
    assert.equal('polluted' in value, false);
    assert.equal('polluted' in {}, false);
  });

  it('takes the later of two equal keys', () => {
    assert.deepEqual(loads(pickle('7d 28 8c0161 4b01 8c0161 4b02 75')), dict({ a: 2 }));
  });

  it('reads bytearray of protocol 5', () => {
    assert.deepEqual(loads(hex('8005 96 0200000000000000 6162 94 2e')), Buffer.from('ab'));
  });

  it('reads the long lengths', () => {
    assert.equal(loads(pickle('8d 0200000000000000 c3a9')), 'é');
    assert.deepEqual(loads(pickle('8e 0200000000000000 0102')), Buffer.from([1, 2]));
    assert.equal(loads(pickle('8b 02000000 00ff')), -256);
    assert.equal(loads(pickle('8a 00')), 0);
  });

  it('copies bytes, so that they do not change with the input', () => {
    const input = dumps(Buffer.from('abc'));
    const value = loads(input) as Buffer;
    input.fill(0);
    assert.equal(value.toString(), 'abc');
  });

  it('reads from the middle of a larger buffer', () => {
    const whole = Buffer.concat([Buffer.from('before'), dumps([1, 'a']), Buffer.from('after')]);
    assert.deepEqual(loads(new Uint8Array(whole).subarray(6, whole.length - 5)), [1, 'a']);
  });
});

describe('a Tuple', () => {
  it('is taken apart as an array is', () => {
    const [worker, pid] = new Tuple([7, 1234]);
    assert.deepEqual([worker, pid], [7, 1234]);
  });
});

function nested(depth: number): unknown {
  let value: unknown[] = [];
  for (let level = 1; level < depth; level++) value = [value];
  return value;
}

function around(bits: number): (number | bigint)[] {
  const power = 2n ** BigInt(bits);
  return [power - 1n, power, -power, -power - 1n].map((value) =>
    Number.isSafeInteger(Number(value)) ? Number(value) : value,
  );
}
