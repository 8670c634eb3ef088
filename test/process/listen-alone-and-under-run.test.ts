// Tests of an app that knows nothing of passfd: those that pass alone also pass under `passfd run --workers 1`.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, firstEndOfWorker, passfd, stopAtOnce } from '../support/passfd.js';
import { withPrograms, type Program } from '../support/program.js';

const FILES = [
  'self-test-listen.test.js',
  'self-test-sockets.test.js',
  'self-test-refused.test.js',
  'self-test-races.test.js',
  'self-test-process.test.js',
];

/** With NODE_TEST_CONTEXT set, the files would report to the runner of this test. */
const env = { NODE_TEST_CONTEXT: undefined };

async function reportsNoFailure(program: Program): Promise<void> {
  const [, failures] = await program.line(/^(?:#|ℹ) fail (\d+)$/);
  assert.equal(failures, '0', program.lines.join('\n'));
}

describe('an ordinary test file', () => {
  for (const name of FILES) {
    it(
      `passes alone: ${name}`,
      withPrograms(async (start) => {
        const program = start(process.execPath, [app(name)], { env });
        await reportsNoFailure(program);
        assert.equal(await program.exit, 0);
      }),
    );

    it(
      `passes under \`passfd run --workers 1\`: ${name}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const service = start(...passfd('run', '--workers', '1', '--control', control, app(name)), { env });
        const end = firstEndOfWorker(service);
        await reportsNoFailure(service);
        assert.equal(await end, 'exited with code 0');
        await stopAtOnce(service);
      }),
    );
  }
});
