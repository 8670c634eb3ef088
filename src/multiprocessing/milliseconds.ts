// Durations that a timer of Node can take.
import { MAX_TIMER_MS } from '../fd/internal.js';

/** @throws {TypeError} when it is not an integer from `least` to 2 147 483 647 (some 24 days) */
export function checkMilliseconds(milliseconds: number, name: string, least = 1): void {
  if (Number.isInteger(milliseconds) && milliseconds >= least && milliseconds <= MAX_TIMER_MS) return;
  throw new TypeError(`${name} is an integer from ${least} to ${MAX_TIMER_MS}, not ${String(milliseconds)}`);
}
