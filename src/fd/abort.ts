// Waiting that an AbortSignal can end.

/**
 * @param giveUp called once with the signal's reason when the signal aborts
 * @returns the function that removes the listener from the signal
 */
export function whenAborted(signal: AbortSignal | undefined, giveUp: (reason: unknown) => void): () => void {
  if (!signal) return nothing;
  const listener = (): void => {
    giveUp(signal.reason);
  };
  signal.addEventListener('abort', listener, { once: true });
  return () => {
    signal.removeEventListener('abort', listener);
  };
}

function nothing(): void {
  // Without a signal there is no listener.
}
