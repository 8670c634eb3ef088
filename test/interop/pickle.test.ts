// Pickles between this library and every CPython here: each reads the other's, and both write the same bytes.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { before, describe, it } from 'node:test';

import { dumps, Float, FrozenSet, loads, Tuple } from '../../src/multiprocessing/pickle/index.js';
import { op, refusedOpcodes } from '../../src/multiprocessing/pickle/opcodes.js';
import { STUCK_AFTER_MS } from '../support/deadline.js';
import { pythons } from '../support/pythons.js';

interface Sample {
  readonly python: string;
  readonly value: unknown;
  /** As it comes in, where it comes in as something else than what goes out. */
  readonly back?: unknown;
}

interface Answer {
  /** What Python found wrong with our pickle. */
  readonly problem: string | null;
  readonly pickle: string;
}

const range = (length: number): number[] => Array.from({ length }, (_, index) => index);
const everyByte = Buffer.from(range(256));
const texts = range(300).map((n) => `text ${n}`);

const samples: Sample[] = [
  ...[0, 255, 256, 65_535, 65_536, 70_000].flatMap((length) => [
    { python: `'x' * ${length}`, value: 'x'.repeat(length) },
    { python: `bytes(${length})`, value: Buffer.alloc(length) },
  ]),
  { python: `['é' * 32767, 'é' * 32768]`, value: ['é'.repeat(32_767), 'é'.repeat(32_768)] },
  // Frames: around the length at which one ends, and around payloads that are in none.
  ...[-3, -2, -1, 0, 1, 2].map((more) => ({
    python: `[bytes(${65_520 + more}), 1, 2, 'a', 3, [], (), 4]`,
    value: [Buffer.alloc(65_520 + more), 1, 2, 'a', 3, [], new Tuple([]), 4],
  })),
  {
    python: `[1, 'x' * 70000, 'a', b'y' * 65536, None, ['x' * 70001], 1.5]`,
    value: [1, 'x'.repeat(70_000), 'a', Buffer.alloc(65_536, 'y'), null, ['x'.repeat(70_001)], 1.5],
  },
  {
    python: `{'big': b'z' * 200000, 'small': (1, 'x' * 100000, 2)}`,
    value: dict({ big: Buffer.alloc(200_000, 'z'), small: new Tuple([1, 'x'.repeat(100_000), 2]) }),
  },
  {
    python: `[n * 1.5 for n in range(20000)]`,
    value: range(20_000).map((n) => new Float(n * 1.5)),
    back: range(20_000).map((n) => n * 1.5),
  },
  { python: `[(n, [n]) for n in range(10000)]`, value: range(10_000).map((n) => new Tuple([n, [n]])) },
  // Batches: full ones, the last of them full or not.
  ...[0, 1, 2, 999, 1000, 1001, 2000, 2500].flatMap((length) => [
    { python: `list(range(${length}))`, value: range(length) },
    { python: `tuple(range(${length}))`, value: new Tuple(range(length)) },
    {
      python: `{f'k{n}': n for n in range(${length})}`,
      value: dict(Object.fromEntries(range(length).map((n) => [`k${n}`, n]))),
    },
    { python: `set(range(${length}))`, value: new Set(range(length)) },
    { python: `frozenset(range(${length}))`, value: new FrozenSet(range(length)) },
  ]),
  {
    python: `{n: str(n) + '!' for n in range(2500)}`,
    value: new Map(range(2500).map((n) => [n, `${n}!`])),
  },
  {
    python: `[set(), {1}, {'a'}, {None}, {2.5}]`,
    value: [new Set(), new Set([1]), new Set(['a']), new Set([null]), new Set([2.5])],
  },
  // References: within and beyond 256 memo entries.
  { python: `(lambda l: l + l)([f'text {n}' for n in range(300)])`, value: [...texts, ...texts] },
  { python: `(lambda l: [l, (l, l), {'l': l}])([1])`, value: sharing([1]) },
  {
    python: `(lambda l: [l, (l, l), {'l': l}])((1, 'a', 2.5, None))`,
    value: sharing(new Tuple([1, 'a', 2.5, null])),
  },
  { python: `(lambda l: [l, (l, l), {'l': l}])(frozenset(['a']))`, value: sharing(new FrozenSet(['a'])) },
  { python: `((), (1,), (1, 2), ((1, 2, 3), ((1, 2, 3, 4),)))`, value: nestedTuples() },
  { python: `eval('[' * 90 + ']' * 90)`, value: nested(90) },
  // Ints: every length that the sign can change.
  ...[7, 8, 15, 16, 31, 32, 39, 40, 52, 53, 63, 64, 127, 2039, 2040, 4096].map((bits) => ({
    python: `[f(2 ** ${bits}) for f in (lambda n: n - 1, lambda n: n, lambda n: -n, lambda n: -n - 1, lambda n: -n + 1)]`,
    value: around(2n ** BigInt(bits)),
    back: around(2n ** BigInt(bits)).map((n) => (Number.isSafeInteger(Number(n)) ? Number(n) : n)),
  })),
  {
    python: `[0.1, -0.0, 1e300, float('inf'), float('nan'), 5e-324]`,
    value: [0.1, -0, 1e300, Infinity, NaN, 5e-324],
  },
  {
    python: `['\\ud800', 'a\\udfffb', '\\ufffd\\udc00\\U0001f600', '\\ufeff', '\\0']`,
    value: ['\ud800', 'a\udfffb', '\ufffd\udc00😀', '\ufeff', '\0'],
  },
  {
    python: `{'__proto__': {'constructor': 1}, '': True, 'True': False}`,
    value: dict({ ['__proto__']: dict({ constructor: 1 }), '': true, True: false }),
  },
];

