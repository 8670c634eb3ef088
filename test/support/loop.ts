// Facts about promises that only the event loop can tell.
import { setImmediate } from 'node:timers/promises';

/** Turns of the event loop in which everything that is ready has happened. */
const TURNS = 10;

/** Lets the event loop go round, so that everything that is ready happens. */
export async function turns(count = TURNS): Promise<void> {
  for (let turn = 0; turn < count; turn++) await setImmediate();
}

/** Whether a promise is still not settled when everything that is ready has happened. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let pending = true;
  const settled = (): void => {
    pending = false;
  };
  promise.then(settled, settled);
  await turns();
  return pending;
}

/** Waits for a fact. */
export async function until(fact: () => boolean): Promise<void> {
  while (!fact()) await turns(1);
}
