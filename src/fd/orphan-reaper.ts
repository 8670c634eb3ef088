// OrphanReaper: waits for orphaned processes, which is the duty of process 1 of a container.
import { readdirSync, readFileSync } from 'node:fs';

import { native } from './native.js';
import { processIdentity } from './process-watch.js';

/** The kernel makes process 1 the parent of every process whose own parent has ended (pid_namespaces(7)). */
const FIRST_PID = 1;

/** Node waits for its own children as soon as they end. A zombie that is older than this is not a child that Node started. */
const REAP_AFTER_MS = 1_000;

/** Waits for children that this process has not started. Otherwise they would stay in the process table as zombies. */
export class OrphanReaper implements Disposable {
  readonly #onEnd = (): void => {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#look();
    }, REAP_AFTER_MS).unref();
  };
  #timer: NodeJS.Timeout | undefined;
  /** The zombies of the last look, by pid and start time. */
  #ended = new Set<string>();

  private constructor() {
    process.on('SIGCHLD', this.#onEnd);
  }

  /** @returns undefined when this is not process 1, which gets no orphans */
  static start(pid: number = process.pid): OrphanReaper | undefined {
    return pid === FIRST_PID ? new OrphanReaper() : undefined;
  }

  [Symbol.dispose](): void {
    process.off('SIGCHLD', this.#onEnd);
    clearTimeout(this.#timer);
  }

  #look(): void {
    const before = this.#ended;
    const ended = new Set<string>();
    try {
      for (const pid of childrenOf()) {
        if (!hasEnded(pid)) continue;
        const name = `${pid} ${processIdentity(pid) ?? ''}`;
        if (before.has(name)) native.reap(pid);
        else ended.add(name);
      }
    } catch {
      // For example, no descriptor is free to read /proc. There is no event for that, so look again later.
      this.#onEnd();
      return;
    }
    this.#ended = ended;
    if (ended.size > 0) this.#onEnd();
  }
}

/** The children of all threads: the kernel lists each child with the thread that started it (proc_pid_task(5)). */
function childrenOf(): number[] {
  const tasks = '/proc/self/task';
  return readdirSync(tasks).flatMap((task) =>
    (read(`${tasks}/${task}/children`) ?? '').split(' ').filter(Boolean).map(Number),
  );
}

function hasEnded(pid: number): boolean {
  const stat = read(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(')') + 2).startsWith('Z') ?? false;
}

/** @returns undefined when the thread or process is gone @throws any other system error */
function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
}
