// What the kernel tells of connections that are closed here.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { describe, it } from 'node:test';

import { listen, socketPair, SocketDiagnostics } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { withoutIpv6 } from '../../support/listeners.js';

const withoutDiagnostics = ((): string | false => {
  using diagnostics = SocketDiagnostics.open();
  return diagnostics ? false : 'needs sock_diag(7) of Linux';
})();

describe('SocketDiagnostics', { skip: withoutDiagnostics }, () => {
  for (const [host, skip] of [
    ['127.0.0.1', false],
    ['::', withoutIpv6],
  ] as const) {
    it(
      `tells whether anybody holds a connection that came to ${host}`,
      { skip },
      keepsDescriptors(async () => {
        using diagnostics = SocketDiagnostics.open();
        assert.ok(diagnostics);
        await using acceptor = await listen({ host, port: 0 });
        const { address } = acceptor;
        assert.ok('port' in address);
        const client = connect(address.port, '127.0.0.1');
        const connection = await acceptor.accept();
        const identity = diagnostics.identify(connection);
        assert.ok(identity);
        assert.equal(diagnostics.isHeld(identity), true);
        {
          using other = connection.duplicate();
          connection.close();
          assert.equal(diagnostics.isHeld(identity), true);
          assert.ok(other.fd);
        }
        assert.equal(diagnostics.isHeld(identity), false);
        client.resume();
        await once(client, 'close');
        assert.equal(diagnostics.isHeld(identity), false);
      }),
    );
  }

  it(
    'knows no Unix socket, and can be closed twice',
    keepsDescriptors(() => {
      const diagnostics = SocketDiagnostics.open();
      const [first, second] = socketPair();
      {
        using duplicate = first.duplicate();
        assert.equal(diagnostics?.identify(duplicate), undefined);
      }
      first.destroy();
      second.destroy();
      diagnostics?.close();
      diagnostics?.close();
    }),
  );
});

describe('a socket that is shut down', () => {
  it(
    'still brings what had come, and lets the other end send no more',
    keepsDescriptors(async () => {
      const [first, second] = socketPair();
      using near = first;
      using far = second;
      await far.send(Buffer.from('before'));
      near.shutdown();
      await assert.rejects(far.send(Buffer.from('after')), { code: 'ERR_PEER_GONE' });
      assert.equal((await near.receive())?.bytes.toString(), 'before');
      assert.equal(await near.receive(), null);
      near.shutdown();
    }),
  );
});
