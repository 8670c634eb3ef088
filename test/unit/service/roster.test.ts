// Roster: what two generations write to one journal during a takeover.
import assert from 'node:assert/strict';
import { existsSync, rmSync } from 'node:fs';
import { describe, it } from 'node:test';

import { Journal } from '../../../src/service/journal.js';
import type { ServiceName } from '../../../src/service/service-name.js';
import { Roster } from '../../../src/service/roster.js';
import { Dispatcher } from '../../../src/dispatcher/index.js';
import { processIdentity } from '../../../src/fd/internal.js';
import { Supervisor } from '../../../src/supervisor/index.js';
import { type SlotSnapshot } from '../../../src/supervisor/internal.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { temporaryDirectory } from '../../support/files.js';
import { turns } from '../../support/loop.js';

/** The process in slot 1, and a process that is started in another slot. */
const { pid, ppid } = process;
const service: ServiceName = { words: ['run', 'a.js'], directory: '/srv/a' };

interface Generation {
  readonly roster: Roster;
  /** Another process is started in that slot. */
  readonly starts: (slot: number) => Promise<void>;
}

interface Scene {
  /** The generation that hands over. It is frozen. */
  readonly before: Generation;
  /** The next generation, which has joined. */
  readonly next: Generation;
  readonly path: string;
  /** The slots in the journal. */
  readonly noted: () => number[];
}

const snapshot: SlotSnapshot = { id: 1, pid, identity: processIdentity(pid), state: 'ready' };

function duringHandOver(body: (scene: Scene) => Promise<void>): () => Promise<void> {
  return keepsDescriptors(async () => {
    await using directory = await temporaryDirectory();
    await using dispatcher = new Dispatcher();
    const control = `${directory.path}/control`;
    const warnings: unknown[] = [];
    const warn = (error: unknown): void => {
      warnings.push(error);
    };
    const generation = (): Generation => {
      const roster = new Roster(control, service, dispatcher, warn);
      const supervisor = new Supervisor(dispatcher, { command: ['true'], count: 1 });
      roster.follow(supervisor);
      const starts = async (id: number): Promise<void> => {
        supervisor.emit('started', { id, pid: ppid });
        await turns();
      };
      return { roster, starts };
    };
    const noted = (): number[] => {
      const journal = new Journal(control, service, warn);
      const survivors = journal.join();
      journal.close();
      return survivors.map(({ id }) => id);
    };
    const [before, next] = [generation(), generation()];
    try {
      before.roster.claim();
      before.roster.open([snapshot]);
      await turns();
      next.roster.join();
      before.roster.freeze();
      await body({ before, next, path: `${control}.workers`, noted });
    } finally {
      before.roster.close();
      next.roster.close();
    }
    assert.deepEqual(warnings, []);
  });
}

describe('a generation that hands over', () => {
  it(
    'does not write to the journal after the next one has written to it',
    duringHandOver(async ({ before, next, noted }) => {
      next.roster.open([snapshot]);
      await next.starts(2);
      await before.starts(3);
      assert.deepEqual(noted(), [1, 2]);
      before.roster.close();
      await next.starts(4);
      assert.deepEqual(noted(), [1, 4]);
    }),
  );

  it(
    'writes what happened meanwhile when there is no next one',
    duringHandOver(async ({ before, noted }) => {
      await before.starts(3);
      assert.deepEqual(noted(), [1]);
      before.roster.thaw();
      assert.deepEqual(noted(), [1, 3]);
    }),
  );

  it(
    'does not restore a journal that was removed',
    duringHandOver(async ({ before, next, path, noted }) => {
      rmSync(path);
      assert.equal(before.roster.check(), 'kept');
      assert.equal(existsSync(path), false);
      before.roster.close();
      next.roster.open([snapshot]);
      await turns();
      assert.equal(next.roster.check(), 'restored');
      assert.deepEqual(noted(), [1]);
    }),
  );
});
