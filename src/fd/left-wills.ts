// Wills that are left: processes `passfd-will` of a process that is dead, which do not do what they are there for.
import { readFileSync } from 'node:fs';

import { ProcessWatch } from './process-watch.js';
import { holdersOf } from './unix-holders.js';

/** As `will_execute.c` calls itself. */
const NAME = 'passfd-will';

/** Time to do it in: a will needs 5 s at most (`TIME_LIMIT_MS`, `ENDING_LIMIT_MS`). */
const TIME_LIMIT_MS = 6_000;

/**
 * Waits for the wills of a process that is dead and listened at a path. They share its descriptors, so one that is stopped
 * (SIGSTOP) keeps the path, and every channel, open: it is continued. One that does not end even so is killed, and what
 * it should have handed out is lost.
 * @returns the processes that were killed
 */
export async function settleWills(path: string): Promise<readonly number[]> {
  const holders = await holdersOf(path);
  // Somebody else listens there, who lives.
  if (!holders.every(isWill)) return [];
  const killed = await Promise.all(holders.map(settle));
  return killed.filter((pid) => pid !== undefined);
}

/** @returns the process, if it was killed */
function settle(pid: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      watch.close();
      resolve(signal(pid, 'SIGKILL') ? pid : undefined);
    }, TIME_LIMIT_MS);
    const watch = ProcessWatch.start(pid, () => {
      clearTimeout(timer);
      resolve(undefined);
    });
    signal(pid, 'SIGCONT');
  });
}

function isWill(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === NAME;
  } catch {
    return true; // it has ended meanwhile
  }
}

/** @returns whether it was sent */
function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch {
    return false; // it has ended
  }
}
