// Runs the test files: all of them, or those whose path holds one of the words given (`npm test -- pickle`).
import { run } from 'node:test';
import { spec } from 'node:test/reporters';

import { FILE_TIMEOUT_MS, testFiles } from './support/test-files.js';

const wanted = process.argv.slice(2);
const files = testFiles(wanted);

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
