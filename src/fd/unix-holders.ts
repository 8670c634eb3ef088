// Who holds a listening Unix socket that cannot be asked itself, since its backlog is full: Linux tells it under /proc.
import { readdir, readFile, readlink } from 'node:fs/promises';

/** `__SO_ACCEPTCON`, as /proc/net/unix prints the flags of a socket that listens. */
const LISTENS = '00010000';

/** @returns the processes that this one may look into and that hold it; none where the system does not tell */
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

/** What `/proc/PID/fd` calls the sockets that listen there (proc(5)). */
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
