// The time limit of everything that a test waits for. It only bounds a test that hangs, and never judges speed: a busy
// machine takes many times as long as a quiet one.

/** What takes longer is stuck. Several of these fit into the limit of a file (`test-files.ts`). */
export const STUCK_AFTER_MS = 240_000;
