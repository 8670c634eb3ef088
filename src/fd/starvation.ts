// Starvation: waits for a free descriptor, at the descriptor limit, until this process closes one.

/** Time after which a thread has usually closed a descriptor. */
const SOON_MS = 1;

const reserves = new Set<() => boolean>();
const waiting = new Set<() => void>();

/** Descriptors that were closed since `wake` ran and that no reserve has taken. */
let freed = 0;

/** @param refill takes a descriptor, and returns whether it got one. Reserves are served before all that wait. */
export function awaitReserve(refill: () => boolean): void {
  reserves.add(refill);
}

/** @param goOn called once, in a later turn of the event loop, in the order of waiting */
export function awaitFreed(goOn: () => void): void {
  waiting.add(goOn);
}

/** Cancels `awaitReserve` or `awaitFreed`. */
export function stopAwaiting(callback: (() => void) | (() => boolean)): void {
  reserves.delete(callback as () => boolean);
  waiting.delete(callback);
}

/** Reports that this process has closed descriptors. */
export function noteFreed(count = 1): void {
  if (reserves.size === 0 && waiting.size === 0) return;
  let left = count;
  for (const refill of reserves) {
    if (left === 0 || !refill()) break;
    reserves.delete(refill);
    left--;
  }
  if (left === 0 || waiting.size === 0) return;
  if (freed === 0) setImmediate(wake);
  freed += left;
}

/** Reports that a thread is closing a descriptor. If that takes longer, the next in line finds none free, and waits again. */
export function noteFreedSoon(): void {
  if (reserves.size === 0 && waiting.size === 0) return;
  setTimeout(() => {
    noteFreed();
  }, SOON_MS).unref();
}

/** Wakes as many as descriptors were closed. One that finds no descriptor free waits again, as the last. */
function wake(): void {
  const next = [...waiting].slice(0, freed);
  freed = 0;
  for (const goOn of next) {
    // An earlier callback may have cancelled this one.
    if (waiting.delete(goOn)) goOn();
  }
}
