// Listeners: which socket is used after a crash, if several ways lead to the same address.
import assert from 'node:assert/strict';
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';

import { Listeners } from '../../../src/dispatcher/listeners.js';
import { listen } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { temporaryDirectory } from '../../support/files.js';

const anyPort = { host: '127.0.0.1', port: 0 };

/** The listeners of a dispatcher whose events are ignored. */
function listeners(): Listeners {
  const ignore = (): void => undefined;
  return new Listeners({
    opened: ignore,
    stranded: ignore,
    exchanged: ignore,
    closing: ignore,
    closed: ignore,
    refusedPeer: ignore,
    warned: ignore,
  });
}

async function close(all: Listeners): Promise<void> {
  for (const loop of [...all]) await all.close(loop);
  await all.closeReturned();
}

describe('an inherited socket that a worker brings back', () => {
  it(
    'is opened, whatever number it had in the process that died',
    keepsDescriptors(async () => {
      await using one = await listen(anyPort);
      await using other = await listen(anyPort);
      const all = listeners();
      // In the dead process, the two sockets had each other's number.
      await all.takeReturned({ key: `own-fd ${other.fd}` }, one.duplicate());
      await all.takeReturned({ key: `own-fd ${one.fd}` }, other.duplicate());
      for (const { fd, address } of [one, other]) {
        assert.deepEqual((await all.openOwn({ fd }, undefined)).address, address);
      }
      await close(all);
    }),
  );
});

describe('a socket that a worker brings back and whose file cannot be looked at', () => {
  it(
    'is closed',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/sub`;
      mkdirSync(path);
      await using kept = await listen(`${path}/listener`);
      renameSync(path, `${directory.path}/moved`);
      writeFileSync(path, 'no directory');
      const descriptor = kept.duplicate();
      await assert.rejects(listeners().takeReturned({ key: `wanted ${path}/listener` }, descriptor), {
        code: 'ENOTDIR',
      });
      assert.equal(descriptor.closed, true);
      rmSync(path);
      renameSync(`${directory.path}/moved`, path);
    }),
  );
});
