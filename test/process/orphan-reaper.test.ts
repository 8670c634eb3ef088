// The first process of a container waits for orphans, also at its descriptor limit.
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { describeWithOnePython } from '../support/peers.js';
import { withPrograms } from '../support/program.js';

const fixture = fileURLToPath(new URL('fixtures/reap.js', import.meta.url));

/** A process that gets orphans from the kernel, as the first process of a container does (prctl(2)), and has few descriptors. */
const AS_FIRST = `
import ctypes, os, resource, sys
PR_SET_CHILD_SUBREAPER = 36
if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
    sys.exit('no orphans come here')
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
os.execv(sys.argv[1], sys.argv[1:])
`;

describeWithOnePython('the first process of a container', (python) => {
  it(
    'lives on when it has no descriptor left to find out which process has ended, and tries again later',
    withPrograms(async (start) => {
      const program = start(python.path, ['-c', AS_FIRST, process.execPath, fixture]);
      await program.line(/^at the limit$/);
      await program.line(/^lives$/);
      await program.line(/^reaped true$/);
      assert.equal(await program.exit, 0);
    }),
  );
});
