// An address that no worker serves any more after a restart: it is closed, and nothing of it is left anywhere.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { describe, it } from 'node:test';

import { formatAddress } from '../../src/fd/index.js';
import { ask, Ports, withOpeningService } from '../support/opens.js';

/** Longer than any test takes. */
const LONG = ['--ready-timeout', '600000'];

const RESTARTS = 3;

function descriptorsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

describe('after a rolling restart', () => {
  it(
    'a port that was given up refuses clients, and the other one serves them',
    withOpeningService(['--workers', '2', ...LONG], async (service) => {
      const ports = new Ports();
      const [former, site] = [await ports.free(), await ports.free()];
      service.setVersion('one', [{ do: 'listen', name: 'site', at: former }]);
      service.start();
      await service.workers(2);
      service.setVersion('two', [{ do: 'listen', name: 'site', at: site }]);
      const restart = service.restart('--without', String(former.port));
      assert.equal(await restart.exit, 0, await restart.stderr);
      await assert.rejects(ask(former), { code: 'ECONNREFUSED' });
      assert.equal((await ask(site)).release, 'two');
      assert.deepEqual(await service.addresses(), [formatAddress(site)]);
      await service.program.errorLine(/its last worker has left/);
    }),
  );

  it(
    'a socket that was named after a process is gone with it: no file, no listener and no descriptor',
    withOpeningService(['--workers', '1', ...LONG], async (service) => {
      const { directory } = service;
      const at = { path: `${directory}/app.$PID.sock` };
      service.setVersion('one', [
        { do: 'listen', name: 'socket', at },
        { do: 'listen', name: 'site', at: await new Ports().free() },
      ]);
      service.start();
      await service.program.line(/^listening site/);
      const [first = 0] = await service.workers(1);
      const before = [descriptorsOf(service.program.pid), descriptorsOf(first)];
      for (let count = 0; count < RESTARTS; count++) {
        const restart = service.restart();
        assert.equal(await restart.exit, 0, await restart.stderr);
      }
      const [last = 0] = await service.workers(1);
      assert.deepEqual(
        readdirSync(directory).filter((name) => name.endsWith('.sock')),
        [`app.${last}.sock`],
      );
      assert.equal((await service.addresses()).length, 2);
      assert.equal((await ask({ path: `${directory}/app.${last}.sock` })).pid, last);
      // What the last command and the last process had is closed in a moment.
      const now = (): number[] => [descriptorsOf(service.program.pid), descriptorsOf(last)];
      while (now().join() !== before.join()) await setImmediate();
    }),
  );

  it(
    'to an app that takes another port where somebody answers, the old worker still has the first one',
    withOpeningService(['--workers', '1', ...LONG], async (service) => {
      const site = await new Ports().free();
      const choose = { do: 'choose', name: 'site', at: site } as const;
      service.setVersion('one', [choose]);
      service.start();
      await service.workers(1);
      service.setVersion('two', [
        choose,
        { do: 'await', file: service.gate },
        { do: 'throw', text: 'this is seen' },
      ]);
      const restart = service.restart();
      await service.workers(2);
      assert.equal((await ask(site)).release, 'one');
      service.openGate();
      assert.equal(await restart.exit, 1);
      assert.match(await restart.stderr, /this is seen/);
      assert.equal((await ask(site)).release, 'one');
    }),
  );
});
