// An app whose workers accept by themselves, under `passfd run`: what it sees is what it sees with hand-offs.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Program } from '../support/program.js';

const skip = process.platform === 'linux' ? false : 'only Linux has boards';

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
const knowsReusePort = major > 22 || (major === 22 && minor >= 12);

/** A test of an app with two workers whose server listens like this. */
function withServer(
  listen: object,
  body: (program: Program, control: string) => Promise<void>,
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    const flags = ['--accept', 'direct', '--workers', '2', '--control', control];
    const program = start(...passfd('run', ...flags, app('listener.js')), {
      env: { PLAN: JSON.stringify({ all: [{ name: 'it', listen }] }) },
    });
    await body(program, control);
  });
}

const anywhere = { host: '127.0.0.1', port: 0 };

async function portOf(program: Program): Promise<number> {
  const [, address = ''] = await program.line(/^\d listening it (.*)$/);
  return (JSON.parse(address) as AddressInfo).port;
}

async function untilWatched(control: string): Promise<void> {
  let watching = 0;
  do {
    const { workers } = await statusOf(control);
    watching = workers.filter((worker) => worker.watching === true).length;
  } while (watching < 2);
}

/** A client, and the worker that has greeted it. */
async function greeted(port: number): Promise<{ client: Socket; worker: string }> {
  const client = connect(port, '127.0.0.1');
  const [words] = (await once(client, 'data')) as [Buffer];
  return { client, worker: String(words).split(' ')[0] ?? '' };
}

describe('a server whose workers accept by themselves', { skip }, () => {
  it(
    'lets its process exit when the app has unreferenced it',
    withServer(anywhere, async (program, control) => {
      const port = await portOf(program);
      await untilWatched(control);
      const { client, worker } = await greeted(port);
      client.write('unref');
      client.end();
      const [, exited] = await program.line(/^(\d) exit$/);
      assert.equal(exited, worker);
    }),
  );

  it(
    'is the one server of its address, also where the app asks for `reusePort`',
    { skip: knowsReusePort ? false : 'this version of Node does not know reusePort' },
    withServer({ ...anywhere, reusePort: true }, async (program, control) => {
      const ports = [await portOf(program), await portOf(program)];
      assert.equal(ports[0], ports[1]);
      await untilWatched(control);
      const { listeners } = await statusOf(control);
      assert.equal(listeners.length, 1);
      program.signal('SIGTERM');
      assert.equal(await program.exit, 0);
    }),
  );
});
