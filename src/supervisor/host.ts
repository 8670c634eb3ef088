// Host: the operating system as the supervisor uses it: processes, signals and the clock.
import { spawn, type ChildProcess } from 'node:child_process';

import { socketPair, StreamSocket } from '../fd/index.js';
import { isSameProcess, processIdentity, ProcessWatch } from '../fd/internal.js';
import type { Exit } from './exit.js';
import { launchedBy } from './launched.js';
import { PrefixedOutput, type ChildOutput, type OnLost, type OutputEnds } from './output.js';

export interface Timer {
  /** Does nothing when the timer has fired. */
  clear(): void;
}

/** A process to start. */
export interface Start {
  readonly program: string;
  readonly args: readonly string[];
  /** The whole environment. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The working directory. Undefined: that of this process. */
  readonly cwd: string | undefined;
  /** Put before each line of its output. Undefined: it writes to the output of this process itself. */
  readonly prefix: string | undefined;
}

/** A process that may not be a child of this one, so that its pid may have been reused. */
export interface ProcessName {
  readonly pid: number;
  /** From `processIdentity`. Undefined for a child, whose pid is not reused before its exit is reported. */
  readonly identity?: string | undefined;
}

export interface Spawned {
  readonly pid: number;
  /** From `processIdentity`. */
  readonly identity: string | undefined;
  /** The caller owns it. The child has the other end as descriptor 3. */
  readonly channel: StreamSocket;
  /** With a prefix only. */
  readonly output: ChildOutput | undefined;
  /** From now on, the child does not keep this process alive. */
  readonly forget: () => void;
}

export interface Watch {
  /** Stops watching. Does nothing after the end of the process. */
  close(): void;
}

export interface Host {
  /**
   * @param onExit called once, and never before this returns
   * @param onLost used with a prefix only
   * @returns undefined when the process could not be started. `onExit` gets the error
   */
  spawn(start: Start, onExit: (exit: Exit) => void, onLost: OnLost): Spawned | undefined;
  /**
   * Watches a process that is no child.
   * @param onEnded called once, and never before this returns. Called at once when the process has ended already
   */
  watch(process: ProcessName, onEnded: () => void): Watch;
  /** Takes over the output of a process that is no child, and writes it with a prefix before each line. */
  forward(ends: OutputEnds, prefix: string, onLost: OnLost): ChildOutput;
  /** Does nothing when the process has ended. */
  kill(process: ProcessName, signal: 'SIGTERM' | 'SIGKILL'): void;
  /** Describes a process that this one has started. Undefined when there is none, or the system does not show it. */
  launchedBy(pid: number): string | undefined;
  /** Milliseconds of a monotonic clock. */
  now(): number;
  setTimer(callback: () => void, delayMs: number): Timer;
}

/** The descriptor of the channel in the child: the first one after the standard streams. */
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
      // No descriptor is free, or Node refuses the arguments, for example when they are longer than the kernel allows.
      queueMicrotask(() => {
        onExit({ is: 'not-started', error: error as Error });
      });
      return undefined;
    }
  },

  watch({ pid, identity }, onEnded) {
    // The watch comes first, so that the compared process is the watched one.
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

  forward: (ends, prefix, onLost) => new PrefixedOutput(ends, prefix, onLost),

  kill({ pid, identity }, signal) {
    if (identity !== undefined && !isSameProcess(pid, identity)) return;
    try {
      // A child leads a process group. SIGKILL also ends what it has started itself.
      process.kill(signal === 'SIGKILL' ? -pid : pid, signal);
    } catch (error) {
      // It has ended (for a group, macOS then says EPERM), or it runs as another user now.
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

/** A socket pair: this process keeps one end, and the child gets a duplicate of the other. */
class Pair implements Disposable {
  readonly here: StreamSocket;
  readonly there: StreamSocket;

  constructor() {
    [this.here, this.there] = socketPair();
  }

  /** The caller owns it. */
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
    // In a session of its own: Ctrl-C in a terminal is for this process, which then drains its children.
    detached: true,
  });
}

function onEnd(child: ChildProcess, onExit: (exit: Exit) => void): void {
  // Not 'close': a process that the child has started can hold the output open.
  child.on('exit', (code, signal) => {
    onExit(signal === null ? { is: 'code', code: code ?? 0 } : { is: 'signal', signal });
  });
  // It also reports signals that could not be sent, but `child.kill` is not used here.
  child.on('error', (error) => {
    onExit({ is: 'not-started', error });
  });
}

/** Sockets, as in Node's own `spawn`, not pipes: only a socket can be read without reading ahead. */
function outputOf(
  prefix: string | undefined,
  stdout: Pair | undefined,
  stderr: Pair | undefined,
  onLost: OnLost,
): PrefixedOutput | undefined {
  if (prefix === undefined || !stdout || !stderr) return undefined;
  const partial = new Uint8Array();
  return new PrefixedOutput(
    {
      stdout: { descriptor: stdout.here.release(), partial },
      stderr: { descriptor: stderr.here.release(), partial },
    },
    prefix,
    onLost,
  );
}
