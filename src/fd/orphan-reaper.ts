// OrphanReaper: what the first process of a container owes to those that have lost their parents.
import { readdirSync, readFileSync } from 'node:fs';

import { native } from './native.js';
import { processIdentity } from './process-watch.js';

/** The kernel makes it the parent of every process whose own has ended (pid_namespaces(7)). */
const FIRST_PID = 1;

/** Node waits for its own children as soon as they have ended; who is still waited for after this time is not one. */
const REAP_AFTER_MS = 1_000;

/** Waits for children that this process has not started, so that they do not stay in the process table for ever. */
export class OrphanReaper implements Disposable {
  readonly #onEnd = (): void => {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#look();
    }, REAP_AFTER_MS).unref();
  };
  #timer: NodeJS.Timeout | undefined;
  /** Who had ended when it looked last, by number and start. */
  #ended = new Set<string>();

  private constructor() {
    process.on('SIGCHLD', this.#onEnd);
  }

  /** @returns undefined for a process that nobody is left to */
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
      // For one, no descriptor is free to look with. Nothing tells when one is.
      this.#onEnd();
      return;
    }
    this.#ended = ended;
    if (ended.size > 0) this.#onEnd();
  }
}

/** Of all its threads (proc_pid_task(5)): the kernel notes which one has a child. */
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

/** @returns nothing for a thread or a process that is gone. @throws a system error otherwise */
function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
}
