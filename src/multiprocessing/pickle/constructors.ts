// The callables that CPython writes plain data through in older protocols: bytearray before 5, sets before 4, bytes before 3.
// They are matched by name only: no name is looked up, and nothing is run.

/** Makes a value of the arguments. */
export type Constructor = 'bytes' | 'bytearray' | 'set' | 'frozenset' | 'encode';

/** @returns undefined for every other name, which plain data does not need */
export function constructorNamed(module: unknown, name: unknown): Constructor | undefined {
  return typeof module === 'string' && typeof name === 'string'
    ? constructors.get(`${module}.${name}`)
    : undefined;
}

const types = ['bytes', 'bytearray', 'set', 'frozenset'] as const;

const constructors: ReadonlyMap<string, Constructor> = new Map<string, Constructor>([
  ...types.map((type) => [`builtins.${type}`, type] as const),
  // The module's name in Python 2, which protocol 2 keeps.
  ...types.map((type) => [`__builtin__.${type}`, type] as const),
  ['_codecs.encode', 'encode'],
]);

/** The bytes of a Latin-1 str. @returns undefined for any other str, or another codec */
export function encodeLatin1(text: unknown, codec: unknown): Buffer | undefined {
  if (typeof text !== 'string' || (codec !== 'latin1' && codec !== 'latin-1')) return undefined;
  const bytes = Buffer.from(text, 'latin1');
  return bytes.toString('latin1') === text ? bytes : undefined;
}
