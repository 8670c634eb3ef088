// The longest time that a timer of Node can wait.

/** A longer delay overflows, and the timer then fires after 1 ms (TIMEOUT_MAX of Node's timers): 24.8 days. */
export const MAX_TIMER_MS = 0x7fff_ffff;
