// An address that an app asked for, while its workers close it and end with code 0: clients wait for the next worker.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { isPending } from '../support/loop.js';
import {
  ask,
  connectTo,
  Ports,
  withOpeningService,
  type OpeningService,
  type Place,
  type Step,
} from '../support/opens.js';
import { untilEnded } from '../support/processes.js';

/** Longer than any test takes. */
const LONG = ['--ready-timeout', '600000'];

/** It is to pass. */
const SHORT = ['--ready-timeout', '1000'];

/** An app that listens, and recycles itself when the test says so; its next process waits for the gate first. */
function setVersions(service: OpeningService, at: Place, next: Place = at): () => void {
  const { directory, gate } = service;
  service.setVersion('one', [
    { do: 'listen', name: 'site', at },
    { do: 'await', file: `${directory}/close.$PID` },
    { do: 'close', name: 'site' },
    { do: 'await', file: `${directory}/end.$PID` },
  ]);
  return () => {
    service.setVersion('two', [
      { do: 'await', file: gate },
      { do: 'listen', name: 'site', at: next },
    ]);
  };
}

function tell(service: OpeningService, what: 'close' | 'end', pid: number): void {
  writeFileSync(`${service.directory}/${what}.${pid}`, '');
}

/** Two addresses, of which the app opens the metrics first. */
async function twoPlaces(): Promise<{
  readonly site: Place;
  readonly openBoth: readonly Step[];
  readonly openMetrics: Step;
}> {
  const ports = new Ports();
  const [site, metrics] = [await ports.free(), await ports.free()];
  const openMetrics = { do: 'listen', name: 'metrics', at: metrics } as const;
  return { site, openMetrics, openBoth: [openMetrics, { do: 'listen', name: 'site', at: site }] };
}

/** The worker closes its server and ends, and its next process waits at the gate. */
async function recycle(service: OpeningService, pid: number): Promise<void> {
  tell(service, 'close', pid);
  tell(service, 'end', pid);
  await untilEnded(pid);
  await service.program.line(/^awaiting .*gate$/);
}

/** A client that comes now is not refused, and the next process answers it. */
async function assertClientWaits(service: OpeningService, place: Place): Promise<void> {
  const client = await connectTo(place);
  const answer = ask(place, client);
  service.openGate();
  assert.equal((await answer).release, 'two');
}

