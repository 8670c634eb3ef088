// Crowd: which peer gives way when too many have not authenticated.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { connect, listen, PassfdError, socketPair, type StreamSocket } from '../../../src/fd/index.js';
import { Listener } from '../../../src/multiprocessing/index.js';
import { Crowd, originOf, type Origin } from '../../../src/multiprocessing/internal.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { temporaryDirectory } from '../../support/files.js';
import { turns } from '../../support/loop.js';

function from(user: string, process: string): Origin {
  return { user, process, isTrusted: user === 'own' || user === 'root' };
}

/** A full crowd of these members, each `user process`, and the member that gives way to one more. */
function outgoing(members: readonly string[], newcomer: string): string | undefined {
  const crowd = new Crowd<string>(members.length);
  for (const [index, name] of members.entries()) enter(crowd, `${index} ${name}`);
  const out = enter(crowd, `new ${newcomer}`);
  assert.equal(crowd.size, members.length);
  assert.ok(![...crowd].includes(out ?? ''));
  return out;
}

function enter(crowd: Crowd<string>, member: string): string | undefined {
  const [, user = '', process = ''] = member.split(' ');
  return crowd.enter(member, from(user, process));
}

describe('a crowd', () => {
  it('has room up to its limit, and again when a member has left', () => {
    const crowd = new Crowd<string>(2);
    assert.equal(enter(crowd, '1 own 1'), undefined);
    assert.equal(enter(crowd, '2 own 1'), undefined);
    crowd.delete('1 own 1');
    assert.equal(enter(crowd, '3 own 1'), undefined);
    assert.equal(enter(crowd, '4 own 1'), '2 own 1');
    assert.deepEqual([...crowd], ['3 own 1', '4 own 1']);
  });

  for (const [name, members, newcomer, expected] of [
    ['the oldest of the user with the most', ['a 1', 'b 2', 'b 2', 'b 2'], 'c 3', '1 b 2'],
    ['the user that floods, and no other, for one more of its own', ['a 1', 'b 2', 'b 2'], 'b 2', '1 b 2'],
    ['the process with the most of that user', ['b 1', 'b 2', 'b 2'], 'b 3', '1 b 2'],
    ['the own process, of the same user, that floods', ['own 1', 'own 2', 'own 2'], 'own 1', '0 own 1'],
    ['another user before root and the own one, of equals', ['root 1', 'own 2', 'b 3'], 'c 4', '2 b 3'],
    ['root where root floods', ['root 1', 'root 1', 'root 1', 'b 2'], 'b 3', '0 root 1'],
  ] as const) {
    it(`has give way: ${name}`, () => {
      assert.equal(outgoing(members, newcomer), expected);
    });
  }

  it('never has more members than its limit', () => {
    for (const members of [['root 1'], ['root 1', 'own 2'], ['a 1']]) {
      assert.equal(outgoing(members, 'new 9'), `0 ${members[0] ?? ''}`);
    }
  });
});

describe('the origin of a peer', () => {
  it(
    'is its user and process over a Unix socket, and its host over TCP',
    keepsDescriptors(async () => {
      const [here, there] = socketPair();
      using end = here;
      using other = there;
      const uid = String(process.getuid?.());
      assert.deepEqual(originOf(end), { user: uid, process: String(process.pid), isTrusted: true });
      other.destroy();
      end.destroy();
      assert.deepEqual(originOf(end), { user: '', process: '', isTrusted: false });
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using client = await connect(acceptor.address);
      assert.deepEqual(originOf(client), { user: '127.0.0.1', process: '127.0.0.1', isTrusted: false });
    }),
  );
});

describe('a listener with its maximum of handshakes', () => {
  it(
    'ends none of them for a peer that may not connect',
    keepsDescriptors(async () => {
      const MAX_HANDSHAKES = 64;
      let isDenied = false;
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/listener`;
      await using listener = await Listener(path, {
        authkey: 'key',
        checkPeer: () => {
          if (isDenied) throw new PassfdError('ERR_PEER_DENIED', 'not this one');
        },
      });
      const refused: string[] = [];
      listener.on('refused', ({ code }) => refused.push(code));
      const accepting = listener.accept().catch((error: unknown) => error);
      const clients: StreamSocket[] = [];
      try {
        for (let count = 0; count < MAX_HANDSHAKES; count++) {
          const client = await connect(path);
          clients.push(client);
          // It is in its handshake: the challenge was sent.
          await client.untilReadable();
        }
        isDenied = true;
        const denied = await connect(path);
        clients.push(denied);
        await denied.untilReadable();
        await turns();
        assert.deepEqual(refused, ['ERR_PEER_DENIED']);
      } finally {
        for (const client of clients) client.destroy();
      }
      await listener.close();
      await accepting;
    }),
  );
});
