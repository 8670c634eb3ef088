// ProcessWatch: watches any process for its end, and tells two processes apart that had the same pid.
import { readFileSync } from 'node:fs';

import { Descriptor } from './descriptor.js';
import { native } from './native.js';
import { READABLE, Readiness } from './readiness.js';
import { ESRCH } from './system-error.js';

/** How often a process is looked up when the kernel gives no descriptor of it. */
const ASK_INTERVAL_MS = 250;

export interface ProcessWatchOptions {
  /** Whether the watch keeps this process alive. Default: false. */
  readonly keepsAlive?: boolean;
}

/**
 * Watches a process, which need not be a child, for its end. On Linux the kernel reports the end through a descriptor
 * (pidfd_open(2)): at once, and even before the parent has waited for the process. On other systems, or without a free
 * descriptor, the process is looked up every 250 ms: its end is seen after its parent has waited for it, and a new process
 * that gets the same pid between two looks is taken for it.
 */
export class ProcessWatch implements Disposable {
  readonly #onEnded: () => void;
  #stop: () => void;

  private constructor(pid: number, onEnded: () => void, keepsAlive: boolean) {
    this.#onEnded = onEnded;
    const result = native.pidfdOpen(pid);
    if (result >= 0) this.#stop = this.#awaitEnd(new Descriptor(result), keepsAlive);
    else if (result === ESRCH) this.#stop = this.#endSoon(keepsAlive);
    else this.#stop = this.#lookUp(pid, keepsAlive);
  }

  /**
   * @param onEnded called once, never before `start` returns. When there is no such process, it is called in the next turn of
   * the event loop.
   * @throws {TypeError} when `pid` is not a positive integer
   */
  static start(
    pid: number,
    onEnded: () => void,
    { keepsAlive = false }: ProcessWatchOptions = {},
  ): ProcessWatch {
    return new ProcessWatch(pid, onEnded, keepsAlive);
  }

  /** Stops watching; `onEnded` is not called any more. A second call, or a call after the end, does nothing. */
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

  #endSoon(keepsAlive: boolean): () => void {
    const immediate = setImmediate(() => {
      this.#end();
    });
    if (!keepsAlive) immediate.unref();
    return () => {
      clearImmediate(immediate);
    };
  }

  #lookUp(pid: number, keepsAlive: boolean): () => void {
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

/** Field of `/proc/PID/stat`, counted from 1 (proc_pid_stat(5)): start time in ticks since boot. */
const START_TIME_FIELD = 22;

/** The process name, which may contain spaces. The fields after it do not. */
const NAME_FIELD = 2;

/**
 * Identifies a process among those that had the same pid: its start time.
 * @returns undefined when there is no such process, or on systems without /proc
 */
export function processIdentity(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The name is in parentheses, and may itself contain parentheses, spaces and line ends. The last parenthesis ends it.
  const [, ...fields] = stat.slice(stat.lastIndexOf(')')).split(' ');
  return fields[START_TIME_FIELD - NAME_FIELD - 1];
}

/**
 * Whether the process with this pid is the one that had this identity.
 * @param identity when it is undefined, or the system reports none now, any process with the pid counts as the same
 */
export function isSameProcess(pid: number, identity: string | undefined): boolean {
  const found = processIdentity(pid);
  return identity === undefined || found === undefined ? isAlive(pid) : found === identity;
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // EPERM: the process exists and belongs to another user.
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}
