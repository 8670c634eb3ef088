// Starvation: who waits for a free descriptor, and goes on when this process has closed one.

/** In which a thread has most often closed a descriptor. */
const SOON_MS = 1;

const reserves = new Set<() => boolean>();
const waiting = new Set<() => void>();

/** Closed since `wake` ran, and not taken by a reserve. */
let freed = 0;

/** @param refill takes a descriptor, and says whether it got one. It is called at each that is closed, before all who wait. */
export function awaitReserve(refill: () => boolean): void {
  reserves.add(refill);
}

/** @param goOn called once, in a later turn of the event loop. Who waits longest goes on first. */
export function awaitFreed(goOn: () => void): void {
  waiting.add(goOn);
}

/** Takes back either of the two. */
export function stopAwaiting(callback: (() => void) | (() => boolean)): void {
  reserves.delete(callback as () => boolean);
  waiting.delete(callback);
}

/** This process has closed so many descriptors. */
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

/** A thread closes one. Where that takes longer, who tries to take it finds none, and waits on. */
export function noteFreedSoon(): void {
  if (reserves.size === 0 && waiting.size === 0) return;
  setTimeout(() => {
    noteFreed();
  }, SOON_MS).unref();
}

/** As many go on as were closed, so that few find none free again; they wait anew, as the last. */
function wake(): void {
  const next = [...waiting].slice(0, freed);
  freed = 0;
  for (const goOn of next) {
    // One of those before may have ended it.
    if (waiting.delete(goOn)) goOn();
  }
}
