// How much a pickle may ask of the decoder, and the error when it asks for more.
import { PassfdError } from '../../fd/index.js';
import { MAX_DEPTH } from './values.js';

/** Limits above the engine's own, such as the length of a string, lead to the engine's errors instead of `ERR_PICKLE`. */
export interface PickleLimits {
  /** Length of the pickle. */
  readonly bytes: number;
  /** Containers in containers. */
  readonly depth: number;
  /** Values, a shared one as often as it occurs: what a program meets that walks the result. */
  readonly values: number;
  /** Numbers that are keys or members. V8 hashes them without a seed, so that a peer can make all of them collide. */
  readonly numericKeys: number;
  /** Length of one int. The time for arithmetic on it, and for its decimal digits, grows faster than its length. */
  readonly integerBytes: number;
}

/** @throws {TypeError} when one is not a number from 0 */
export function completeLimits(limits: Partial<PickleLimits>): PickleLimits {
  const complete = { ...defaultLimits, ...limits };
  for (const [name, limit] of Object.entries(complete)) {
    if (!(limit >= 0)) throw new TypeError(`The limit ${name} is a number from 0, not ${String(limit)}`);
  }
  return complete;
}

export function checkLimit(limits: PickleLimits, name: keyof PickleLimits, count: number): void {
  if (count <= limits[name]) return;
  throw new PassfdError('ERR_PICKLE', `A pickle is over the limit ${name}: ${limits[name]}`);
}

const defaultLimits: PickleLimits = {
  /** As long as the frame that a `Connection` receives. */
  bytes: 64 * 1024 * 1024,
  depth: MAX_DEPTH,
  /** At most some 200 MB stay of them, and 500 MB are taken at the worst moment: as empty dicts, a byte each. */
  values: 1_000_000,
  /** Half a second when all of them collide; 50 000 take 16 seconds. */
  numericKeys: 10_000,
  integerBytes: 1024,
};
