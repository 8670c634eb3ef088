// How numbers are written on the command line.
import { availableParallelism } from 'node:os';

import { InvalidArgumentError } from 'commander';

import { MAX_TIMER_MS } from '../fd/internal.js';
import { MAX_USER_ID } from '../handoff/index.js';
import { MAX_BACKLOG, MAX_WORKERS } from '../service/index.js';

/** @throws {InvalidArgumentError} */
export function parseWorkers(text: string): number {
  return text === 'max'
    ? availableParallelism()
    : parse(text, 1, MAX_WORKERS, `A number of workers is "max", or from 1 to ${MAX_WORKERS}`);
}

/** @throws {InvalidArgumentError} */
export function parseMaxExtra(text: string): number {
  return parse(text, 1, MAX_WORKERS, `A number of processes is from 1 to ${MAX_WORKERS}`);
}

/** @throws {InvalidArgumentError} */
export function parseMilliseconds(text: string): number {
  return parse(text, 1, MAX_TIMER_MS, `A time is a number of milliseconds from 1 to ${MAX_TIMER_MS}`);
}

/** @throws {InvalidArgumentError} */
export function parseBacklog(text: string): number {
  return parse(text, 1, MAX_BACKLOG, 'A backlog is a number from 1');
}

/** @throws {InvalidArgumentError} */
export function parseConcurrency(text: string): number {
  return parse(text, 1, Number.MAX_SAFE_INTEGER, 'A number of connections is from 1');
}

/** @throws {InvalidArgumentError} */
export function parseUserId(text: string): number {
  return parse(text, 0, MAX_USER_ID, 'A user or group is given by its number, as `id` prints it');
}

/** @throws {InvalidArgumentError} */
export function parseWorkerId(text: string): number {
  return parse(
    text,
    1,
    Number.MAX_SAFE_INTEGER,
    'A worker is given by its number, as `passfd status` prints it',
  );
}

function parse(text: string, least: number, most: number, rule: string): number {
  const number = Number(text);
  if (/^\d+$/.test(text) && number >= least && number <= most) return number;
  throw new InvalidArgumentError(`${rule}, not "${text}".`);
}
