// What the kernel reports about connections that this process has closed.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectNode } from 'node:net';
import { describe, it } from 'node:test';

import { connect, listen } from '../../../src/fd/index.js';
import { SocketDiagnostics } from '../../../src/fd/internal.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { temporaryDirectory } from '../../support/files.js';
import { withoutIpv6 } from '../../support/listeners.js';
import { fromPython, withoutPython } from '../../support/python.js';

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
      `reports whether any process holds a connection to ${host}`,
      { skip },
      keepsDescriptors(async () => {
        using diagnostics = SocketDiagnostics.open();
        assert.ok(diagnostics);
        await using acceptor = await listen({ host, port: 0 });
        const { address } = acceptor;
        assert.ok('port' in address);
        const client = connectNode(address.port, '127.0.0.1');
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
    'reports whether any process holds a connection to a Unix socket',
    keepsDescriptors(async () => {
      using diagnostics = SocketDiagnostics.open();
      await using directory = await temporaryDirectory();
      await using acceptor = await listen(`${directory.path}/socket`);
      using client = await connect(acceptor.address);
      const connection = await acceptor.accept();
      const identity = diagnostics?.identify(connection);
      assert.ok(identity);
      {
        using other = connection.duplicate();
        connection.close();
        assert.equal(diagnostics?.isHeld(identity), true);
        assert.ok(other.fd);
      }
      assert.equal(diagnostics.isHeld(identity), false);
      assert.equal(client.closed, false);
    }),
  );

  it(
    'identifies no listener, and throws for a descriptor that is closed',
    keepsDescriptors(async () => {
      using diagnostics = SocketDiagnostics.open();
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using listener = acceptor.duplicate();
      assert.equal(diagnostics?.identify(listener), undefined);
      listener.close();
      assert.throws(() => diagnostics?.identify(listener), { code: 'ERR_DESCRIPTOR_CLOSED' });
    }),
  );

  it(
    'identifies no connection that the kernel would not find, rather than call it closed',
    { skip: withoutPython },
    keepsDescriptors(async () => {
      using diagnostics = SocketDiagnostics.open();
      using message = await fromPython(`
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
listener.bind(("127.0.0.1", 0))
listener.listen()
client = socket.create_connection(listener.getsockname())
bound, _ = listener.accept()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(("127.0.0.1", 9))
socket.send_fds(channel, [b"x"], [bound.fileno(), client.fileno(), udp.fileno()])`);
      const identities = message.descriptors.map((descriptor) => diagnostics?.identify(descriptor));
      assert.deepEqual(
        identities.map((identity) => identity !== undefined),
        [false, true, false],
      );
    }),
  );

  it(
    'can be closed twice, and then cannot be asked any more',
    keepsDescriptors(async () => {
      const diagnostics = SocketDiagnostics.open();
      assert.ok(diagnostics);
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      using client = await connect(acceptor.address);
      using connection = client.release();
      const identity = diagnostics.identify(connection);
      assert.ok(identity);
      diagnostics.close();
      diagnostics.close();
      assert.throws(() => diagnostics.isHeld(identity), { code: 'ERR_DESCRIPTOR_CLOSED' });
      assert.throws(() => diagnostics.identify(connection), { code: 'ERR_DESCRIPTOR_CLOSED' });
    }),
  );
});
