// Under a debugger: every process has a port of its own.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';

import { giveOwnInspectPort, inheritedOptions } from '../../../src/service/inspect.js';
import { Acceptor, listen } from '../../../src/fd/index.js';

/** The debugger's port of this process, as other processes see it. */
async function takenPort(): Promise<{ readonly port: number; readonly acceptor: Acceptor }> {
  const acceptor = await listen({ host: '127.0.0.1', port: 0 });
  const { address } = acceptor;
  assert.ok('port' in address);
  return { port: address.port, acceptor };
}

function startsWith(options: readonly string[], env: NodeJS.ProcessEnv): void {
  const { status, stderr } = spawnSync(process.execPath, [...options, '-e', ''], { env, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  assert.match(stderr, /^Debugger listening on /m);
}

describe('a process that is started where a debugger listens', () => {
  it('has its own port when this one listens because of its command line', async () => {
    const { port, acceptor } = await takenPort();
    const execArgv = [`--inspect=127.0.0.1:${port}`];
    startsWith(inheritedOptions({ execArgv, env: {} }), {});
    await acceptor.close();
  });

  it('has its own port when this one listens because of NODE_OPTIONS', async () => {
    const { port, acceptor } = await takenPort();
    const env = { NODE_OPTIONS: `--no-warnings --inspect=127.0.0.1:${port}` };
    startsWith(inheritedOptions({ execArgv: [], env }), env);
    giveOwnInspectPort(env);
    startsWith([], env);
    await acceptor.close();
  });

  it('has the options of this one and no others', () => {
    assert.deepEqual(inheritedOptions({ execArgv: ['--no-warnings'], env: {} }), ['--no-warnings']);
    const once = inheritedOptions({ execArgv: ['--inspect'], env: {} });
    assert.deepEqual(inheritedOptions({ execArgv: once, env: {} }), once);
    const env = { NODE_OPTIONS: '--no-warnings' };
    giveOwnInspectPort(env);
    assert.deepEqual(env, { NODE_OPTIONS: '--no-warnings' });
  });
});
