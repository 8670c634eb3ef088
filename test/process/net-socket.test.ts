// A net.Socket moves to another process, with every byte and without a trace here.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';

import { keepsDescriptors } from '../support/descriptors.js';
import { Child } from '../support/child.js';
import { turns } from '../support/loop.js';
import { inConnectionEvent, textUntilEnd, transports } from '../support/node-net.js';

for (const transport of transports) {
  describe(`a net.Socket over ${transport} that is passed to another process`, () => {
    it(
      'is served there with every byte that its client sent, before and after',
      keepsDescriptors(async () => {
        await using child = new Child('adopt');
        await inConnectionEvent(transport, async ({ client, socket }) => {
          client.write('before ');
          await child.channel.send(Buffer.from('x'), [socket]);
          assert.equal(socket.destroyed, true);
          client.end('after '.repeat(100_000));
          const { name } = await child.next<{ name: string }>();
          assert.equal(name, 'Socket');
          assert.ok((await textUntilEnd(client)) === `BEFORE ${'AFTER '.repeat(100_000)}`);
        });
        assert.equal(await child.exit, 0);
      }),
    );

    it(
      'shows its client no end until the receiver ends it, and then shows it',
      keepsDescriptors(async () => {
        await using child = new Child('hold');
        await inConnectionEvent(transport, async ({ client, socket }) => {
          const ended = once(client, 'end');
          client.resume();
          await child.channel.send(Buffer.from('x'), [socket]);
          assert.equal(await child.next(), 'held');
          const word = once(client, 'data');
          await child.channel.send(Buffer.from('write'));
          assert.equal(String((await word)[0]), 'word');
          await turns();
          assert.equal(client.readableEnded, false);
          await child.channel.send(Buffer.from('end'));
          await ended;
          client.end('still heard');
          assert.equal(await child.next(), 'still heard');
        });
        assert.equal(await child.exit, 0);
      }),
    );

    it(
      'shows its client the end when the receiver dies: no duplicate is forgotten here',
      keepsDescriptors(async () => {
        await using child = new Child('hold');
        await inConnectionEvent(transport, async ({ client, socket }) => {
          const over = once(client, 'close');
          client.removeAllListeners('error').on('error', ({ code }: NodeJS.ErrnoException) => {
            assert.equal(code, 'ECONNRESET');
          });
          client.resume();
          client.on('end', () => client.destroy());
          await child.channel.send(Buffer.from('x'), [socket]);
          assert.equal(await child.next(), 'held');
          await child.channel.send(Buffer.from('die'));
          await over;
        });
        assert.equal(await child.exit, 'SIGKILL');
      }),
    );
  });
}
