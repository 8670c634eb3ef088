// Workers of a dispatcher that was killed, whose journal is lost: each has its place again, or is ended with a reason.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { describe, it } from 'node:test';

import { ask, Ports, withOpeningService, type OpeningService, type Place } from '../support/opens.js';
import { statusOf } from '../support/passfd.js';
import { untilEnded } from '../support/processes.js';

const WORKERS = 2;

const FLAGS = ['--workers', String(WORKERS), '--orphan-timeout', '60000'];

async function killAndLoseJournal({ program, control }: OpeningService): Promise<void> {
  program.kill();
  await program.ended;
  rmSync(`${control}.workers`);
}

/** Clients that come one after the other. The first one that is refused, or gets no answer, fails `end`. */
class Clients {
  readonly #asking: Promise<number>;
  #isOver = false;

  constructor(place: Place) {
    this.#asking = this.#ask(place);
    this.#asking.catch(() => undefined);
  }

  /** @returns how many were answered */
  end(): Promise<number> {
    this.#isOver = true;
    return this.#asking;
  }

  async #ask(place: Place): Promise<number> {
    for (let count = 0; ; count++) {
      if (this.#isOver) return count;
      await ask(place);
    }
  }
}

describe('a worker that comes back though no journal names it', () => {
  it(
    'leaves the wanted number of workers, which a restart reaches, and no client is lost',
    withOpeningService(FLAGS, async (service) => {
      const site = await new Ports().free();
      service.setVersion('one', [{ do: 'listen', name: 'site', at: site }]);
      service.start();
      const old = await service.workers(WORKERS);
      const clients = new Clients(site);
      await killAndLoseJournal(service);
      service.setVersion('two', [{ do: 'listen', name: 'site', at: site }]);
      service.start();
      await service.program.errorLine(/worker returned after its dispatcher was killed/);
      const restart = service.restart();
      assert.equal(await restart.exit, 0, await restart.stderr);
      const { workers } = await statusOf(service.control);
      const left = workers.filter(({ pid, state }) => old.includes(pid) && state !== 'draining');
      assert.deepEqual(left, [], 'every worker is a new one');
      for (const pid of old) await untilEnded(pid);
      assert.equal((await service.workers(WORKERS)).length, WORKERS);
      assert.equal((await ask(site)).release, 'two');
      assert.ok((await clients.end()) > 0);
    }),
  );

  it(
    'is ended when it was started for another service, and that of the command serves',
    withOpeningService(FLAGS, async (service) => {
      const ports = new Ports();
      const [former, site] = [await ports.free(), await ports.free()];
      service.setVersion('one', [{ do: 'listen', name: 'former', at: former }]);
      service.start();
      const old = await service.workers(WORKERS);
      await killAndLoseJournal(service);
      service.setVersion('two', [{ do: 'listen', name: 'site', at: site }]);
      service.start('another');
      await service.program.errorLine(/returned.*it was started for another service/);
      for (const pid of old) await untilEnded(pid);
      await service.workers(WORKERS);
      assert.equal((await ask(site)).name, 'site');
    }),
  );
});
