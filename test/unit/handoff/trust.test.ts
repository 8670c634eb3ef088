// Trust: which dispatcher is trusted, by its user and by the directories of its control path.
import assert from 'node:assert/strict';
import { chmodSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { checkDispatcher, trustedUsers } from '../../../src/handoff/index.js';
import { failsWith } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';

const own = process.getuid?.() ?? 0;
const other = own + 4711;

function peer(uid: number): { readonly pid: number; readonly uid: number; readonly gid: number } {
  return { pid: 1, uid, gid: 1 };
}

describe('the users that are trusted', () => {
  it('are root, the own user and those that are named', () => {
    assert.deepEqual(trustedUsers([], {}), new Set([0, own]));
    assert.deepEqual(trustedUsers([7, 8], { PASSFD_TRUST_UIDS: '9,10' }), new Set([0, own, 7, 8, 9, 10]));
    assert.deepEqual(trustedUsers([], { PASSFD_TRUST_UIDS: '' }), new Set([0, own]));
  });

  it('are numbers: a name, a fraction or a list with a gap is refused', () => {
    for (const text of ['web', '1,', ',', '1.5', '0x1', '-1', '4294967295', ' 1']) {
      assert.throws(
        () => trustedUsers([], { PASSFD_TRUST_UIDS: text }),
        failsWith('ERR_PEER_DENIED', /PASSFD_TRUST_UIDS must be user ids/),
      );
    }
  });
});

describe('a dispatcher', () => {
  it('is trusted when its user is, also at an abstract name', () => {
    checkDispatcher('\0name', peer(own), trustedUsers([], {}));
    checkDispatcher('\0name', peer(other), trustedUsers([other], {}));
    assert.throws(
      () => {
        checkDispatcher('\0name', peer(other), trustedUsers([], {}));
      },
      failsWith('ERR_PEER_DENIED', new RegExp(`process 1 of user ${other} listens .*--trust-uid ${other}$`)),
    );
  });

  it('is not trusted at a path that any user may replace, and is at one that only its owner may', async () => {
    await using directory = await temporaryDirectory();
    const path = `${directory.path}/control`;
    const check = (): void => {
      checkDispatcher(path, peer(own), trustedUsers([], {}));
    };
    assert.throws(check, failsWith('ERR_ADDRESS_MISSING', /is gone/));
    writeFileSync(path, '');
    check();
    chmodSync(directory.path, 0o777);
    assert.throws(check, failsWith('ERR_PEER_DENIED', /anyone may replace files in .*chmod o-w/));
    chmodSync(directory.path, 0o1777);
    check();
    symlinkSync(path, `${directory.path}/link`);
    checkDispatcher(`${directory.path}/link`, peer(own), trustedUsers([], {}));
  });
});
