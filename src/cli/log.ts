// The log: one line for each event on standard error, for people at a terminal and for programs elsewhere.
import { pino, type Logger } from 'pino';
import { PinoPretty } from 'pino-pretty';

const STDERR = 2;

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

export type Log = Logger;

/** Written at once, so that the last line before an end is there too. */
export function createLog(level: LogLevel): Log {
  const options = {
    level,
    // Not the process id of the dispatcher, since `pid` is that of a worker here.
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  return process.stderr.isTTY
    ? pino(options, PinoPretty({ destination: STDERR, sync: true, translateTime: 'SYS:HH:MM:ss.l' }))
    : pino(options, pino.destination({ dest: STDERR, sync: true }));
}
