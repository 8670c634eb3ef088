// Pickles of plain data: `dumps` and `loads`, as in Python.
export { loads } from './decode.js';
export { dumps } from './encode.js';
export { type PickleLimits } from './limits.js';
export { Float, FrozenSet, Tuple, type PickleDict, type PickleKey, type PickleValue } from './values.js';