/** Every type that the documentation names, as values that older protocols write in another way than protocol 4. */
const plain: Sample[] = [
  {
    python: `[None, True, False, 0, 255, -1, 2 ** 70, 1.5, 'é']`,
    value: [null, true, false, 0, 255, -1, 2n ** 70n, 1.5, 'é'],
  },
  {
    python: `[b'', b'a', bytes(range(256)), b'a' * 300]`,
    value: [Buffer.alloc(0), Buffer.from('a'), everyByte, Buffer.alloc(300, 'a')],
  },
  { python: `bytearray()`, value: Buffer.alloc(0) },
  { python: `bytearray(range(256))`, value: everyByte },
  { python: `bytearray(b'x' * 70000)`, value: Buffer.alloc(70_000, 'x') },
  {
    python: `(lambda a, b: [a, b, a, bytes(a), {'a': a}])(bytearray(b'ab'), bytearray(b'cd'))`,
    value: ['ab', 'cd', 'ab', 'ab']
      .map((text): unknown => Buffer.from(text))
      .concat(dict({ a: Buffer.from('ab') })),
  },
  {
    python: `[set(), {1}, set(range(2500)), {'a'}]`,
    value: [new Set(), new Set([1]), new Set(range(2500)), new Set(['a'])],
  },
  {
    python: `[frozenset(), frozenset([1]), frozenset(range(2500))]`,
    value: [new FrozenSet(), new FrozenSet([1]), new FrozenSet(range(2500))],
  },
  { python: `(lambda s: (s, [s, s], {'s': s}))({None, 2.5})`, value: shared(new Set([null, 2.5])) },
  {
    python: `[[], (), {}, {1: (2,)}, {'k': [3]}]`,
    value: [[], new Tuple([]), dict({}), new Map([[1, new Tuple([2])]]), dict({ k: [3] })],
  },
];

const found = pythons();

