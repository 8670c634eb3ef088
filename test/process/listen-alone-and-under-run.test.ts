// The tests of an app that knows nothing of passfd: what passes alone passes under `passfd run --workers 1` too.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd } from '../support/passfd.js';
import { withPrograms, type Program } from '../support/program.js';

const FILES = [
  'self-test-listen.test.js',
  'self-test-sockets.test.js',
  'self-test-refused.test.js',
  'self-test-races.test.js',
  'self-test-process.test.js',
];

/** Without it, the files would report to this test's own runner. */
const env = { NODE_TEST_CONTEXT: undefined };

/** Under `passfd run` a file that fails is started again, so its own report comes before its end. */
async function passes(program: Program): Promise<void> {
  const [, failures] = await program.line(/^(?:#|ℹ) fail (\d+)$/);
  assert.equal(failures, '0', program.lines.join('\n'));
  assert.equal(await program.exit, 0);
}

describe('an ordinary test file', () => {
  for (const name of FILES) {
    it(
      `passes alone: ${name}`,
      withPrograms(async (start) => {
        await passes(start(process.execPath, [app(name)], { env }));
      }),
    );

    it(
      `passes under \`passfd run --workers 1\`: ${name}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        await passes(start(...passfd('run', '--workers', '1', '--control', control, app(name)), { env }));
      }),
    );
  }
});
