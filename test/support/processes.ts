// Processes that a test has not started itself: whether they live, and waiting until they are stopped or have ended.
import { readFileSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';

/** One that has ended and that nobody has waited for does not. */
export function isAlive(pid: number): boolean {
  return !['Z', 'X', undefined].includes(stateOf(pid));
}

/** By SIGSTOP. */
export async function untilStopped(pid: number): Promise<void> {
  while (stateOf(pid) !== 'T') await setImmediate();
}

export async function untilEnded(pid: number): Promise<void> {
  while (isAlive(pid)) await setImmediate();
}

/** The letter by which the kernel tells it. */
function stateOf(pid: number): string | undefined {
  try {
    return /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  } catch {
    return undefined;
  }
}
