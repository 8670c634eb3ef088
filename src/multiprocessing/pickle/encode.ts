// The pickle encoder: writes plain values as CPython 3.8 to 3.13 write their counterparts.
import { inspect } from 'node:util';

import { PassfdError } from '../../fd/index.js';
import { FramedOutput } from './frames.js';
import { op } from './opcodes.js';
import { encodeText } from './text.js';
import { Float, FrozenSet, isKey, MAX_DEPTH, Tuple } from './values.js';

const PROTOCOL = 4;
/** CPython's BATCHSIZE. */
const BATCH_ITEMS = 1000;

/**
 * Pickles a value with protocol 4:
 *
 * - null, booleans, strings: None, bool, str
 * - safe integers except -0, and bigints: int; all other numbers and `Float`: float
 * - `Buffer` and every `Uint8Array`: bytes
 * - arrays: list; `Tuple`: tuple; `Set`: set; `FrozenSet`: frozenset
 * - plain objects (their own enumerable properties, without symbols), `Map`: dict
 *
 * Keys and members are null, booleans, numbers, bigints and strings. In Python, `1`, `1n` and `true` are the same key. An
 * object that occurs twice is written once, and so are equal strings. CPython writes a string once only when it is the same
 * object, and also equal bytes of length 0 and 1: then its pickle has other bytes with the same meaning.
 * @throws {PassfdError} `ERR_PICKLE_UNSUPPORTED`; the message names the value and its place
 */
export function dumps(value: unknown): Buffer {
  return new Encoder().encode(value);
}

class Encoder {
  readonly #output = new FramedOutput(Uint8Array.of(op.PROTO, PROTOCOL));
  /** Values that were written and can be referred to: strings by value, everything else by identity. */
  readonly #memo = new Map<unknown, number>();
  /** The containers around the current value. */
  readonly #open = new Set<unknown>();
  readonly #path = ['value'];

  encode(value: unknown): Buffer {
    this.#save(value);
    this.#output.write(op.STOP);
    return this.#output.end();
  }

  #save(value: unknown): void {
    this.#output.beginValue();
    if (value === null) this.#output.write(op.NONE);
    else if (typeof value === 'boolean') this.#output.write(value ? op.NEWTRUE : op.NEWFALSE);
    else if (typeof value === 'number') this.#saveNumber(value);
    else if (typeof value === 'bigint') this.#saveInteger(value);
    else if (value instanceof Float) this.#saveFloat(value.value);
    else if (!this.#saveReference(value)) this.#saveShareable(value);
  }

