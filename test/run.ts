// Runs the test files: all of them, or those whose path holds one of the words given (`npm test -- pickle`).
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';

/** A file that takes longer is stuck, not slow: the longest takes less than a minute here. */
const FILE_TIMEOUT_MS = 600_000;

const here = fileURLToPath(new URL('.', import.meta.url));
const wanted = process.argv.slice(2);
const files = readdirSync(here, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.test.js'))
  .filter((path) => wanted.length === 0 || wanted.some((word) => path.includes(word)))
  .sort()
  .map((path) => join(here, path));

if (files.length === 0) {
  process.stderr.write(`No test file matches: ${wanted.join(' ')}\n`);
  process.exitCode = 2;
} else {
  const results = run({ files, concurrency: 2, timeout: FILE_TIMEOUT_MS });
  results.on('test:fail', ({ todo }) => {
    if (todo === undefined || todo === false) process.exitCode = 1;
  });
  results.pipe(new spec()).pipe(process.stdout);
}
