// Connections that an app passes to its own processes: they count as open until those processes close them.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { SocketDiagnostics } from '../../src/fd/internal.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';
import { TcpClient } from '../support/tcp-client.js';

/** When the kernel cannot say which process has a connection, a connection that was passed on counts as closed. */
function kernelTells(): boolean {
  using diagnostics = SocketDiagnostics.open();
  return diagnostics !== undefined;
}

/** The open connections, each as the state of its worker. */
async function openAt(control: string): Promise<string[]> {
  const { workers } = await statusOf(control);
  return workers.flatMap(({ state, active }) => Array.from({ length: active ?? 0 }, () => state));
}

async function untilNoneIsOpen(control: string): Promise<void> {
  while ((await openAt(control)).length > 0);
}

const options = { skip: kernelTells() ? false : 'the kernel does not tell who has a connection' };

describe('a connection that an app has passed on', options, () => {
  for (const [way, how, accept] of [
    ['cluster', 'by a cluster of its own', 'hand-off'],
    ['send', "by a child's `send`", 'hand-off'],
    ['send', "by a child's `send`, when its worker has accepted it by itself", 'direct'],
    ['keep-open', "by a child's `send` with `keepOpen`", 'hand-off'],
    ['stdio', 'as the standard streams of a child', 'hand-off'],
    ['stdio', 'as the standard streams of a child, when its worker has accepted it by itself', 'direct'],
  ] as const) {
    it(
      `${how}, is open until the child has closed it, and a restart waits for that`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const flags = ['--accept', accept, '--workers', '1', '--control', control];
        const command = passfd('run', ...flags, app('passes-on.js'), way);
        const program = start(...command, { ownGroup: true });
        const [, port] = await program.line(/^listening (\d+)$/);
        using brief = await TcpClient.connect(Number(port));
        await brief.echo('hello');
        assert.deepEqual(await openAt(control), ['ready']);
        await brief.hangUp();
        await untilNoneIsOpen(control);

        using lasting = await TcpClient.connect(Number(port));
        await lasting.echo('begun');
        const restart = start(...passfd('restart', '--control', control));
        await program.errorLine(/worker draining/);
        assert.deepEqual(await openAt(control), ['draining']);
        await lasting.echo('and finished');
        await lasting.hangUp();
        assert.equal(await restart.exit, 0);
        assert.deepEqual(await openAt(control), []);
      }),
    );
  }

  it(
    'is waited for no longer than the drain timeout',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const flags = ['--workers', '1', '--drain-timeout', '100', '--control', control];
      const program = start(...passfd('run', ...flags, app('passes-on.js'), 'cluster'), { ownGroup: true });
      const [, port] = await program.line(/^listening (\d+)$/);
      using client = await TcpClient.connect(Number(port));
      await client.echo('begun');
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
    }),
  );
});
