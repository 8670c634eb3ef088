// Stuck wills: processes `passfd-will` that do not finish, though their process is dead.
import { readFileSync } from 'node:fs';

import { ProcessWatch } from './process-watch.js';
import { holdersOf } from './unix-holders.js';

/** The process name that `will_execute.c` sets. */
const NAME = 'passfd-will';

/** Longer than a will needs: 5 s at most (`TIME_LIMIT_MS` and `ENDING_LIMIT_MS` of `will_execute.c`). */
const TIME_LIMIT_MS = 6_000;

/**
 * Waits for the wills of a dead process that listened at a path. A will shares the descriptors of its process, so a stopped
 * one (SIGSTOP) keeps the path and every channel open. It is continued. If it does not end within 6 s it is killed, and the
 * connections that it should have handed out are lost.
 * @returns the ids of the processes that were killed
 */
export async function settleWills(path: string): Promise<readonly number[]> {
  const holders = await holdersOf(path);
  // A living process listens there.
  if (!holders.every(isWill)) return [];
  const killed = await Promise.all(holders.map(settle));
  return killed.filter((pid) => pid !== undefined);
}

/** @returns the process id, if it was killed */
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
