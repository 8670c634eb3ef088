// Two processes that replace the same stale socket file: one of them gets it, and its socket works.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { Child } from '../support/child.js';
import { keepsDescriptors } from '../support/descriptors.js';
import { temporaryDirectory } from '../support/files.js';
import { leaveSocketFile } from '../support/listeners.js';

const ROUNDS = 20;

describe('processes that listen at the same stale path at the same time', () => {
  it(
    'get the path exactly once',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      await using left = new Child('race');
      await using middle = new Child('race');
      await using right = new Child('race');
      const children = [left, middle, right];
      for (const child of children) assert.equal(await child.next(), 'ready');
      for (let round = 0; round < ROUNDS; round++) {
        const path = `${directory.path}/${round}`;
        await leaveSocketFile(path);
        for (const child of children) await child.channel.send(Buffer.from(path));
        const outcomes = await Promise.all(children.map((child) => child.next<string>()));
        assert.deepEqual(
          outcomes.sort(),
          ['ERR_ADDRESS_IN_USE', 'ERR_ADDRESS_IN_USE', 'won'],
          `round ${round}`,
        );
      }
      for (const child of children) {
        await child.channel.close();
        assert.equal(await child.exit, 0);
      }
    }),
  );
});
