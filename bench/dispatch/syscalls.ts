// Counting the system calls of processes, by `strace -c -f`. It slows them down, so nothing else is measured meanwhile.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { find } from './contestants.js';
import { Stage } from './stage.js';

export interface Counting {
  /** Ends it. @returns how many there were */
  stop(): Promise<number>;
}

/** Why they cannot be counted on this machine, in a sentence. */
export async function withoutStrace(): Promise<string | undefined> {
  if (find('strace') === undefined) return 'Syscalls were not counted: strace is not installed.';
  await using stage = new Stage();
  const watched = stage.run('sleep', ['infinity']);
  try {
    const counting = await countSyscalls(stage, 'probe', [watched.pid]);
    await counting.stop();
    return undefined;
  } catch {
    // Some systems let only a parent watch its child, or nobody anybody (ptrace(2), /proc/sys/kernel/yama/ptrace_scope).
    return 'Syscalls were not counted: strace may not watch other processes here.';
  }
}

/** Resolves when every process is watched. @throws {Error} where that is not allowed */
export async function countSyscalls(stage: Stage, name: string, pids: readonly number[]): Promise<Counting> {
  const file = join(stage.directory, `${name}.strace`);
  const strace = stage.run('strace', ['-c', '-f', '-o', file, ...pids.flatMap((pid) => ['-p', String(pid)])]);
  for (const pid of pids) {
    await strace.line((line) => line.startsWith(`strace: Process ${pid} attached`));
  }
  return {
    stop: async () => {
      strace.interrupt();
      await strace.exit;
      return totalOf(readFileSync(file, 'utf8'));
    },
  };
}

/** Of strace's table: the calls are the fourth column, the name is the last. */
function totalOf(table: string): number {
  let total = 0;
  for (const line of table.split('\n')) {
    const [share, , , calls] = line.trim().split(/\s+/);
    if (/^\d+\.\d+$/.test(share ?? '') && !line.endsWith(' total')) total += Number(calls);
  }
  return total;
}