describe('a pickle', { skip: found.length === 0 && 'needs CPython 3.8 or later' }, () => {
  const ours = samples.map(({ value }) => dumps(value));

  for (const { path, version } of found) {
    describe(`with CPython ${version}`, () => {
      let answers: Answer[];

      before(() => {
        answers = ask(
          path,
          ANSWER,
          samples.map(({ python }, index) => [python, ours[index]?.toString('hex')]),
        ) as Answer[];
        assert.equal(answers.length, samples.length);
      });

      it('of ours is read as the same value', () => {
        for (const [index, { python }] of samples.entries()) {
          assert.equal(answers[index]?.problem, null, python);
        }
      });

      it('of theirs is read as the same value', () => {
        for (const [index, { value, back, python }] of samples.entries()) {
          const theirs = Buffer.from(answers[index]?.pickle ?? '', 'hex');
          assert.deepEqual(loads(theirs), back ?? value, python);
        }
      });

      it('has the same bytes on both sides', () => {
        for (const [index, { python }] of samples.entries()) {
          assert.ok(ours[index]?.toString('hex') === answers[index]?.pickle, python);
        }
      });

      for (const protocol of [2, 3, 4, 5]) {
        it(`of theirs in protocol ${protocol} is read as the same value, whatever plain type it has`, () => {
          const theirs = ask(path, IN_PROTOCOL, [protocol, plain.map(({ python }) => python)]) as string[];
          assert.equal(theirs.length, 2 * plain.length);
          for (const [index, { python, value }] of plain.entries()) {
            for (const written of theirs.slice(2 * index, 2 * index + 2)) {
              assert.deepEqual(loads(Buffer.from(written, 'hex')), value, python);
            }
          }
        });
      }

      it('has no opcode that is neither taken nor refused by its name', () => {
        const known = [
          ...Object.entries(op),
          ...[...refusedOpcodes].map(([code, name]) => [name, code] as const),
        ];
        assert.deepEqual(ask(path, OPCODES, []), Object.fromEntries(known));
      });
    });
  }
});

const ANSWER = `
import json, pickle, sys
from multiprocessing.reduction import ForkingPickler

def same(a, b):
    if type(a) is not type(b): return False
    if type(a) in (list, tuple): return len(a) == len(b) and all(map(same, a, b))
    if type(a) is dict: return same(list(a.items()), list(b.items()))
    if type(a) in (set, frozenset): return a == b and set(map(type, a)) == set(map(type, b))
    return repr(a) == repr(b)

def answer(source, ours):
    value = eval(source)
    read = pickle.loads(bytes.fromhex(ours))
    return {
        'problem': None if same(read, value) else repr(read)[:1000],
        'pickle': bytes(ForkingPickler.dumps(value, 4)).hex(),
    }

if hasattr(sys, 'set_int_max_str_digits'): sys.set_int_max_str_digits(0)
print(json.dumps([answer(*sample) for sample in json.load(sys.stdin)]))
`;

const IN_PROTOCOL = `
import json, pickle, sys
from multiprocessing.reduction import ForkingPickler

protocol, sources = json.load(sys.stdin)
written = []
for source in sources:
    value = eval(source)
    # The pickler in C and the one in Python may differ.
    for theirs in (bytes(ForkingPickler.dumps(value, protocol)), pickle._dumps(value, protocol)):
        assert pickle.loads(theirs) == value
    written.append(bytes(ForkingPickler.dumps(value, protocol)).hex())
    written.append(pickle._dumps(value, protocol).hex())
print(json.dumps(written))
`;

const OPCODES = `
import json, pickletools
print(json.dumps({opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}))
`;

function ask(path: string, program: string, input: unknown): unknown {
  const child = spawnSync(path, ['-c', program], {
    input: JSON.stringify(input),
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    timeout: STUCK_AFTER_MS,
  });
  assert.equal(child.status, 0, child.stderr);
  return JSON.parse(child.stdout);
}

function dict(entries: Record<string, unknown>): unknown {
  return Object.assign(Object.create(null) as object, entries);
}

function sharing(shared: unknown): unknown {
  return [shared, new Tuple([shared, shared]), dict({ l: shared })];
}

function shared(value: unknown): unknown {
  return new Tuple([value, [value, value], dict({ s: value })]);
}

function nestedTuples(): unknown {
  const threes = new Tuple([1, 2, 3]);
  return new Tuple([
    new Tuple([]),
    new Tuple([1]),
    new Tuple([1, 2]),
    new Tuple([threes, new Tuple([new Tuple([1, 2, 3, 4])])]),
  ]);
}

function nested(depth: number): unknown {
  return depth === 1 ? [] : [nested(depth - 1)];
}

function around(power: bigint): bigint[] {
  return [power - 1n, power, -power, -power - 1n, -power + 1n];
}
