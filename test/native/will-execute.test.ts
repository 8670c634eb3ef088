// The executor of a last will runs where the C library does not work: in a clone of a process with threads, after most of
// its memory was unmapped.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

const object = fileURLToPath(
  new URL('../../../native/build/Release/obj.target/passfd/will_execute.o', import.meta.url),
);

/** For compilers that guard stacks by default. It is called only if a stack is already broken. */
const GUARD = '__stack_chk_fail';

describe('the executor of a last will', () => {
  it('refers to nothing outside of its file', (context) => {
    const { error, status, stdout, stderr } = spawnSync('nm', ['-u', object], { encoding: 'utf8' });
    if (error) {
      context.skip(`no nm: ${error.message}`);
      return;
    }
    assert.equal(status, 0, stderr);
    const symbols = stdout.split('\n').flatMap((line) => /U (\w+)/.exec(line)?.[1] ?? []);
    assert.deepEqual(
      symbols.filter((symbol) => symbol !== GUARD),
      [],
    );
  });
});
