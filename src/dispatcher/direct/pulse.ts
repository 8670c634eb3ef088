// Pulse: whether the event loop of a worker goes round, as its board shows it. A pure function of what was seen at each look.

/** What a board shows of an event loop in one look. */
export interface Beat {
  /** Counts the turns of the loop. */
  readonly turns: number;
  /** Whether the loop waits for events. Then it has no turn unless something comes. */
  readonly isAsleep: boolean;
  /** Whether the worker watches, so that it can be expected to wake up. */
  readonly isWatching: boolean;
}

/** What is remembered of a loop from one look to the next. */
export interface Pulse {
  readonly turns: number;
  /** For how long no turn was seen, since the last one or since the worker was called. */
  readonly stillMs: number;
  /** Whether a message was sent to the worker to wake it, and no turn was seen since. */
  readonly isCalled: boolean;
  readonly isStalled: boolean;
}

/**
 * A loop that sleeps for so long while it watches is called. Others may have taken each connection before it woke up, so a
 * sleeping loop alone shows nothing. A stopped process sleeps as well.
 */
const CALL_AFTER_MS = 250;

/** A loop without a turn for so long, although something keeps it busy or it was called, has stalled. */
export const STALLED_AFTER_MS = 1_000;

export const firstPulse: Pulse = { turns: 0, stillMs: 0, isCalled: false, isStalled: false };

/**
 * @param elapsedMs time since the last look, without the time in which this process did not run itself
 * @returns what is known now. Call the worker when `isCalled` has become true
 */
export function feel(before: Pulse, { turns, isAsleep, isWatching }: Beat, elapsedMs: number): Pulse {
  if (turns !== before.turns) return { turns, stillMs: 0, isCalled: false, isStalled: false };
  if (before.isStalled) return before;
  const { isCalled } = before;
  // Nothing wakes a loop that does not watch.
  if (isAsleep && !isWatching && !isCalled) return { ...before, stillMs: 0 };
  const stillMs = before.stillMs + elapsedMs;
  if (isAsleep && !isCalled) {
    return stillMs < CALL_AFTER_MS ? { ...before, stillMs } : { ...before, stillMs: 0, isCalled: true };
  }
  return { ...before, stillMs, isStalled: stillMs >= STALLED_AFTER_MS };
}
