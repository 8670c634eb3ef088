// Durations that a timer of Node can take.

/** A longer one overflows, and a timer then fires at once (Node's timers, TIMEOUT_MAX). */
const MAX_MS = 0x7fff_ffff;

/** @throws {TypeError} when it is not an integer from `least` to 2 147 483 647 (some 24 days) */
export function checkMilliseconds(milliseconds: number, name: string, least = 1): void {
  if (Number.isInteger(milliseconds) && milliseconds >= least && milliseconds <= MAX_MS) return;
  throw new TypeError(`${name} is an integer from ${least} to ${MAX_MS}, not ${String(milliseconds)}`);
}
