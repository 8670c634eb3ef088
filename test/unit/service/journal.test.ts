// Journal: what it lists for the next dispatcher, which dispatcher may use it, and when it is ignored.
import assert from 'node:assert/strict';
import fs, {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { describe, it, mock } from 'node:test';
import { crc32 } from 'node:zlib';

import { Journal } from '../../../src/service/journal.js';
import type { Survivor } from '../../../src/service/journal-records.js';
import type { ServiceName } from '../../../src/service/service-name.js';
import { PassfdError } from '../../../src/fd/index.js';
import { processIdentity } from '../../../src/fd/internal.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { temporaryDirectory } from '../../support/files.js';

/** Above the highest process id. */
const NOBODY = 2 ** 31 - 1;

const service: ServiceName = { words: ['run', 'a.js'], directory: '/srv/a' };
const other: ServiceName = { words: ['run', 'b.js'], directory: '/srv/a' };

const { pid } = process;
const living: Survivor = {
  id: 3,
  pid,
  identity: processIdentity(pid),
  isChild: true,
  hasJoined: true,
  isLeaving: false,
};

interface Scene {
  /** Creates the journal of another dispatcher at the same path. */
  readonly journal: (name?: ServiceName) => Journal;
  readonly path: string;
  readonly directory: string;
  /** Reasons of the warnings. */
  readonly warnings: string[];
}

function withJournals(body: (scene: Scene) => void): () => Promise<void> {
  return keepsDescriptors(async () => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    const journals: Journal[] = [];
    const warnings: string[] = [];
    try {
      body({
        journal: (name = service) => {
          const journal = new Journal(control, name, (error) => warnings.push((error as Error).message));
          journals.push(journal);
          return journal;
        },
        path: `${control}.workers`,
        directory: directory.path,
        warnings,
      });
    } finally {
      for (const journal of journals) journal.close();
    }
  });
}

/** The journal of a dead dispatcher, with these survivors in it. */
function leave({ journal }: Scene, survivors: readonly Survivor[], name?: ServiceName): void {
  const left = journal(name);
  left.claim();
  left.write(survivors);
  left.close();
}

/** While `body` runs, each call of a function of `node:fs` fails, as on a full or broken disk. */
function whileFailing(call: 'openSync' | 'readSync' | 'writeSync', code: string, body: () => void): void {
  const method = mock.method(fs, call, () => {
    throw Object.assign(new Error(`${code}: it fails, ${call}`), { code });
  });
  syncBuiltinESMExports();
  try {
    body();
  } finally {
    method.mock.restore();
    syncBuiltinESMExports();
  }
}

/** As the only record of a journal, later than all others. */
function asRecord(json: string): string {
  return `1000 ${json.length + 1} ${crc32(`${json}\n`)}\n${json}\n`;
}

