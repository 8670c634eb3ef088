// A worker that is stopped (SIGSTOP): the log names it, the others serve, and connections already sent to it wait for it.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

const CLIENTS = 20;

describe('a worker that is stopped', () => {
  it(
    'is named in the log, gets nothing more, and serves its connections when it continues',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(...passfd('run', '--workers', '2', '--control', control, app('http.js')));
      const [, port] = await program.line(/^listening (\d+)$/);
      const ask = async (): Promise<string> => {
        const answer = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } });
        return (await answer.text()).split(' ')[0] ?? '';
      };
      let stopped;
      do {
        const { workers } = await statusOf(control);
        stopped =
          workers.length === 2 && workers.every(({ state }) => state === 'ready') ? workers[0] : undefined;
      } while (!stopped);
      process.kill(stopped.pid, 'SIGSTOP');

      // Each of the two workers gets one connection.
      const answers = [ask(), ask()];
      const [line] = await program.errorLine(/.*worker does not answer.*/);
      const { worker, pid, inFlight } = JSON.parse(line) as Record<string, unknown>;
      assert.deepEqual([worker, pid, inFlight], [1, stopped.pid, 1]);
      for (let count = 0; count < CLIENTS; count++) assert.equal(await ask(), '2');
      const status = await statusOf(control);
      assert.deepEqual(
        status.workers.map(({ id, state, inFlight }) => [id, state, inFlight]),
        [
          [1, 'stalled', 1],
          [2, 'ready', 0],
        ],
      );
      assert.equal(status.connections.redelivered, 0);

      process.kill(stopped.pid, 'SIGCONT');
      await program.errorLine(/worker answers again/);
      assert.deepEqual((await Promise.all(answers)).sort(), ['1', '2']);
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
    }),
  );
});
