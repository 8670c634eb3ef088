// The log: one line for each event on standard error, for people at a terminal and for programs elsewhere. Nothing waits
// for whoever reads it.
import { once } from 'node:events';
import { constants, fstatSync, openSync } from 'node:fs';
import { isatty } from 'node:tty';

import { pino, type Logger } from 'pino';
import { prettyFactory } from 'pino-pretty';
import sonicBoom from 'sonic-boom';

// Not written to by `process.stderr`: Node makes that non-blocking, and so for workers too that may be no Node.
const STDERR = 2;

/** Lines that wait for their reader: some thousands. What comes beyond that is dropped, and counted. */
const MAX_WAITING_BYTES = 1024 * 1024;

/** What the kernel writes to a pipe as a whole (PIPE_BUF of Linux), so that no line of a worker comes into one of these. */
const MAX_WRITE_BYTES = 4096;

/** Time in which the last lines are read. */
const END_TIMEOUT_MS = 1_000;

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

export type Log = Logger;

export interface OpenLog extends AsyncDisposable {
  readonly log: Log;
}

/** Disposing of it writes what waits, as far as somebody reads it in time. */
export function openLog(level: LogLevel, fd: number = STDERR, isTerminal: boolean = isatty(fd)): OpenLog {
  let isOver = false;
  const destination = new sonicBoom.SonicBoom({
    fd: openOwn(fd),
    sync: false,
    maxLength: MAX_WAITING_BYTES,
    maxWrite: MAX_WRITE_BYTES,
    // Until its reader has made room.
    retryEAGAIN: () => !isOver,
  });
  // What could not be written still waits, and is tried again with the next line: a full disk may have room then.
  destination.on('error', () => undefined);

  let dropped = 0;
  destination.on('drop', () => dropped++);
  destination.on('drain', () => {
    if (dropped === 0) return;
    const lines = dropped;
    dropped = 0;
    log.warn({ lines }, 'lines of the log are lost: nobody read it');
  });

  const pretty = prettyFactory({ translateTime: 'SYS:HH:MM:ss.l', singleLine: true });
  const log = pino(
    {
      level,
      // Not the process id of the dispatcher, since `pid` is that of a worker here.
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label: string) => ({ level: label }) },
    },
    // Without `flushSync`, which would wait for the reader.
    {
      write(line) {
        // An event may come late, when the log is over.
        if (!isOver) destination.write(isTerminal ? pretty(line) : line);
      },
    },
  );

  /** What `process.exit` and an uncaught error leave. */
  const onExit = (): void => {
    isOver = true;
    try {
      destination.flushSync();
    } catch {
      // Nobody reads it.
    }
  };
  process.once('exit', onExit);

  return {
    log,
    async [Symbol.asyncDispose]() {
      const timer = setTimeout(() => {
        isOver = true;
      }, END_TIMEOUT_MS);
      const closed = once(destination, 'close').catch(() => undefined); // an error, which was ignored above
      destination.end();
      await closed;
      isOver = true;
      clearTimeout(timer);
      process.off('exit', onExit);
      destination.destroy();
    },
  };
}

/**
 * A pipe gets a description of its own, since non-blocking is the whole description's, and workers have the same one.
 * Anything else is waited for beside the event loop, and also at the end: a socket, or a terminal that was stopped.
 */
function openOwn(fd: number): number {
  if (!fstatSync(fd).isFIFO()) return fd;
  try {
    return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch {
    return fd; // another user's, or a system without /proc
  }
}
