// Limits of time that more than one part keeps to.

/** Time that a worker has to finish what it has open when it is stopped or replaced. */
export const DEFAULT_DRAIN_TIMEOUT_MS = 30_000;

/** Time that a new worker, or a new dispatcher, has to be ready. */
export const DEFAULT_READY_TIMEOUT_MS = 30_000;

/** Time that a process has between SIGTERM and SIGKILL at least. */
export const KILL_AFTER_MS = 2_000;

/**
 * Time that a worker waits for the next dispatcher when its own was killed: long enough for whoever watches over that to
 * start it again, and for a person to notice.
 */
export const DEFAULT_ORPHAN_TIMEOUT_MS = 60_000;

/** Time that a worker which has lost its dispatcher has to join the pool of the next one. */
export const RETURN_TIMEOUT_MS = 10_000;
