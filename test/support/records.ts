// What the workers of `numbers.js` and the Python peers have written down: every number that one of them has read.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Status } from '../../src/dispatcher/index.js';
import type { Outcome } from './crowd.js';

/** What one worker has read, in this order. */
export function servedBy(directory: string, pid: number): number[] {
  return linesOf(join(directory, String(pid))).map(Number);
}

/** Numbers that more than one connection, or more than one worker, has served. */
export function servedTwice(directory: string): string[] {
  const seen = new Set<string>();
  const twice: string[] = [];
  for (const name of readdirSync(directory)) {
    for (const number of linesOf(join(directory, name))) {
      if (seen.has(number)) twice.push(number);
      seen.add(number);
    }
  }
  return twice;
}

/**
 * What the dispatcher counts, what the clients heard and what the workers wrote down tell the same story.
 * @param uncounted connections at most that a worker had accepted when it was killed, and had not counted yet
 */
export function assertExactlyOnce(outcome: Outcome, status: Status, records: string, uncounted = 0): void {
  assert.deepEqual(outcome.wrong, []);
  assert.deepEqual(servedTwice(records), []);
  const { adopted, refused, waiting, inFlight } = status.connections;
  assert.deepEqual({ refused, waiting, inFlight }, { refused: 0, waiting: 0, inFlight: 0 });
  const { answered, lost } = outcome;
  const missing = answered + lost.length - adopted;
  assert.ok(
    missing >= 0 && missing <= uncounted,
    `${answered} answered, ${lost.length} lost, ${adopted} taken: one without an answer was taken by a worker that was killed`,
  );
}

function linesOf(path: string): string[] {
  return readFileSync(path, 'utf8').split('\n').slice(0, -1);
}