describe('a journal', () => {
  it(
    'lists the workers of the last record that are alive, for the next dispatcher',
    withJournals((scene) => {
      leave(scene, [{ ...living, id: 1 }]);
      leave(scene, [living, { ...living, id: 4, pid: NOBODY }, { ...living, id: 5, identity: '1' }]);
      assert.deepEqual(scene.journal().claim(), [living]);
      assert.deepEqual(scene.warnings, []);
    }),
  );

  it(
    'is one file, which only its user can read',
    withJournals((scene) => {
      leave(scene, [living]);
      assert.equal(statSync(scene.path).mode & 0o777, 0o600);
      assert.deepEqual(readdirSync(scene.directory), ['control.workers']);
    }),
  );

  it(
    'is refused while its dispatcher is alive, and the error names that process',
    withJournals(({ journal }) => {
      journal().claim();
      assert.throws(
        () => journal().claim(),
        (error) =>
          error instanceof PassfdError &&
          error.code === 'ERR_ADDRESS_IN_USE' &&
          error.message.includes(`passfd run a.js (in /srv/a) is alive, process ${pid}`) &&
          error.message.includes('--control PATH'),
      );
    }),
  );

  it(
    'can be open in two generations, and is free when both have closed it',
    withJournals(({ journal }) => {
      const [first, second] = [journal(), journal()];
      first.claim();
      first.write([living]);
      assert.deepEqual(second.join(), [living]);
      first.write([{ ...living, id: 7 }]);
      first.close();
      second.catchUp();
      second.write([{ ...living, id: 8 }]);
      assert.throws(() => journal().claim(), /is alive/);
      second.close();
      assert.deepEqual(journal().claim(), [{ ...living, id: 8 }]);
    }),
  );

  it(
    'is refused to another service while its workers are alive, and the error names both',
    withJournals((scene) => {
      leave(scene, [living]);
      assert.throws(
        () => scene.journal(other).claim(),
        new RegExp(
          `another service wait.*passfd run a.js \\(in /srv/a\\), processes ${pid}\\. Start that service`,
        ),
      );
      assert.deepEqual(scene.journal().claim(), [living]);
    }),
  );

  it(
    'is given to another service when no worker waits',
    withJournals((scene) => {
      leave(scene, [
        { ...living, isLeaving: true },
        { ...living, pid: NOBODY },
      ]);
      assert.equal(scene.journal(other).claim().length, 1);
    }),
  );

  it(
    'has the record before when the last one is incomplete',
    withJournals((scene) => {
      leave(scene, [living]);
      leave(scene, [
        { ...living, id: 9 },
        { ...living, id: 10 },
      ]);
      const file = readFileSync(scene.path);
      file.fill(0, file.indexOf('"id":10'), file.indexOf('"id":10') + 100);
      writeFileSync(scene.path, file);
      assert.deepEqual(scene.journal().claim(), [living]);
    }),
  );

  it(
    'is restored with its last record when something removed it',
    withJournals((scene) => {
      const journal = scene.journal();
      journal.claim();
      journal.write([living]);
      assert.equal(journal.check(), 'kept');
      rmSync(scene.path);
      assert.equal(journal.check(), 'restored');
      assert.equal(journal.check(), 'kept');
      assert.throws(() => scene.journal().claim(), /is alive/);
      journal.close();
      assert.deepEqual(scene.journal().claim(), [living]);
    }),
  );

  it(
    'is left alone when another dispatcher has the path, also at the end',
    withJournals((scene) => {
      const journal = scene.journal();
      journal.claim();
      rmSync(scene.path);
      scene.journal(other).claim();
      assert.equal(journal.check(), 'displaced');
      journal.remove();
      assert.equal(existsSync(scene.path), true);
    }),
  );

  const preventions: readonly (readonly [
    what: string,
    code: string,
    prevent: (scene: Scene, body: () => void) => void,
  ])[] = [
    [
      'whose directory is gone too',
      'ENOENT',
      ({ directory }, body) => {
        rmSync(directory, { recursive: true });
        body();
        mkdirSync(directory);
      },
    ],
    [
      'in whose place a directory is',
      'EISDIR',
      ({ path }, body) => {
        mkdirSync(path);
        body();
        rmdirSync(path);
      },
    ],
    [
      'on a disk that is broken',
      'EIO',
      (_scene, body) => {
        whileFailing('readSync', 'EIO', body);
      },
    ],
  ];
  for (const [what, code, prevent] of preventions) {
    it(
      `that was removed, ${what}, is not taken for another dispatcher's, and is made anew when it can be`,
      withJournals((scene) => {
        const journal = scene.journal();
        journal.claim();
        journal.write([living]);
        rmSync(scene.path);
        prevent(scene, () => {
          assert.throws(() => journal.check(), new RegExp(code));
          assert.throws(() => journal.check(), new RegExp(code));
        });
        rmSync(scene.path, { force: true });
        assert.equal(journal.check(), 'restored');
        journal.close();
        assert.deepEqual(scene.journal().claim(), [living]);
      }),
    );
  }

  it(
    'that could not be written to a full disk is written at the next check',
    withJournals((scene) => {
      const journal = scene.journal();
      journal.claim();
      whileFailing('writeSync', 'ENOSPC', () => {
        assert.throws(() => {
          journal.write([living]);
        }, /ENOSPC/);
        assert.equal(journal.check(), 'kept');
      });
      assert.equal(journal.check(), 'kept');
      journal.close();
      assert.deepEqual(scene.journal().claim(), [living]);
    }),
  );

  it(
    'that could not be restored on a full disk is written at the next check',
    withJournals((scene) => {
      const journal = scene.journal();
      journal.claim();
      journal.write([living]);
      rmSync(scene.path);
      whileFailing('writeSync', 'ENOSPC', () => {
        assert.throws(() => journal.check(), /ENOSPC/);
      });
      assert.equal(journal.check(), 'kept');
      journal.close();
      assert.deepEqual(scene.journal().claim(), [living]);
    }),
  );

  it(
    'that could not be created on a full disk is created at a later check, and locked',
    withJournals((scene) => {
      const journal = scene.journal();
      whileFailing('openSync', 'ENOSPC', () => {
        assert.deepEqual(journal.claim(), []);
        journal.write([living]);
        assert.equal(journal.check(), 'kept');
      });
      assert.equal(scene.warnings.length, 1);
      assert.match(scene.warnings.join(), /ENOSPC/);
      assert.equal(journal.check(), 'restored');
      assert.equal(journal.check(), 'kept');
      assert.throws(() => scene.journal().claim(), /is alive/);
      journal.close();
      assert.deepEqual(scene.journal().claim(), [living]);
    }),
  );

  it(
    'that could not be created is left to a dispatcher that has it by then, and to another service with living workers',
    withJournals((scene) => {
      const journal = scene.journal();
      whileFailing('openSync', 'ENOSPC', () => {
        assert.deepEqual(journal.claim(), []);
      });
      journal.write([{ ...living, id: 1 }]);
      const theirs = scene.journal(other);
      theirs.claim();
      theirs.write([living]);
      assert.equal(journal.check(), 'displaced');
      theirs.close();
      assert.equal(journal.check(), 'displaced');
      assert.deepEqual(scene.journal(other).claim(), [living]);
    }),
  );

  it(
    'is removed after an orderly end, which can be repeated',
    withJournals((scene) => {
      leave(scene, [living]);
      const journal = scene.journal();
      journal.claim();
      journal.remove();
      journal.remove();
      assert.equal(existsSync(scene.path), false);
      assert.deepEqual(scene.journal().claim(), []);
    }),
  );

  it(
    'does not follow a symbolic link',
    withJournals((scene) => {
      const victim = `${scene.directory}/victim`;
      writeFileSync(victim, 'precious');
      symlinkSync(victim, scene.path);
      const journal = scene.journal();
      assert.deepEqual(journal.claim(), []);
      journal.write([living]);
      assert.equal(readFileSync(victim, 'utf8'), 'precious');
      assert.match(scene.warnings.join(), /cannot be opened: ELOOP/);
    }),
  );

  it(
    'of an earlier release is read',
    withJournals((scene) => {
      const { id, identity, isChild, isLeaving } = living;
      writeFileSync(scene.path, JSON.stringify({ workers: [{ id, pid, identity, isChild, isLeaving }] }));
      assert.deepEqual(scene.journal().claim(), [living]);
    }),
  );

  it(
    'of another machine or container lists no worker',
    withJournals((scene) => {
      leave(scene, [living]);
      const record = readFileSync(scene.path, 'latin1').split('\n')[1] ?? '';
      writeFileSync(scene.path, asRecord(record));
      const here = scene.journal();
      assert.deepEqual(here.claim(), [living]);
      here.close();
      writeFileSync(scene.path, asRecord(record.replace(/"pidSpace":"[^"]*/, '$& elsewhere')));
      assert.deepEqual(scene.journal().claim(), []);
    }),
  );

  it(
    'that cannot be written gives a warning, and is still locked',
    withJournals(({ journal, warnings }) => {
      const words = ['run', 'a.js', 'x'.repeat(1024 * 1024)];
      assert.deepEqual(journal({ ...service, words }).claim(), []);
      assert.match(warnings.join(), /^The journal has room for \d+ bytes, not for the \d+ of this record$/);
      assert.throws(() => journal().claim(), /is alive/);
    }),
  );

  for (const [what, text] of [
    ['is cut off', '{"workers":[{"id":1'],
    ['has other contents', '{"workers":"all"}'],
    ['names a process that cannot be one', JSON.stringify({ workers: [{ ...living, pid: -1 }] })],
    ['is absurdly long', JSON.stringify({ workers: [living] }) + ' '.repeat(3 * 1024 * 1024) + '!'],
    ['has a wrong checksum', `1 14 7\n{"workers":[]}`],
  ] as const) {
    it(
      `that ${what} names no worker, and can be used`,
      withJournals((scene) => {
        writeFileSync(scene.path, text);
        const journal = scene.journal();
        assert.deepEqual(journal.claim(), []);
        journal.write([living]);
        journal.close();
        assert.deepEqual(scene.journal().claim(), [living]);
      }),
    );
  }
});
