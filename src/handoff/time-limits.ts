// Time limits, in milliseconds, that several parts share. They are here because all of these parts import this one.

/** Time that a worker has to finish what is open when it is stopped or replaced. */
export const DEFAULT_DRAIN_TIMEOUT_MS = 30_000;

/** Time that a new worker, or a new dispatcher, has to become ready. */
export const DEFAULT_READY_TIMEOUT_MS = 30_000;

/** Least time between SIGTERM and SIGKILL. */
export const KILL_AFTER_MS = 2_000;

/**
 * Time that a worker waits for the next dispatcher after its own was killed. It is long enough for a service manager to
 * start the dispatcher again, and for a person to notice.
 */
export const DEFAULT_ORPHAN_TIMEOUT_MS = 60_000;

/** Time that a worker which lost its dispatcher has to join the next one. */
export const RETURN_TIMEOUT_MS = 10_000;
