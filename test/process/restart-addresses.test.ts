// What a rolling restart makes sure of: a new worker listens wherever the old one does before that one leaves.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { formatAddress, type TcpAddress } from '../../src/fd/index.js';
import { isPending } from '../support/loop.js';
import { ask, Ports, withOpeningService, type OpeningService, type Step } from '../support/opens.js';

/** Longer than any test takes. */
const LONG = ['--ready-timeout', '600000'];

/** In which a new worker has begun, on a busy machine too, and has not listened where it never does. */
const READY_TIMEOUT_MS = 20_000;

interface Scene {
  readonly service: OpeningService;
  readonly metrics: TcpAddress;
  readonly site: TcpAddress;
  /** As the app opens them, one after the other. */
  readonly openMetrics: Step;
  readonly openSite: Step;
  /** Until the test opens the gate. */
  readonly atGate: Step;
}

/** A service whose workers listen at two addresses: `metrics`, and then `site`, where they all do before the test begins. */
function withTwoAddresses(flags: readonly string[], body: (scene: Scene) => Promise<void>, workers = 1) {
  return withOpeningService([...flags, '--workers', String(workers)], async (service) => {
    const ports = new Ports();
    const [metrics, site] = [await ports.free(), await ports.free()];
    const openMetrics = { do: 'listen', name: 'metrics', at: metrics } as const;
    const openSite = { do: 'listen', name: 'site', at: site } as const;
    service.setVersion('one', [openMetrics, openSite]);
    service.start();
    for (let count = 0; count < workers; count++) await service.program.line(/^listening site/);
    await body({
      service,
      metrics,
      site,
      openMetrics,
      openSite,
      atGate: { do: 'await', file: service.gate },
    });
  });
}

/** The old version answers at both. */
async function isUntouched({ metrics, site }: Scene): Promise<void> {
  for (const place of [site, metrics]) assert.equal((await ask(place)).release, 'one');
}

/** A restart to a version that gets to the first address, and throws only when the old one was seen to serve on. */
async function failAtSecondAddress(scene: Scene, restart: () => Promise<void> | void): Promise<void> {
  const { service, site, openMetrics, atGate } = scene;
  service.setVersion('two', [openMetrics, atGate, { do: 'throw', text: 'no second address' }]);
  const restarted = restart();
  await service.program.line(/^listening metrics/);
  await service.workers(2);
  assert.equal((await ask(site)).release, 'one');
  service.openGate();
  await restarted;
}

describe('a rolling restart of an app that listens at two addresses', () => {
  it(
    'leaves the old worker in service until the new one listens at both',
    withTwoAddresses(LONG, async (scene) => {
      const { service, site, openMetrics, openSite, atGate } = scene;
      service.setVersion('two', [openMetrics, atGate, openSite]);
      const restart = service.restart();
      await service.program.line(/^listening metrics/);
      // Both may be sent connections by then; those to the site get to the old one.
      await service.workers(2);
      assert.equal((await ask(site)).release, 'one');
      assert.equal(await isPending(restart.exit), true);
      service.openGate();
      assert.equal(await restart.exit, 0);
      assert.equal((await ask(site)).release, 'two');
      await service.workers(1);
    }),
  );

  it(
    'fails when the new one throws before it listens at both, and the old one serves on',
    withTwoAddresses(LONG, async (scene) => {
      await failAtSecondAddress(scene, async () => {
        const restart = scene.service.restart();
        assert.equal(await restart.exit, 1);
        assert.match(await restart.stderr, /no second address/);
      });
      await isUntouched(scene);
    }),
  );

  it(
    'fails with the address when the new one does not listen there in time; the old ones serve on',
    withTwoAddresses(
      ['--ready-timeout', String(READY_TIMEOUT_MS)],
      async (scene) => {
        const { service, site, openMetrics } = scene;
        const before = await service.workers(2);
        service.setVersion('two', [openMetrics]);
        const restart = service.restart();
        assert.equal(await restart.exit, 1);
        const address = formatAddress(site);
        assert.match(
          await restart.stderr,
          new RegExp(`did not listen at ${address} within ${READY_TIMEOUT_MS} ms.*--without ${address}`),
        );
        assert.deepEqual(await service.workers(2), before);
        await isUntouched(scene);
      },
      2,
    ),
  );

  it(
    'does not take a probe of a port for a server there',
    withTwoAddresses(LONG, async (scene) => {
      const { service, site, metrics, openMetrics, openSite, atGate } = scene;
      service.setVersion('two', [
        { do: 'probe', at: metrics },
        { do: 'probe', at: site },
        openMetrics,
        { do: 'probe', at: site },
        atGate,
        openSite,
      ]);
      const restart = service.restart();
      for (let probe = 0; probe < 3; probe++) await service.program.line(/^probed/);
      await service.workers(2);
      assert.equal((await ask(site)).release, 'one');
      assert.equal(await isPending(restart.exit), true);
      service.openGate();
      assert.equal(await restart.exit, 0);
      assert.equal((await ask(site)).release, 'two');
    }),
  );

  it(
    'asked for by SIGHUP is as strict',
    withTwoAddresses(LONG, async (scene) => {
      const { service } = scene;
      await failAtSecondAddress(scene, () => {
        service.program.signal('SIGHUP');
      });
      await service.program.errorLine(/no second address.*restart failed/);
      await isUntouched(scene);
    }),
  );

  it(
    'knows after a takeover what the old worker serves',
    withTwoAddresses(LONG, async (scene) => {
      const { service } = scene;
      assert.equal(await service.takeover().exit, 0);
      await failAtSecondAddress(scene, async () => {
        assert.equal(await service.restart().exit, 1);
      });
      await isUntouched(scene);
    }),
  );

  it(
    'knows what a worker serves that has come back from a dispatcher that was killed',
    withTwoAddresses([...LONG, '--orphan-timeout', '60000'], async (scene) => {
      const { service } = scene;
      const before = await service.workers(1);
      service.program.signal('SIGKILL');
      assert.equal(await service.program.ended, 'SIGKILL');
      service.start();
      assert.deepEqual(await service.workers(1), before);
      await failAtSecondAddress(scene, async () => {
        assert.equal(await service.restart().exit, 1);
      });
      await isUntouched(scene);
    }),
  );
});
