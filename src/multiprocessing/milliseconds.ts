// Checks durations that a caller gave.
import { MAX_TIMER_MS } from '../fd/internal.js';

/** @throws {TypeError} when it is not an integer from `least` to `MAX_TIMER_MS` (24.8 days) */
export function checkMilliseconds(milliseconds: number, name: string, least = 1): void {
  if (Number.isInteger(milliseconds) && milliseconds >= least && milliseconds <= MAX_TIMER_MS) return;
  throw new TypeError(`${name} is an integer from ${least} to ${MAX_TIMER_MS}, not ${String(milliseconds)}`);
}
