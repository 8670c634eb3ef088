// The pickle decoder: a machine with a stack and a memo, as Python's, but without any instruction that runs code.
import { PassfdError } from '../../fd/index.js';
import { constructorNamed, encodeLatin1, type Constructor } from './constructors.js';
import { Input } from './input.js';
import { checkLimit, completeLimits, type PickleLimits } from './limits.js';
import { callingOpcodes, op, refusedOpcodes } from './opcodes.js';
import { scalarReaders } from './scalars.js';
import { FrozenSet, isKey, Tuple, type PickleDict, type PickleKey, type PickleValue } from './values.js';

const FIRST_PROTOCOL = 2;
const LAST_PROTOCOL = 5;

/**
 * Reads a pickle of protocol 2 to 5 that holds plain data:
 *
 * - None, bool, str: null, booleans, strings
 * - int: a number if it is a safe integer, otherwise a bigint; float: a number
 * - bytes, bytearray: `Buffer`
 * - list: array; tuple: `Tuple`; set: `Set`; frozenset: `FrozenSet`
 * - dict: an object without a prototype (`PickleDict`) when all keys are str, else `Map`; an object puts keys like '7' first
 *
 * Keys and members are None, bool, int, float and str. Bytes and tuples are refused there, since a `Map` would not find an
 * equal one again. Values that the pickle shares are shared in the result. A container that contains itself is refused.
 * @throws {PassfdError} `ERR_PICKLE` when it is malformed or over a limit, `ERR_PICKLE_REFUSED` when it names code
 */
export function loads(bytes: Uint8Array, limits: Partial<PickleLimits> = {}): PickleValue {
  return new Decoder(bytes, completeLimits(limits)).decode();
}

/** A value that was read: the same object in the memo and everywhere on the stack. */
interface Item {
  value: PickleValue;
  /** Number of values in it, itself included; a shared value counts each time it occurs. */
  size: number;
  /** 0 for a value that is no container. */
  depth: number;
  /** A list, dict or set that still takes items, because it is in no other container yet. An open dict is a `Map`. */
  isOpen: boolean;
  /** A callable. It is no value: it can only be called, also from the memo. */
  readonly constructs?: Constructor;
}

class Decoder {
  readonly #input: Input;
  readonly #limits: PickleLimits;
  readonly #stack: Item[] = [];
  /** The stack index where the items of each MARK begin. */
  readonly #marks: number[] = [];
  readonly #memo: Item[] = [];
  #pushed = 0;
  #numericKeys = 0;
  #encodedBytes = 0;

  constructor(bytes: Uint8Array, limits: PickleLimits) {
    checkLimit(limits, 'bytes', bytes.length);
    this.#input = new Input(bytes);
    this.#limits = limits;
  }

  decode(): PickleValue {
    this.#readProtocol();
    for (;;) {
      const opcode = this.#input.uint8();
      if (opcode === op.STOP) return this.#result();
      const readScalar = scalarReaders.get(opcode);
      if (readScalar) this.#pushValue(readScalar(this.#input, this.#limits), 0);
      else this.#step(opcode);
    }
  }

  #readProtocol(): void {
    if (this.#input.uint8() !== op.PROTO) throw this.#malformed('it does not begin with a protocol');
    const protocol = this.#input.uint8();
    if (protocol < FIRST_PROTOCOL || protocol > LAST_PROTOCOL) {
      throw this.#malformed(`its protocol is ${protocol}`);
    }
  }

  #step(opcode: number): void {
    const { position } = this.#input;
    switch (opcode) {
      case op.GLOBAL:
        this.#pushConstructor(constructorNamed(this.#input.line(), this.#input.line()), opcode, position);
        break;
      case op.STACK_GLOBAL:
        this.#pushConstructor(this.#popConstructor(), opcode, position);
        break;
      case op.REDUCE:
        this.#construct(position);
        break;
      case op.FRAME:
        this.#input.checkLeft(this.#input.uint64());
        break;
      case op.MARK:
        this.#marks.push(this.#stack.length);
        checkLimit(this.#limits, 'depth', this.#marks.length);
        break;
      case op.EMPTY_LIST:
        this.#pushValue([], 1);
        break;
      case op.EMPTY_DICT:
        this.#pushValue(new Map(), 1);
        break;
      case op.EMPTY_SET:
        this.#pushValue(new Set(), 1);
        break;
      case op.APPEND:
        this.#append(this.#pop(1));
        break;
      case op.APPENDS:
        this.#append(this.#popToMark());
        break;
      case op.SETITEM:
        this.#setItems(this.#pop(2));
        break;
      case op.SETITEMS:
        this.#setItems(this.#popToMark());
        break;
      case op.ADDITEMS:
        this.#addMembers(this.#popToMark());
        break;
      case op.FROZENSET:
        this.#pushFrozenSet(this.#popToMark());
        break;
      case op.EMPTY_TUPLE:
        this.#pushTuple([]);
        break;
      case op.TUPLE1:
        this.#pushTuple(this.#pop(1));
        break;
      case op.TUPLE2:
        this.#pushTuple(this.#pop(2));
        break;
      case op.TUPLE3:
        this.#pushTuple(this.#pop(3));
        break;
      case op.TUPLE:
        this.#pushTuple(this.#popToMark());
        break;
      case op.MEMOIZE:
        this.#put(this.#memo.length);
        break;
      case op.BINPUT:
        this.#put(this.#input.uint8());
        break;
      case op.LONG_BINPUT:
        this.#put(this.#input.uint32());
        break;
      case op.BINGET:
        this.#get(this.#input.uint8());
        break;
      case op.LONG_BINGET:
        this.#get(this.#input.uint32());
        break;
      default:
        throw this.#refuse(opcode, position);
    }
  }

