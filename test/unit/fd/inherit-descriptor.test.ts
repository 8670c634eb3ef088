// inheritDescriptor: a descriptor that a process was started with becomes its own, and no child inherits it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';

import { inheritDescriptor } from '../../../src/fd/index.js';
import { failsWith } from '../../support/errors.js';
import { NOBODYS_NUMBER } from '../../support/files.js';
import { withoutPython } from '../../support/python.js';

// At its start Node makes descriptors from 0 on close-on-exec, and stops at the first gap after 15.
const BEHIND_A_GAP = 200;

/** Becomes a program that was started with such a descriptor. */
const starter = `import os, sys
os.dup2(0, ${BEHIND_A_GAP})
os.execv(sys.argv[1], sys.argv[1:])`;

const program = `
  import { readFileSync } from 'node:fs';
  import { inheritDescriptor } from ${JSON.stringify(new URL('../../../src/fd/index.js', import.meta.url))};
  const O_CLOEXEC = 0o2000000;
  const isCloseOnExec = () => {
    const [, flags] = /flags:\\s*(\\d+)/.exec(readFileSync('/proc/self/fdinfo/${BEHIND_A_GAP}', 'utf8'));
    return (parseInt(flags, 8) & O_CLOEXEC) !== 0;
  };
  const before = isCloseOnExec();
  const descriptor = inheritDescriptor(${BEHIND_A_GAP});
  console.log(descriptor.fd, before, isCloseOnExec());`;

describe('inheritDescriptor', () => {
  it(
    'makes a descriptor close-on-exec, so that no child of this process gets it',
    { skip: withoutPython },
    () => {
      const node = [process.execPath, '--input-type=module', '--eval', program];
      const { stdout, stderr } = spawnSync('python3', ['-c', starter, ...node], { encoding: 'utf8' });
      assert.deepEqual({ stdout, stderr }, { stdout: `${BEHIND_A_GAP} false true\n`, stderr: '' });
    },
  );

  it('fails when no descriptor has the number', () => {
    assert.throws(
      () => inheritDescriptor(NOBODYS_NUMBER),
      failsWith('ERR_DESCRIPTOR_CLOSED', /this process was not started with it/),
    );
    assert.throws(() => inheritDescriptor(-1), TypeError);
  });
});
