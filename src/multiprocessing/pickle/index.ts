// Pickles that hold data and nothing else: `dumps` and `loads`, under Python's names.
export { loads } from './decode.js';
export { dumps } from './encode.js';
export { type PickleLimits } from './limits.js';
export { Float, FrozenSet, Tuple, type PickleDict, type PickleKey, type PickleValue } from './values.js';
