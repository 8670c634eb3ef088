// The limits of the decoder, and the error when a pickle exceeds one.
import { PassfdError } from '../../fd/index.js';
import { MAX_DEPTH } from './values.js';

/**
 * Limits for the pickles that are received. With limits above those of the JavaScript engine, such as the length of a string,
 * the engine's own errors replace `ERR_PICKLE`.
 */
export interface PickleLimits {
  /** Length of the pickle in bytes. Default: 64 MiB; a `Connection` uses its `maxFrameBytes`. */
  readonly bytes: number;
  /** Nesting of containers. Default: 1000. */
  readonly depth: number;
  /** Number of values; a shared value counts each time it occurs, as for a program that walks the result. Default: 1000000. */
  readonly values: number;
  /** Keys and members that are numbers. V8 hashes these without a seed, so a peer can make all collide. Default: 10000. */
  readonly numericKeys: number;
  /** Length of one int in bytes. The time for arithmetic and decimal digits grows faster than the length. Default: 1024. */
  readonly integerBytes: number;
}

/** @throws {TypeError} when a limit is not a number of at least 0 */
export function completeLimits(limits: Partial<PickleLimits>): PickleLimits {
  const complete = { ...defaultLimits, ...limits };
  for (const [name, limit] of Object.entries(complete)) {
    if (!(limit >= 0)) {
      throw new TypeError(`The limit ${name} is a number of at least 0, not ${String(limit)}`);
    }
  }
  return complete;
}

export function checkLimit(limits: PickleLimits, name: keyof PickleLimits, count: number): void {
  if (count <= limits[name]) return;
  throw new PassfdError('ERR_PICKLE', `A pickle is over the limit ${name}: ${limits[name]}`);
}

const defaultLimits: PickleLimits = {
  /** As the default `maxFrameBytes` of a `Connection`. */
  bytes: 64 * 1024 * 1024,
  depth: MAX_DEPTH,
  /** They take 200 MB at most, and 500 MB at the worst moment: as empty dicts of one byte each. */
  values: 1_000_000,
  /** They take half a second if all collide; 50 000 would take 16 seconds. */
  numericKeys: 10_000,
  integerBytes: 1024,
};
