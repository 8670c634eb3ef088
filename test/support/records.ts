// What the workers of `numbers.js` have written down: every number that one of them has adopted and read.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Numbers that more than one connection, or more than one worker, has served. */
export function servedTwice(directory: string): string[] {
  const seen = new Set<string>();
  const twice: string[] = [];
  for (const name of readdirSync(directory)) {
    for (const number of readFileSync(join(directory, name), 'utf8').split('\n').slice(0, -1)) {
      if (seen.has(number)) twice.push(number);
      seen.add(number);
    }
  }
  return twice;
}