  #saveNumber(value: number): void {
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) this.#saveInteger(BigInt(value));
    else this.#saveFloat(value);
  }

  #saveInteger(value: bigint): void {
    if (value === BigInt.asUintN(8, value)) this.#output.write(op.BININT1, uint8(Number(value)));
    else if (value === BigInt.asUintN(16, value)) this.#output.write(op.BININT2, uint16(Number(value)));
    else if (value === BigInt.asIntN(32, value)) this.#output.write(op.BININT, int32(Number(value)));
    else this.#saveLong(twosComplement(value));
  }

  #saveLong(bytes: Buffer): void {
    const isShort = bytes.length <= 0xff;
    const length = isShort ? uint8(bytes.length) : int32(bytes.length);
    this.#output.write(isShort ? op.LONG1 : op.LONG4, Buffer.concat([length, bytes]));
  }

  #saveFloat(value: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeDoubleBE(value);
    this.#output.write(op.BINFLOAT, bytes);
  }

  /** @returns whether the value was written before; then a reference is enough */
  #saveReference(value: unknown): boolean {
    // Python can read a container that contains itself, but a program that walks it would not end. `loads` refuses it too.
    if (this.#open.has(value)) throw this.#unsupported('is a container that it is itself in');
    const index = this.#memo.get(value);
    if (index === undefined) return false;
    if (index <= 0xff) this.#output.write(op.BINGET, uint8(index));
    else this.#output.write(op.LONG_BINGET, uint32(index));
    return true;
  }

  #saveShareable(value: unknown): void {
    if (typeof value === 'string') this.#saveText(value);
    else if (value instanceof Uint8Array) this.#saveBytes(value);
    else this.#saveContainer(value);
  }

  #saveText(text: string): void {
    const bytes = encodeText(text);
    if (bytes.length <= 0xff) this.#output.writePayload(op.SHORT_BINUNICODE, uint8(bytes.length), bytes);
    else this.#output.writePayload(op.BINUNICODE, uint32(bytes.length), bytes);
    this.#memoize(text);
  }

  #saveBytes(bytes: Uint8Array): void {
    const { length } = bytes;
    if (length <= 0xff) this.#output.writePayload(op.SHORT_BINBYTES, uint8(length), bytes);
    else if (length <= 0xffff_ffff) this.#output.writePayload(op.BINBYTES, uint32(length), bytes);
    else throw this.#unsupported('has more than 4 GiB');
    this.#memoize(bytes);
  }

  #saveContainer(value: unknown): void {
    if (this.#open.size >= MAX_DEPTH) {
      throw new PassfdError('ERR_PICKLE_UNSUPPORTED', `The value is nested deeper than ${MAX_DEPTH}`);
    }
    this.#open.add(value);
    if (Array.isArray(value)) this.#saveList(value);
    else if (value instanceof Tuple) this.#saveTuple(value);
    else if (value instanceof Map) this.#saveDict(value, [...value]);
    else if (value instanceof FrozenSet) this.#saveFrozenSet(value);
    else if (value instanceof Set) this.#saveSet(value);
    else if (isPlainObject(value)) this.#saveDict(value, Object.entries(value));
    else throw this.#unsupported(`(${describe(value)}) has no counterpart among the plain types of Python`);
    this.#open.delete(value);
  }

  #saveList(list: readonly unknown[]): void {
    this.#output.write(op.EMPTY_LIST);
    this.#memoize(list);
    if (list.length === 1) {
      this.#saveItems(list);
      this.#output.write(op.APPEND);
      return;
    }
    for (let start = 0; start < list.length; start += BATCH_ITEMS) {
      this.#output.write(op.MARK);
      this.#saveItems(list.slice(start, start + BATCH_ITEMS), start);
      this.#output.write(op.APPENDS);
    }
  }

  #saveTuple(tuple: Tuple<unknown>): void {
    const { items } = tuple;
    const opcode = [op.EMPTY_TUPLE, op.TUPLE1, op.TUPLE2, op.TUPLE3][items.length] ?? op.TUPLE;
    if (opcode === op.TUPLE) this.#output.write(op.MARK);
    this.#saveItems(items);
    this.#output.write(opcode);
    if (items.length > 0) this.#memoize(tuple);
  }

  #saveItems(items: readonly unknown[], start = 0): void {
    for (const [index, item] of items.entries()) this.#saveAt(`[${start + index}]`, item);
  }

  #saveDict(dict: unknown, entries: readonly (readonly [unknown, unknown])[]): void {
    this.#output.write(op.EMPTY_DICT);
    this.#memoize(dict);
    if (entries.length === 1) {
      this.#saveEntries(entries);
      this.#output.write(op.SETITEM);
      return;
    }
    for (const batch of unendedBatches(entries)) {
      this.#output.write(op.MARK);
      this.#saveEntries(batch);
      this.#output.write(op.SETITEMS);
    }
  }

  #saveEntries(entries: readonly (readonly [unknown, unknown])[]): void {
    for (const [key, value] of entries) {
      this.#saveKey(key);
      this.#saveAt(typeof key === 'string' && isName.test(key) ? `.${key}` : `[${describe(key)}]`, value);
    }
  }

  #saveSet(set: ReadonlySet<unknown>): void {
    this.#output.write(op.EMPTY_SET);
    this.#memoize(set);
    for (const batch of unendedBatches([...set])) {
      this.#output.write(op.MARK);
      for (const member of batch) this.#saveKey(member);
      this.#output.write(op.ADDITEMS);
    }
  }

  #saveFrozenSet(set: ReadonlySet<unknown>): void {
    this.#output.write(op.MARK);
    for (const member of set) this.#saveKey(member);
    this.#output.write(op.FROZENSET);
    this.#memoize(set);
  }

  #saveKey(key: unknown): void {
    if (!isKey(key)) {
      throw this.#unsupported(
        `has ${describe(key)} for a key or member; only null, booleans, numbers, bigints and strings can be one`,
      );
    }
    this.#save(key);
  }

  #saveAt(step: string, value: unknown): void {
    this.#path.push(step);
    this.#save(value);
    this.#path.pop();
  }

  #memoize(value: unknown): void {
    this.#memo.set(value, this.#memo.size);
    this.#output.write(op.MEMOIZE);
  }

  #unsupported(problem: string): PassfdError {
    return new PassfdError('ERR_PICKLE_UNSUPPORTED', `${this.#path.join('')} ${problem}`);
  }
}

const isName = /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u;

/** CPython ends a dict or set at a batch that is not full, so an empty batch follows a full last one. */
function* unendedBatches<T>(items: readonly T[]): Generator<readonly T[]> {
  if (items.length === 0) return;
  for (let start = 0; start <= items.length; start += BATCH_ITEMS) {
    yield items.slice(start, start + BATCH_ITEMS);
  }
}

function isPlainObject(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function describe(value: unknown): string {
  return inspect(value, { depth: -1, customInspect: false, maxStringLength: 100 });
}

/** Little-endian, with as few bytes as possible. */
function twosComplement(value: bigint): Buffer {
  const magnitude = value < 0n ? ~value : value;
  const length = Math.floor(magnitude.toString(2).length / 8) + 1;
  const digits = BigInt.asUintN(length * 8, value).toString(16);
  return Buffer.from(digits.padStart(length * 2, '0'), 'hex').reverse();
}

function uint8(value: number): Uint8Array {
  return Uint8Array.of(value);
}

function uint16(value: number): Uint8Array {
  return Uint8Array.of(value, value >>> 8);
}

function uint32(value: number): Uint8Array {
  return Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
}

/** As two's complement, which has the same bytes. */
const int32 = uint32;
