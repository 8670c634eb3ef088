// The test files as they are compiled, chosen by words of their paths.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** A file that takes longer is stuck, not slow: the longest takes about a minute on a quiet machine. */
export const FILE_TIMEOUT_MS = 1_200_000;

/** Where the compiled tests are. */
export const testDirectory = fileURLToPath(new URL('../', import.meta.url));

/** @returns the absolute paths of all files, or of those whose path below the directory of the tests holds a word */
export function testFiles(words: readonly string[]): string[] {
  return readdirSync(testDirectory, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.test.js'))
    .filter((path) => words.length === 0 || words.some((word) => path.includes(word)))
    .sort()
    .map((path) => join(testDirectory, path));
}
