// Processes that a test has not started itself: whether they live, and waiting for their end.
import { readFileSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';

/** One that has ended and that nobody has waited for does not. */
export function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

export async function untilEnded(pid: number): Promise<void> {
  while (isAlive(pid)) await setImmediate();
}
