// The JavaScript counterparts of Python's plain data, with classes for the types that JavaScript lacks.

/** The keys of a dict and the members of a set. Values of other types would be found by identity, unlike in Python. */
export type PickleKey = null | boolean | number | bigint | string;

/** A dict whose keys are all str. It has no prototype, so `__proto__` is a key like any other. */
export interface PickleDict {
  [key: string]: PickleValue;
}

/** The values that `loads` returns. */
export type PickleValue =
  | PickleKey
  | Buffer
  | PickleValue[]
  | Tuple
  | PickleDict
  | Map<PickleKey, PickleValue>
  | Set<PickleKey>
  | FrozenSet;

/** A Python tuple: `new Tuple([7, 1234])`. It is no array, because the constructor of an array takes `3` for a length. */
export class Tuple<T = PickleValue> implements Iterable<T> {
  readonly items: readonly T[];

  constructor(items: readonly T[]) {
    this.items = items;
  }

  [Symbol.iterator](): Iterator<T> {
    return this.items[Symbol.iterator]();
  }
}

/** A Python frozenset. It has a class of its own so that it is sent back as a frozenset; it is not frozen in JavaScript. */
export class FrozenSet<T = PickleKey> extends Set<T> {}

/** A Python float, for a number that would be sent as an int: `new Float(1)`. */
export class Float {
  readonly value: number;

  constructor(value: number) {
    this.value = value;
  }
}

/** Deepest nesting that is written, and by default read: Python's recursion limit, so Python writes no deeper one. */
export const MAX_DEPTH = 1000;

export function isKey(value: unknown): value is PickleKey {
  return value === null || ['boolean', 'number', 'bigint', 'string'].includes(typeof value);
}