describe('a worker that recycles itself', () => {
  it(
    'leaves its port open to clients, though nobody else served it: they wait for its next process',
    withOpeningService(['--workers', '1', ...LONG], async (service) => {
      const site = await new Ports().free();
      const setNext = setVersions(service, site);
      service.start();
      const [pid = 0] = await service.workers(1);
      setNext();
      await recycle(service, pid);
      await assertClientWaits(service, site);
    }),
  );

  it(
    'leaves its Unix socket open to clients',
    withOpeningService(['--workers', '1', ...LONG], async (service) => {
      const site = { path: `${service.directory}/site` };
      const setNext = setVersions(service, site);
      service.start();
      const [pid = 0] = await service.workers(1);
      setNext();
      await recycle(service, pid);
      await assertClientWaits(service, site);
    }),
  );

  it(
    'has a next process at the same port, where the kernel had picked that',
    withOpeningService(['--workers', '1', ...LONG], async (service) => {
      const { host } = new Ports();
      const setNext = setVersions(service, { host, port: 0 });
      service.start();
      const [, port] = await service.program.line(/^listening site (\d+)$/);
      const [pid = 0] = await service.workers(1);
      setNext();
      await recycle(service, pid);
      await assertClientWaits(service, { host, port: Number(port) });
    }),
  );

  it(
    'closes its port for good when its next process listens somewhere else, and not here in time',
    withOpeningService(['--workers', '1', ...SHORT], async (service) => {
      const ports = new Ports();
      const [former, site] = [await ports.free(), await ports.free()];
      const setNext = setVersions(service, former, site);
      service.start();
      const [pid = 0] = await service.workers(1);
      setNext();
      await recycle(service, pid);
      service.openGate();
      await service.program.errorLine(/address closed: no worker/);
      await assert.rejects(connectTo(former), { code: 'ECONNREFUSED' });
      await service.workers(1);
      assert.equal((await ask(site)).release, 'two');
    }),
  );

  it(
    'leaves its port open when it closes that while the next process of another one is awaited',
    withOpeningService(['--workers', '2', ...LONG], async (service) => {
      const site = await new Ports().free();
      const setNext = setVersions(service, site);
      service.start();
      const [first = 0, second = 0] = await service.workers(2);
      setNext();
      await recycle(service, first);
      tell(service, 'close', second);
      await service.program.line(/^closed site$/);
      await assertClientWaits(service, site);
      tell(service, 'end', second);
      await untilEnded(second);
      await service.workers(2);
    }),
  );

  it(
    'leaves its port open when its next process listens at another one first',
    withOpeningService(['--workers', '1', ...LONG], async (service) => {
      const { directory, gate } = service;
      const { site, openBoth, openMetrics } = await twoPlaces();
      service.setVersion('one', [
        ...openBoth,
        { do: 'await', file: `${directory}/close.$PID` },
        { do: 'close', name: 'metrics' },
        { do: 'close', name: 'site' },
      ]);
      service.start();
      await service.program.line(/^listening site/);
      const [pid = 0] = await service.workers(1);
      service.setVersion('two', [
        openMetrics,
        { do: 'await', file: gate },
        { do: 'listen', name: 'site', at: site },
      ]);
      tell(service, 'close', pid);
      await untilEnded(pid);
      await service.program.line(/^awaiting .*gate$/);
      await service.workers(1);
      await assertClientWaits(service, site);
    }),
  );

  it(
    'leaves its port open when it has closed that one only, and exits',
    withOpeningService(['--workers', '1', ...LONG], async (service) => {
      const { directory, gate } = service;
      const { site, openBoth } = await twoPlaces();
      service.setVersion('one', [
        ...openBoth,
        { do: 'await', file: `${directory}/close.$PID` },
        { do: 'close', name: 'site' },
        { do: 'exit' },
      ]);
      service.start();
      await service.program.line(/^listening site/);
      const [pid = 0] = await service.workers(1);
      service.setVersion('two', [{ do: 'await', file: gate }, ...openBoth]);
      tell(service, 'close', pid);
      await untilEnded(pid);
      await service.program.line(/^awaiting .*gate$/);
      await assertClientWaits(service, site);
    }),
  );

  it(
    'leaves its port open to clients also when it ends after a takeover',
    withOpeningService(['--workers', '1', ...LONG], async (service) => {
      const site = await new Ports().free();
      const setNext = setVersions(service, site);
      service.start();
      const [pid = 0] = await service.workers(1);
      setNext();
      tell(service, 'close', pid);
      await service.program.line(/^closed site$/);
      assert.equal(await service.takeover().exit, 0);
      await recycle(service, pid);
      await assertClientWaits(service, site);
    }),
  );

  for (const [when, isBefore] of [
    ['during a restart', false],
    ['and ends during a restart that had begun after its last server was closed', true],
  ] as const) {
    it(
      `${when}, is not replaced by a process that serves less: the restart fails, and its port stays open`,
      withOpeningService(['--workers', '1', ...LONG], async (service) => {
        const { directory, gate } = service;
        const { site, openBoth, openMetrics } = await twoPlaces();
        service.setVersion('one', [
          ...openBoth,
          { do: 'await', file: `${directory}/close.$PID` },
          { do: 'close', name: 'metrics' },
          { do: 'close', name: 'site' },
          { do: 'await', file: `${directory}/end.$PID` },
        ]);
        service.start();
        await service.program.line(/^listening site/);
        const [pid = 0] = await service.workers(1);
        const close = async (): Promise<void> => {
          tell(service, 'close', pid);
          await service.program.line(/^closed site$/);
        };
        if (isBefore) await close();
        service.setVersion('two', [
          openMetrics,
          { do: 'await', file: gate },
          { do: 'throw', text: 'no second address' },
        ]);
        const restart = service.restart();
        await service.program.line(/^awaiting .*gate$/);
        await service.workers(2);
        if (!isBefore) await close();
        tell(service, 'end', pid);
        await untilEnded(pid);
        await service.workers(1);
        assert.equal(await isPending(restart.exit), true);
        const client = await connectTo(site);
        service.setVersion('three', openBoth);
        const answer = ask(site, client);
        service.openGate();
        assert.equal(await restart.exit, 1);
        assert.match(await restart.stderr, /no second address/);
        assert.equal((await answer).release, 'three');
      }),
    );
  }
});

describe('a worker that is killed', () => {
  it(
    'has no address opened again that it and all others had given up while they served on',
    withOpeningService(['--workers', '2', ...LONG], async (service) => {
      const { directory, gate } = service;
      const { site, openBoth } = await twoPlaces();
      service.setVersion('one', [
        ...openBoth,
        { do: 'await', file: `${directory}/close.$PID` },
        { do: 'close', name: 'site' },
      ]);
      service.start();
      for (let count = 0; count < 2; count++) await service.program.line(/^listening site/);
      const pids = await service.workers(2);
      service.setVersion('two', [{ do: 'await', file: gate }, ...openBoth]);
      for (const pid of pids) {
        tell(service, 'close', pid);
        await service.program.line(/^closed site$/);
      }
      const [killed = 0] = pids;
      process.kill(killed, 'SIGKILL');
      await service.program.line(/^awaiting .*gate$/);
      await assert.rejects(connectTo(site), { code: 'ECONNREFUSED' });
      service.openGate();
      await service.program.line(/^listening site/);
      assert.equal((await ask(site)).release, 'two');
    }),
  );
});
