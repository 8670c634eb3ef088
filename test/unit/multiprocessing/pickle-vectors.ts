// Pickles that CPython wrote, and their values.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

import { Float, FrozenSet, Tuple } from '../../../src/multiprocessing/pickle/index.js';

export interface PickleVector {
  /** The value as Python source. */
  readonly python: string;
  readonly pickle: Buffer;
}

/** As CPython 3.8 to 3.13 write them. */
export const protocol4 = read('pickle_protocol4_frames_cpython_3_8_to_3_13');
/** As CPython 3.6 and 3.7 write them. */
export const protocol3 = read('pickle_protocol3_frames_cpython_3_6_to_3_7');

/** `dumps` writes another type than the one that was read: bytes. */
export const BYTEARRAY = "bytearray(b'ab')";

/** The value of each in JavaScript. All but those of `written` are written as they were read. */
export const values = new Map<string, unknown>([
  ['None', null],
  ['True', true],
  ['False', false],
  ['0', 0],
  ['1', 1],
  ['77', 77],
  ['255', 255],
  ['256', 256],
  ['1234', 1234],
  ['65535', 65535],
  ['65536', 65536],
  ['4194304', 4194304],
  ['2147483647', 2147483647],
  ['2147483648', 2147483648],
  ['-1', -1],
  ['-128', -128],
  ['-2147483648', -2147483648],
  ['-2147483649', -2147483649],
  ['4294967296', 4294967296],
  ['9223372036854775808', 9223372036854775808n],
  ['9007199254740992', 9007199254740992n],
  ['-9223372036854775808', -9223372036854775808n],
  ['1000000000000000000000000000000', 10n ** 30n],
  ['0.0', 0],
  ['1.5', 1.5],
  ['-2.25', -2.25],
  ['inf', Infinity],
  ["''", ''],
  ["'a'", 'a'],
  ["'hello'", 'hello'],
  ["'hé'", 'hé'],
  ["'😀'", '😀'],
  ["'\\ud800'", '\ud800'],
  ["b''", Buffer.alloc(0)],
  ["b'x'", Buffer.from('x')],
  ["b'abc'", Buffer.from('abc')],
  ["b'\\x00\\xff'", Buffer.from([0x00, 0xff])],
  [BYTEARRAY, Buffer.from('ab')],
  ['()', new Tuple([])],
  ['(1,)', new Tuple([1])],
  ['(1, 2)', new Tuple([1, 2])],
  ['(1, 2, 3)', new Tuple([1, 2, 3])],
  ['(1, 2, 3, 4)', new Tuple([1, 2, 3, 4])],
  ['[]', []],
  ['[1]', [1]],
  ['[1, 2]', [1, 2]],
  ['[None, True]', [null, true]],
  ['{}', dict({})],
  ["{'a': 1}", dict({ a: 1 })],
  ["{'a': 1, 'b': 2}", dict({ a: 1, b: 2 })],
  ["{1: 'x'}", new Map([[1, 'x']])],
  ['set()', new Set()],
  ['{1}', new Set([1])],
  ['frozenset({1})', new FrozenSet([1])],
  ["['s', 's']", ['s', 's']],
  ['[[]]', [[]]],
  ['(7, 1234)', new Tuple([7, 1234])],
  ["{'pid': 1234, 'ok': True, 'v': [1.5, None]}", dict({ pid: 1234, ok: true, v: [1.5, null] })],
]);

/** Values that need a wrapper to be written as they were read. */
export const written = new Map<string, unknown>([['0.0', new Float(0)]]);

/** An object as `loads` makes it. */
export function dict(entries: Record<string, unknown>): unknown {
  return Object.assign(Object.create(null) as object, entries);
}

/** A pickle of protocol 4 from the opcodes between its first and its last. */
export function pickle(...opcodes: (string | Uint8Array)[]): Buffer {
  const parts = opcodes.map((part) => (typeof part === 'string' ? hex(part) : part));
  return Buffer.concat([hex('8004'), ...parts, hex('2e')]);
}

export function hex(digits: string): Buffer {
  return Buffer.from(digits.replaceAll(' ', ''), 'hex');
}

function read(name: string): PickleVector[] {
  const file = new URL('../../../../test/interop/python-vectors.json', import.meta.url);
  const lists = JSON.parse(readFileSync(file, 'utf8')) as Record<string, { python: string; frame: string }[]>;
  const list = lists[name];
  assert.ok(list);
  return list.map(({ python, frame }) => ({ python, pickle: hex(frame).subarray(4) }));
}