  #pushConstructor(constructs: Constructor | undefined, opcode: number, position: number): void {
    if (!constructs) throw this.#refuse(opcode, position);
    this.#push({ value: null, size: 1, depth: 0, isOpen: false, constructs });
  }

  #popConstructor(): Constructor | undefined {
    const [module, name] = this.#pop(2);
    return constructorNamed(module?.value, name?.value);
  }

  /** Makes the value that CPython would get by a call. */
  #construct(position: number): void {
    const [callee, args] = this.#pop(2);
    if (!callee?.constructs || !(args?.value instanceof Tuple)) throw this.#refuse(op.REDUCE, position);
    const { constructs } = callee;
    const { items } = args.value;
    const value =
      constructs === 'set' || constructs === 'frozenset'
        ? this.#constructSet(constructs, items)
        : this.#constructBytes(constructs, items);
    if (value === undefined) {
      throw this.#malformed(`${constructs} is called with other arguments than data has`);
    }
    const isSet = value instanceof Set;
    this.#push({ value, size: isSet ? 1 + value.size : 1, depth: isSet ? 1 : 0, isOpen: false });
  }

  #constructSet(
    kind: 'set' | 'frozenset',
    [members, ...others]: readonly PickleValue[],
  ): PickleValue | undefined {
    if (!Array.isArray(members) || others.length > 0) return undefined;
    // A shared list is copied each time.
    this.#pushed += members.length;
    checkLimit(this.#limits, 'values', this.#pushed);
    const keys = members.map((member) => this.#key(member));
    return kind === 'set' ? new Set(keys) : new FrozenSet(keys);
  }

  #constructBytes(
    kind: 'bytes' | 'bytearray' | 'encode',
    args: readonly PickleValue[],
  ): PickleValue | undefined {
    const [first, codec] = args;
    if (kind !== 'encode' && args.length === 0) return Buffer.alloc(0);
    if (kind === 'bytearray' && args.length === 1) return Buffer.isBuffer(first) ? first : undefined;
    if (kind === 'bytes' || args.length !== 2) return undefined;
    const bytes = encodeLatin1(first, codec);
    // A shared text is copied each time.
    this.#encodedBytes += bytes?.length ?? 0;
    checkLimit(this.#limits, 'bytes', this.#encodedBytes);
    return bytes;
  }

  #pushValue(value: PickleValue, depth: 0 | 1): void {
    this.#push({ value, size: 1, depth, isOpen: depth > 0 });
  }

  #push(item: Item): void {
    checkLimit(this.#limits, 'values', ++this.#pushed);
    checkLimit(this.#limits, 'depth', item.depth);
    this.#stack.push(item);
  }

  /** The item on top of the stack. @throws {PassfdError} when there is none above the last mark */
  #top(): Item {
    const item = this.#stack.at(-1);
    if (!item || this.#stack.length <= (this.#marks.at(-1) ?? 0)) throw this.#malformed('a value is missing');
    return item;
  }

  #pop(count: number): Item[] {
    const begin = this.#stack.length - count;
    if (begin < (this.#marks.at(-1) ?? 0)) throw this.#malformed('a value is missing');
    return this.#stack.splice(begin);
  }

  #popToMark(): Item[] {
    const begin = this.#marks.pop();
    if (begin === undefined) throw this.#malformed('a mark is missing');
    return this.#stack.splice(begin);
  }

  #append(items: readonly Item[]): void {
    const list = this.#fill(items);
    if (!Array.isArray(list)) throw this.#malformed('items are appended to what is not a list');
    for (const { value } of items) list.push(value);
  }

  #setItems(items: readonly Item[]): void {
    if (items.length % 2 !== 0) throw this.#malformed('a key has no value');
    const dict = this.#fill(items);
    if (!(dict instanceof Map)) throw this.#malformed('keys are set in what is not a dict');
    let key: PickleKey = null;
    for (const [index, item] of items.entries()) {
      if (index % 2 === 0) key = this.#key(item.value);
      else dict.set(key, item.value);
    }
  }

  #addMembers(items: readonly Item[]): void {
    const set = this.#fill(items);
    if (!(set instanceof Set)) throw this.#malformed('members are added to what is not a set');
    for (const item of items) set.add(this.#key(item.value));
  }

  #pushFrozenSet(items: readonly Item[]): void {
    this.#close(items);
    this.#pushFilled(new FrozenSet(items.map(({ value }) => this.#key(value))), items);
  }

  #pushTuple(items: readonly Item[]): void {
    this.#close(items);
    this.#pushFilled(new Tuple(items.map(({ value }) => value)), items);
  }

  #pushFilled(value: Tuple | FrozenSet, items: readonly Item[]): void {
    const item = { value, size: 1, depth: 1, isOpen: false };
    this.#measure(item, items);
    this.#push(item);
  }

  /** @returns the container on top of the stack, which takes over the items */
  #fill(items: readonly Item[]): PickleValue {
    const container = this.#top();
    // Closed before the container is looked up, so that a container cannot contain itself.
    this.#close(items);
    if (!container.isOpen) {
      throw this.#malformed('items go into no container, or one that is in another already or in itself');
    }
    this.#measure(container, items);
    return container.value;
  }

  /** Closes values that are in a container from now on, or are the result. */
  #close(items: readonly Item[]): void {
    for (const item of items) {
      if (item.constructs) throw this.#refused(`has the callable ${item.constructs} as a value`);
      close(item);
    }
  }

  #measure(container: Item, items: readonly Item[]): void {
    for (const item of items) {
      container.size += item.size;
      container.depth = Math.max(container.depth, item.depth + 1);
    }
    checkLimit(this.#limits, 'values', container.size);
    checkLimit(this.#limits, 'depth', container.depth);
  }

  #key(value: PickleValue): PickleKey {
    if (!isKey(value)) throw this.#malformed('a key or member is not None, a bool, an int, a float or a str');
    if (typeof value === 'number' || typeof value === 'bigint') {
      checkLimit(this.#limits, 'numericKeys', ++this.#numericKeys);
    }
    return value;
  }

  #put(index: number): void {
    const item = this.#top();
    // Python numbers them from 0 without gaps. With this check, no pickle can ask for a memo of 2^32 entries.
    if (index > this.#memo.length) {
      throw this.#malformed(`memo entry ${index} comes after ${this.#memo.length}`);
    }
    this.#memo[index] = item;
    checkLimit(this.#limits, 'values', this.#memo.length);
  }

  #get(index: number): void {
    const item = this.#memo[index];
    if (!item) throw this.#malformed(`there is no memo entry ${index}`);
    this.#push(item);
  }

  #result(): PickleValue {
    const [item, ...others] = this.#stack;
    if (!item || others.length > 0 || this.#marks.length > 0) {
      throw this.#malformed(`it ends with ${this.#stack.length} values and ${this.#marks.length} marks`);
    }
    if (this.#input.left > 0) throw this.#malformed(`${this.#input.left} bytes follow its end`);
    this.#close([item]);
    return item.value;
  }

  /** @param position position after the opcode */
  #refuse(opcode: number, position: number): PassfdError {
    const name = refusedOpcodes.get(opcode) ?? callingOpcodes.get(opcode);
    if (name === undefined) return this.#malformed(`no opcode is ${opcode}`);
    return this.#refused(`uses ${name} at byte ${position - 1}`);
  }

  #refused(what: string): PassfdError {
    return new PassfdError(
      'ERR_PICKLE_REFUSED',
      `A pickle ${what}, which plain data does without: objects of classes, enums too, are not read`,
    );
  }

  #malformed(problem: string): PassfdError {
    return this.#input.malformed(problem);
  }
}

function close(item: Item): void {
  if (!item.isOpen) return;
  item.isOpen = false;
  if (item.value instanceof Map) item.value = asDict(item.value);
}

function asDict(map: Map<PickleKey, PickleValue>): PickleDict | Map<PickleKey, PickleValue> {
  const dict = Object.create(null) as PickleDict;
  for (const [key, value] of map) {
    if (typeof key !== 'string') return map;
    dict[key] = value;
  }
  return dict;
}
