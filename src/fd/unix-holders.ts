// Finds the processes that hold a listening Unix socket, in Linux' /proc: when its backlog is full, it cannot be asked.
import { readdir, readFile, readlink } from 'node:fs/promises';

/** How /proc/net/unix prints the flags of a listening socket (`__SO_ACCEPTCON`). */
const LISTENS = '00010000';

/** @returns ids of the processes that hold it and that this process may look into; empty on systems without /proc */
export async function holdersOf(path: string): Promise<number[]> {
  const inodes = new Set(await listenersAt(path));
  if (inodes.size === 0) return [];
  const pids = (await list('/proc')).map(Number).filter((pid) => pid > 0);
  const holders: number[] = [];
  for (const pid of pids) {
    for (const fd of await list(`/proc/${pid}/fd`)) {
      const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '');
      if (!inodes.has(target)) continue;
      holders.push(pid);
      break;
    }
  }
  return holders;
}

/** The names that `/proc/PID/fd` has for the sockets that listen at the path (proc(5)). */
async function listenersAt(path: string): Promise<string[]> {
  const table = await readFile('/proc/net/unix', 'utf8').catch(() => '');
  return table.split('\n').flatMap((line) => {
    const match = /^\S+ \S+ \S+ (\S+) \S+ \S+ +(\d+) (.*)$/.exec(line);
    return match?.[1] === LISTENS && match[3] === path ? [`socket:[${match[2] ?? ''}]`] : [];
  });
}

async function list(directory: string): Promise<string[]> {
  return readdir(directory).catch(() => []);
}
