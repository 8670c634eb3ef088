// The log: one line for each event on standard error, for people at a terminal and for programs elsewhere. It waits
// for no reader.
import { constants, fstatSync, openSync } from 'node:fs';
import { isatty } from 'node:tty';

import { pino, type Logger } from 'pino';
import { prettyFactory } from 'pino-pretty';

import { Descriptor } from '../fd/index.js';
import { printable } from '../handoff/index.js';
import { LineWriter } from './line-writer.js';

// Not written to by `process.stderr`: Node makes that non-blocking, and so for workers too that may be no Node.
const STDERR = 2;

/** Time in which the last lines are read. */
const END_TIMEOUT_MS = 1_000;

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

export type Log = Logger;

export interface OpenLog extends AsyncDisposable {
  readonly log: Log;
}

/**
 * Disposing of it writes what waits, as far as somebody reads it in time.
 * @param fd lent until it is disposed of, and never closed here
 */
export function openLog(level: LogLevel, fd: number = STDERR, isTerminal: boolean = isatty(fd)): OpenLog {
  const own = openOwn(fd);
  const writer = new LineWriter(own?.fd ?? fd, (lines) => {
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
        writer.write(isTerminal ? forTerminal(line, pretty) : printableLine(line));
      },
    },
  );

  /** What `process.exit` and an uncaught error leave. */
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

/** The same JSON, and harmless to a terminal where somebody shows the file. */
function printableLine(line: string): string {
  return `${printable(line.trimEnd())}\n`;
}

/** A colour, or an end of a line: what is printed for people has some. */
const LAYOUT = /(\u001b\[[\d;]*m|\n)/;

/** For people. What has a colour comes from here: the message is made printable before, and fields stand as JSON. */
function forTerminal(line: string, pretty: (event: object) => string): string {
  const event = JSON.parse(line) as { readonly msg?: string };
  return pretty({ ...event, msg: printable(event.msg ?? '') })
    .split(LAYOUT)
    .map((part, index) => (index % 2 === 0 ? printable(part) : part))
    .join('');
}

/**
 * A pipe gets a description of its own, since non-blocking is the whole description's, and workers have the same one.
 * Anything else is waited for beside the event loop, and also at the end: a socket, or a terminal that was stopped.
 */
function openOwn(fd: number): Descriptor | undefined {
  if (!fstatSync(fd).isFIFO()) return undefined;
  try {
    return new Descriptor(openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK));
  } catch {
    return undefined; // another user's, or a system without /proc
  }
}
