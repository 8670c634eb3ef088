// Host: the operating system as the supervisor uses it, processes, signals and the clock.
import { spawn, type ChildProcess } from 'node:child_process';

import { socketPair, StreamSocket } from '../fd/index.js';
import { isSameProcess, processIdentity, ProcessWatch } from '../fd/internal.js';
import type { Exit } from './exit.js';
import { launchedBy } from './launched.js';
import { Output, type ChildOutput, type OnLost, type OutputEnds } from './output.js';

export interface Timer {
  /** A timer that was cleared does not fire. Clearing one that has fired does nothing. */
  clear(): void;
}

/** A process to start. */
export interface Start {
  readonly program: string;
  readonly args: readonly string[];
  /** Its whole environment. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Its working directory; without one, that of this process. */
  readonly cwd: string | undefined;
  /** What each line of its output begins with here; without one, it has the output of this process as its own. */
  readonly prefix: string | undefined;
}

/** A process that may be no child of this one, and whose number may be another's by now. */
export interface ProcessName {
  readonly pid: number;
  /** As `processIdentity` tells it; undefined of a child, whose number stays its own until its end is told. */
  readonly identity?: string | undefined;
}

export interface Spawned {
  readonly pid: number;
  /** What tells it from a later process with its number, where the system does. */
  readonly identity: string | undefined;
  /** The caller owns it; the child has the other end as its descriptor 3. */
  readonly channel: StreamSocket;
  /** With a prefix only. */
  readonly output: ChildOutput | undefined;
  /** It does not keep this process alive any more. */
  readonly forget: () => void;
}

export interface Watch {
  /** The end is not told any more. A second call, or one behind the end, does nothing. */
  close(): void;
}

export interface Host {
  /**
   * @param onExit called once, and never before this returns
   * @param onLost with a prefix only
   * @returns undefined when it could not be started; `onExit` is told why
   */
  spawn(start: Start, onExit: (exit: Exit) => void, onLost: OnLost): Spawned | undefined;
  /**
   * Watches a process that is no child.
   * @param onEnded called once, and never before this returns; soon when the process is not there any more
   */
  watch(process: ProcessName, onEnded: () => void): Watch;
  /** Takes over the output of a process that is no child, and writes it on with a prefix before each line. */
  forward(ends: OutputEnds, prefix: string, onLost: OnLost): ChildOutput;
  /** A signal to a process. One that has ended is no error. */
  kill(process: ProcessName, signal: 'SIGTERM' | 'SIGKILL'): void;
  /** What a process has started by itself, for people; undefined when that is nothing, or the system does not tell. */
  launchedBy(pid: number): string | undefined;
  /** In milliseconds, from anywhere; never goes back. */
  now(): number;
  setTimer(callback: () => void, delayMs: number): Timer;
}

/** The number that a child's channel has there: the first one behind its standard streams. */
export const CHANNEL_FD = 3;

export const realHost: Host = {
  spawn(start, onExit, onLost) {
    try {
      using channel = new Pair();
      using stdout = start.prefix === undefined ? undefined : new Pair();
      using stderr = start.prefix === undefined ? undefined : new Pair();
      const child = launch(start, channel.there, stdout?.there, stderr?.there);
      onEnd(child, onExit);
      if (child.pid === undefined) return undefined;
      return {
        pid: child.pid,
        identity: processIdentity(child.pid),
        channel: channel.take(),
        output: outputOf(start.prefix, stdout, stderr, onLost),
        forget: () => {
          child.unref();
        },
      };
    } catch (error) {
      // No descriptor is free, or Node finds the arguments wrong, for one longer than the kernel takes.
      queueMicrotask(() => {
        onExit({ is: 'not-started', error: error as Error });
      });
      return undefined;
    }
  },

  watch({ pid, identity }, onEnded) {
    // First the watch, so that the process which is compared is the one that is watched.
    const watch = ProcessWatch.start(pid, onEnded, { keepsAlive: true });
    if (isSameProcess(pid, identity)) return watch;
    watch.close();
    const immediate = setImmediate(onEnded);
    return {
      close: () => {
        clearImmediate(immediate);
      },
    };
  },

  forward: (ends, prefix, onLost) => new Output(ends, prefix, onLost),

  kill({ pid, identity }, signal) {
    if (identity !== undefined && !isSameProcess(pid, identity)) return;
    try {
      // A child leads a process group. What it has started itself ends with it where it is not asked any more.
      process.kill(signal === 'SIGKILL' ? -pid : pid, signal);
    } catch (error) {
      // It has ended (macOS says EPERM of a group that has), or has made itself another user's.
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ESRCH' && code !== 'EPERM') throw error;
    }
  },

  launchedBy,

  now: () => performance.now(),

  setTimer(callback, delayMs) {
    const timeout = setTimeout(callback, delayMs);
    return {
      clear: () => {
        clearTimeout(timeout);
      },
    };
  },
};

/** A socket pair: one end is kept here, the child gets a copy of the other. */
class Pair implements Disposable {
  readonly here: StreamSocket;
  readonly there: StreamSocket;

  constructor() {
    [this.here, this.there] = socketPair();
  }

  /** What the caller owns. */
  take(): StreamSocket {
    return new StreamSocket(this.here.release());
  }

  [Symbol.dispose](): void {
    this.here.destroy();
    this.there.destroy();
  }
}

function launch(
  { program, args, env, cwd }: Start,
  channel: StreamSocket,
  stdout: StreamSocket | undefined,
  stderr: StreamSocket | undefined,
): ChildProcess {
  return spawn(program, args, {
    env: { ...env },
    cwd,
    stdio: ['ignore', stdout?.fd ?? 'inherit', stderr?.fd ?? 'inherit', channel.fd],
    // In a session of its own: the Ctrl-C of a terminal is for this process, which then drains its children.
    detached: true,
  });
}

function onEnd(child: ChildProcess, onExit: (exit: Exit) => void): void {
  // Not 'close': the output may be held open by what the child has started itself.
  child.on('exit', (code, signal) => {
    onExit(signal === null ? { is: 'code', code: code ?? 0 } : { is: 'signal', signal });
  });
  // It also tells of signals that could not be sent, which this process does not send by it.
  child.on('error', (error) => {
    onExit({ is: 'not-started', error });
  });
}

/** Sockets, not pipes, as Node makes them for a child too: only they can be read as far as it is asked, and no further. */
function outputOf(
  prefix: string | undefined,
  stdout: Pair | undefined,
  stderr: Pair | undefined,
  onLost: OnLost,
): Output | undefined {
  if (prefix === undefined || !stdout || !stderr) return undefined;
  const partial = new Uint8Array();
  return new Output(
    {
      stdout: { descriptor: stdout.here.release(), partial },
      stderr: { descriptor: stderr.here.release(), partial },
    },
    prefix,
    onLost,
  );
}
