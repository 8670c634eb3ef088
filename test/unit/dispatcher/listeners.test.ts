// Listeners: which socket is opened again behind a crash, where several ways lead to the same one.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Listeners } from '../../../src/dispatcher/listeners.js';
import { listen } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';

const anyPort = { host: '127.0.0.1', port: 0 };

/** Those of a dispatcher whose events nobody wants. */
function listeners(): Listeners {
  const ignore = (): void => undefined;
  return new Listeners({ opened: ignore, closing: ignore, closed: ignore, warned: ignore });
}

async function close(all: Listeners): Promise<void> {
  for (const loop of [...all]) await all.close(loop);
  await all.closeReturned();
}

describe('an inherited socket that a worker brings back', () => {
  it(
    'is the one that is opened, whatever number it had in the process that died',
    keepsDescriptors(async () => {
      await using one = await listen(anyPort);
      await using other = await listen(anyPort);
      const all = listeners();
      // The numbers have changed places.
      await all.takeReturned(`own-fd ${other.fd}`, one.duplicate());
      await all.takeReturned(`own-fd ${one.fd}`, other.duplicate());
      for (const { fd, address } of [one, other]) {
        assert.deepEqual((await all.openOwn({ fd }, undefined)).address, address);
      }
      await close(all);
    }),
  );
});
