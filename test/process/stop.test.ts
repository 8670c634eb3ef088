// The end of a service: who has connected is served, though no worker has room when the signal comes.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';
import { TcpClient } from '../support/tcp-client.js';

describe('`passfd run` on SIGTERM', () => {
  it(
    'serves those who wait for a worker that is full, and then ends with 0',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(
        ...passfd('run', '--workers', '1', '--control', control, app('one-at-a-time.js')),
      );
      const [, port] = await program.line(/^listening (\d+)$/);
      using first = await TcpClient.connect(Number(port));
      await first.echo('one');
      using second = await TcpClient.connect(Number(port));
      const served = second.echo('two');
      for (;;) {
        const { connections } = await statusOf(control);
        if (connections.accepted === 2) break;
      }
      program.signal('SIGTERM');
      await program.errorLine(/no longer listening/);
      await first.echo('bye');
      await first.hangUp();
      await served;
      await second.echo('bye');
      await second.hangUp();
      assert.equal(await program.exit, 0);
    }),
  );

  it(
    'has an app do what it does at SIGTERM, though nothing keeps it alive behind its last client',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(...passfd('run', '--workers', '1', '--control', control, app('flushes.js')));
      const [, port] = await program.line(/^listening (\d+)$/);
      using client = await TcpClient.connect(Number(port));
      await client.echo('one');
      program.signal('SIGTERM');
      await program.errorLine(/worker draining/);
      await client.hangUp();
      await program.line(/^flushed$/);
      await program.errorLine(/process exited with code 0/);
      assert.equal(await program.exit, 0);
    }),
  );

  for (const signals of [
    ['SIGINT', 'SIGTERM'],
    ['SIGTERM', 'SIGINT'],
  ] as const) {
    it(
      `loses no answer when a launcher passes the request on a second time: ${signals.join(', ')}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const program = start(
          ...passfd('run', '--workers', '1', '--control', control, app('one-at-a-time.js')),
        );
        const [, port] = await program.line(/^listening (\d+)$/);
        using client = await TcpClient.connect(Number(port));
        await client.echo('one');
        for (const signal of signals) program.signal(signal);
        await program.errorLine(/worker draining/);
        await client.echo('bye');
        await client.hangUp();
        assert.equal(await program.exit, 0);
      }),
    );
  }
});
