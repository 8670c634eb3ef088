// What sending and receiving share: their share of the event loop, and giving up by a signal.

/** Operations in a row that may end at once; then the event loop gets its turn, so that a busy peer starves nobody. */
export const OPERATIONS_PER_TURN = 64;

/** @returns the function that takes the listener off again */
export function whenAborted(signal: AbortSignal | undefined, giveUp: (reason: unknown) => void): () => void {
  if (!signal) return () => undefined;
  const listener = (): void => {
    giveUp(signal.reason);
  };
  signal.addEventListener('abort', listener, { once: true });
  return () => {
    signal.removeEventListener('abort', listener);
  };
}
