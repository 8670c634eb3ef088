// What becomes of workers when the dispatcher that started them is killed.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { once } from 'node:events';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

function isAlive(pid: number): boolean {
  try {
    // One that has ended and that nobody has waited for is a zombie.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

describe('a worker whose dispatcher is killed', () => {
  it(
    'answers whom it has adopted, and then ends, though it listens somewhere by itself too',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(...passfd('run', '--workers', '1', '--control', control, app('exclusive.js')));
      const [, port] = await program.line(/^listening (\d+)$/);
      const client = connect(Number(port), '127.0.0.1');
      await once(client, 'connect');
      for (;;) {
        const [worker] = (await statusOf(control)).workers;
        if (worker?.active !== 1) continue;
        program.kill();
        assert.equal(isAlive(worker.pid), true);
        client.write('still there?');
        const [answer] = (await once(client, 'data')) as [Buffer];
        assert.equal(answer.toString(), 'still there?');
        client.end();
        // Its output is closed when it has ended, and the program's with it.
        await program.exit;
        assert.equal(isAlive(worker.pid), false);
        return;
      }
    }),
  );
});
