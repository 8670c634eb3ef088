// The JavaScript values that stand for Python's plain data, and classes for the types that JavaScript lacks.

/** What a dict may have as a key and a set as a member here. Others would be found by identity, unlike in Python. */
export type PickleKey = null | boolean | number | bigint | string;

/** A dict whose keys are all str; it has no prototype, so that `__proto__` is a key like any other. */
export interface PickleDict {
  [key: string]: PickleValue;
}

/** What `loads` returns. */
export type PickleValue =
  | PickleKey
  | Buffer
  | PickleValue[]
  | Tuple
  | PickleDict
  | Map<PickleKey, PickleValue>
  | Set<PickleKey>
  | FrozenSet;

/** A Python tuple: `new Tuple([7, 1234])`. It is no array, whose constructor would take `3` for a length. */
export class Tuple<T = PickleValue> implements Iterable<T> {
  readonly items: readonly T[];

  constructor(items: readonly T[]) {
    this.items = items;
  }

  [Symbol.iterator](): Iterator<T> {
    return this.items[Symbol.iterator]();
  }
}

/** A Python frozenset. It is a class of its own so that it goes back as one; nothing freezes it here. */
export class FrozenSet<T = PickleKey> extends Set<T> {}

/** A Python float, for a number that would go out as an int: `new Float(1)`. */
export class Float {
  readonly value: number;

  constructor(value: number) {
    this.value = value;
  }
}

/** Nesting that is written, and read unless a limit says otherwise: Python's recursion limit, so no Python writes more. */
export const MAX_DEPTH = 1000;

export function isKey(value: unknown): value is PickleKey {
  return value === null || ['boolean', 'number', 'bigint', 'string'].includes(typeof value);
}
