// Host: the operating system as the supervisor uses it, processes, signals and the clock.
import { spawn, type ChildProcess } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';

import { socketPair, StreamSocket } from '../fd/index.js';
import type { Exit } from './exit.js';
import { LinePrefixer } from './lines.js';

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
  /** What each line of its output begins with here; without one, it has the output of this process as its own. */
  readonly prefix: string | undefined;
}

export interface Spawned {
  readonly pid: number;
  /** The caller owns it; the child has the other end as its descriptor 3. */
  readonly channel: StreamSocket;
}

export interface Host {
  /**
   * @param onExit called once, and never before this returns
   * @returns undefined when it could not be started; `onExit` is told why
   */
  spawn(start: Start, onExit: (exit: Exit) => void): Spawned | undefined;
  /** A signal to a process. One that has ended is no error. */
  kill(pid: number, signal: 'SIGTERM' | 'SIGKILL'): void;
  /** In milliseconds, from anywhere; never goes back. */
  now(): number;
  setTimer(callback: () => void, delayMs: number): Timer;
}

/** The number that a child's channel has there: the first one behind its standard streams. */
export const CHANNEL_FD = 3;

export const realHost: Host = {
  spawn(start, onExit) {
    try {
      const [here, there] = socketPair();
      using channel = here;
      using theirs = there;
      const child = launch(start, theirs.fd);
      watch(child, onExit);
      if (child.pid === undefined) return undefined;
      if (start.prefix !== undefined) forwardOutput(child, start.prefix);
      return { pid: child.pid, channel: new StreamSocket(channel.release()) };
    } catch (error) {
      // No descriptor is free, or Node finds the arguments wrong, for one longer than the kernel takes.
      queueMicrotask(() => {
        onExit({ is: 'not-started', error: error as Error });
      });
      return undefined;
    }
  },

  kill(pid, signal) {
    try {
      // A child leads a process group. What it has started itself ends with it where it is not asked any more.
      process.kill(signal === 'SIGKILL' ? -pid : pid, signal);
    } catch (error) {
      // It has ended (macOS says EPERM of a group that has), or has made itself another user's.
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ESRCH' && code !== 'EPERM') throw error;
    }
  },

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

function launch({ program, args, env, prefix }: Start, channelFd: number): ChildProcess {
  const output = prefix === undefined ? 'inherit' : 'pipe';
  return spawn(program, args, {
    env: { ...env },
    stdio: ['ignore', output, output, channelFd],
    // In a session of its own: the Ctrl-C of a terminal is for this process, which then drains its children.
    detached: true,
  });
}

function watch(child: ChildProcess, onExit: (exit: Exit) => void): void {
  // Not 'close': the output may be held open by what the child has started itself.
  child.on('exit', (code, signal) => {
    onExit(signal === null ? { is: 'code', code: code ?? 0 } : { is: 'signal', signal });
  });
  // It also tells of signals that could not be sent, which this process does not send by it.
  child.on('error', (error) => {
    onExit({ is: 'not-started', error });
  });
}

function forwardOutput({ stdout, stderr }: ChildProcess, prefix: string): void {
  if (stdout) forward(stdout, process.stdout, prefix);
  if (stderr) forward(stderr, process.stderr, prefix);
}

function forward(from: Readable, to: Writable, prefix: string): void {
  const prefixer = new LinePrefixer(prefix);
  const run = async (): Promise<void> => {
    for await (const chunk of from) await written(to, prefixer.push(chunk as Buffer));
    await written(to, prefixer.end());
  };
  // The output of a child that cannot be read, or not be written, is lost; the child goes on.
  run().catch(() => from.destroy());
}

/** `pipe` would add listeners to the one output of this process for each child. */
function written(to: Writable, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    to.write(bytes, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}
