// A worker that is stopped (SIGSTOP): the log names it, the others serve, and the connections that it has wait for it.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { describe, it } from 'node:test';

import { ACCEPT_MODES } from '../support/accept-modes.js';
import { Crowd } from '../support/crowd.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { untilStopped } from '../support/processes.js';
import { withPrograms } from '../support/program.js';
import { assertExactlyOnce } from '../support/records.js';

const CLIENTS = 20;

/** Under load: clients at a time, and clients in a row. */
const AT_A_TIME = 128;
const MANY = 2_000;

describe('a worker that is stopped, hand-off,', () => {
  it(
    'is named in the log, gets nothing more, and serves its connections when it continues',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(
        ...passfd('run', '--accept', 'hand-off', '--workers', '2', '--control', control, app('http.js')),
      );
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

describe(
  'a worker that is stopped, direct,',
  { skip: !ACCEPT_MODES.includes('direct') && 'needs Linux' },
  () => {
    it(
      'is named in the log, keeps nobody waiting but whom it had accepted, and serves these when it continues',
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const records = `${directory.path}/records`;
        await mkdir(records);
        const flags = ['--accept', 'direct', '--workers', '3', '--control', control];
        const program = start(...passfd('run', ...flags, app('numbers.js'), records));
        let port;
        for (let worker = 0; worker < 3; worker++) [, port] = await program.line(/^listening (\d+)$/);
        using crowd = new Crowd({ port: Number(port), concurrency: AT_A_TIME });
        await crowd.untilMore(MANY);
        const stopped = (await statusOf(control)).workers[1];
        assert.ok(stopped);
        process.kill(stopped.pid, 'SIGSTOP');
        await untilStopped(stopped.pid);
        const [line] = await program.errorLine(/.*worker does not answer.*/);
        const { worker, pid } = JSON.parse(line) as Record<string, unknown>;
        assert.deepEqual([worker, pid], [2, stopped.pid]);
        await crowd.untilMore(MANY);
        const states = (await statusOf(control)).workers.map(({ id, state }) => [id, state]);
        assert.deepEqual(states, [
          [1, 'ready'],
          [2, 'stalled'],
          [3, 'ready'],
        ]);

        process.kill(stopped.pid, 'SIGCONT');
        await program.errorLine(/worker answers again/);
        await crowd.untilMore(MANY);
        const outcome = await crowd.stop();
        assert.deepEqual(outcome.lost, []);
        assertExactlyOnce(outcome, await statusOf(control), records);
        program.signal('SIGTERM');
        assert.equal(await program.exit, 0);
      }),
    );
  },
);
