// ProcessWatch: tells the end of a process that need not be a child of this one, and which process a number means.
import { readFileSync } from 'node:fs';

import { Descriptor } from './descriptor.js';
import { native } from './native.js';
import { READABLE, Readiness } from './readiness.js';
import { ESRCH } from './system-error.js';

/** Where the kernel gives no descriptor of a process, it is asked this often whether the process is there. */
const ASK_INTERVAL_MS = 250;

export interface ProcessWatchOptions {
  /** Whether this process stays alive as long as the other one does; it does not unless it is asked to. */
  readonly keepsAlive?: boolean;
}

/**
 * Watches one process for its end. On Linux by a descriptor of it (pidfd_open(2)), so at once, and also while its parent
 * has not waited for it. Elsewhere, and where no descriptor can be had, by asking: then its parent has to wait for it, and
 * a process that gets the same number within a quarter of a second is taken for it.
 */
export class ProcessWatch implements Disposable {
  readonly #onEnded: () => void;
  #stop: () => void;

  private constructor(pid: number, onEnded: () => void, keepsAlive: boolean) {
    this.#onEnded = onEnded;
    const result = native.pidfdOpen(pid);
    if (result >= 0) this.#stop = this.#awaitEnd(new Descriptor(result), keepsAlive);
    else if (result === ESRCH) this.#stop = this.#tellSoon(keepsAlive);
    else this.#stop = this.#ask(pid, keepsAlive);
  }

  /**
   * @param onEnded called once, never before this returns; at the next turn of the event loop when there is no such process
   * @throws what is no process's number is a `TypeError`
   */
  static start(
    pid: number,
    onEnded: () => void,
    { keepsAlive = false }: ProcessWatchOptions = {},
  ): ProcessWatch {
    return new ProcessWatch(pid, onEnded, keepsAlive);
  }

  /** Watches no more; the end is not told. A second call, or one behind the end, does nothing. */
  close(): void {
    this.#stop();
    this.#stop = () => undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #awaitEnd(descriptor: Descriptor, keepsAlive: boolean): () => void {
    const readiness = new Readiness(descriptor.fd, () => {
      this.#end();
    });
    const stop = (): void => {
      readiness.close();
      descriptor.close();
    };
    readiness.setReferenced(keepsAlive);
    try {
      readiness.want(READABLE);
    } catch (error) {
      stop();
      throw error;
    }
    return stop;
  }

  #tellSoon(keepsAlive: boolean): () => void {
    const immediate = setImmediate(() => {
      this.#end();
    });
    if (!keepsAlive) immediate.unref();
    return () => {
      clearImmediate(immediate);
    };
  }

  #ask(pid: number, keepsAlive: boolean): () => void {
    const interval = setInterval(() => {
      if (!isAlive(pid)) this.#end();
    }, ASK_INTERVAL_MS);
    if (!keepsAlive) interval.unref();
    return () => {
      clearInterval(interval);
    };
  }

  #end(): void {
    this.close();
    this.#onEnded();
  }
}

/** Of `/proc/PID/stat`, counted from 1 (proc_pid_stat(5)): when it was started, in ticks since the machine was. */
const START_TIME_FIELD = 22;

/** The field in front of those that are numbers and letters alone. */
const NAME_FIELD = 2;

/**
 * What tells a process from an earlier or later one with the same number: when it was started.
 * @returns undefined for a process that is not there, or where the system does not tell
 */
export function processIdentity(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The name is in parentheses, and may hold parentheses, spaces and line ends of its own: its end is the last of them.
  const [, ...fields] = stat.slice(stat.lastIndexOf(')')).split(' ');
  return fields[START_TIME_FIELD - NAME_FIELD - 1];
}

/**
 * Whether the process that has this number now is the one whose identity that was.
 * @param identity where it was undefined, as where the system does not tell now, any process with the number is taken for it
 */
export function isSameProcess(pid: number, identity: string | undefined): boolean {
  const found = processIdentity(pid);
  return identity === undefined || found === undefined ? isAlive(pid) : found === identity;
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // EPERM: it is there, and another user's.
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}
