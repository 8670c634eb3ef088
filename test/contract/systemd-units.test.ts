// The units in docs/systemd, as systemd itself reads them.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { temporaryDirectory } from '../support/files.js';

const docs = fileURLToPath(new URL('../../../docs/', import.meta.url));
const units = readdirSync(join(docs, 'systemd'));

const withoutAnalyze =
  spawnSync('systemd-analyze', ['--version']).status === 0 ? false : 'needs systemd-analyze';

/** It is not installed where the tests run, and systemd looks whether it is there. */
const PROGRAM = '/usr/local/bin/passfd';

describe('a unit in the documentation', () => {
  it('is one that the page names', () => {
    const page = readFileSync(join(docs, 'systemd.md'), 'utf8');
    assert.deepEqual(units.sort(), ['passfd-activated.service', 'passfd-activated.socket', 'passfd.service']);
    for (const path of page.matchAll(/\]\((systemd\/[^)]+)\)/g)) {
      assert.ok(readFileSync(join(docs, path[1] ?? '')));
    }
  });

  for (const unit of units) {
    it(`has nothing that systemd does not understand: ${unit}`, { skip: withoutAnalyze }, async () => {
      await using directory = await temporaryDirectory();
      for (const name of units) {
        const text = readFileSync(join(docs, 'systemd', name), 'utf8');
        writeFileSync(join(directory.path, name), text.replaceAll(PROGRAM, process.execPath));
      }
      const { status, stderr } = spawnSync('systemd-analyze', ['verify', join(directory.path, unit)], {
        encoding: 'utf8',
      });
      assert.deepEqual({ status, stderr }, { status: 0, stderr: '' });
    });
  }
});
