// The log: one line for each event on standard error, as text on a terminal and as JSON elsewhere. It never waits for a
// reader.
import { constants, fstatSync, openSync } from 'node:fs';
import { isatty } from 'node:tty';

import { pino, type Logger } from 'pino';
import { prettyFactory } from 'pino-pretty';

import { Descriptor } from '../fd/index.js';
import { printable } from '../handoff/index.js';
import { LineWriter } from './line-writer.js';

// Not `process.stderr`: Node makes it non-blocking, also for workers, which may not be Node programs.
const STDERR = 2;

/** Time that a reader has for the last lines. */
const END_TIMEOUT_MS = 1_000;

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

export type Log = Logger;

export interface OpenLog extends AsyncDisposable {
  readonly log: Log;
}

/**
 * Disposing of it writes the waiting lines, for at most one second.
 * @param fd lent until it is disposed of, and never closed here
 */
export function openLog(level: LogLevel, fd: number = STDERR, isTerminal: boolean = isatty(fd)): OpenLog {
  const own = openOwn(fd);
  const writer = new LineWriter(own?.fd ?? fd, (lines) => {
    log.warn({ lines }, 'log lines dropped: nothing read the log');
  });

  const pretty = prettyFactory({ translateTime: 'SYS:HH:MM:ss.l', singleLine: true });
  const log = pino(
    {
      level,
      // Without the pid of the dispatcher: here, `pid` is the pid of a worker.
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label: string) => ({ level: label }) },
    },
    // Without `flushSync`, which waits for the reader.
    {
      write(line) {
        writer.write(isTerminal ? forTerminal(line, pretty) : printableLine(line));
      },
    },
  );

  /** For `process.exit` and uncaught errors. */
  const onExit = (): void => {
    writer.closeNow();
  };
  process.once('exit', onExit);

  return {
    log,
    async [Symbol.asyncDispose]() {
      await writer.close(END_TIMEOUT_MS);
      process.off('exit', onExit);
      own?.close();
    },
  };
}

/** The same JSON, without control characters: the file may be shown on a terminal. */
function printableLine(line: string): string {
  return `${printable(line.trimEnd())}\n`;
}

/** A colour, or an end of a line. */
const LAYOUT = /(\u001b\[[\d;]*m|\n)/;

/** Text for a terminal. Only this code adds colours: the message is made printable first, and fields are JSON. */
function forTerminal(line: string, pretty: (event: object) => string): string {
  const event = JSON.parse(line) as { readonly msg?: string };
  return pretty({ ...event, msg: printable(event.msg ?? '') })
    .split(LAYOUT)
    .map((part, index) => (index % 2 === 0 ? printable(part) : part))
    .join('');
}

/**
 * A pipe is opened again. O_NONBLOCK belongs to the open file description, and workers share the original one.
 * Writes to anything else, such as a socket or a stopped terminal, may wait: on the thread pool, and at the end.
 * @returns undefined where it is no pipe, or cannot be opened again
 */
function openOwn(fd: number): Descriptor | undefined {
  if (!fstatSync(fd).isFIFO()) return undefined;
  try {
    return new Descriptor(openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK));
  } catch {
    return undefined; // it belongs to another user, or there is no /proc
  }
}
