// listen and connect over TCP.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { describe as describeFd } from '../../../src/fd/descriptor.js';
import { connect, listen, StreamSocket, type TcpAddress } from '../../../src/fd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { causedBy } from '../../support/errors.js';
import { withoutIpv6 } from '../../support/listeners.js';
import { receivedText } from '../../support/stream.js';

const x = Buffer.from('x');

async function isServed(address: TcpAddress, asked: TcpAddress = address): Promise<void> {
  await using acceptor = await listen(asked.port === 0 ? asked : { ...asked, port: 0 });
  const { port } = acceptor.address as TcpAddress;
  using client = await connect({ ...address, port });
  using server = new StreamSocket(await acceptor.accept());
  await client.send(x);
  assert.equal(await receivedText(server), 'x');
  assert.equal((server.localAddress as TcpAddress).port, port);
  assert.equal((server.remoteAddress as TcpAddress).port, (client.localAddress as TcpAddress).port);
}

describe('listen and connect over TCP', () => {
  it(
    'meet at an IPv4 address, and the acceptor reports the free port that port 0 gave',
    keepsDescriptors(async () => {
      await isServed({ host: '127.0.0.1', port: 0 });
      await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const { host, port } = acceptor.address as TcpAddress;
      assert.equal(host, '127.0.0.1');
      assert.ok(port > 0);
    }),
  );

  it(
    'meet at an IPv6 address',
    { skip: withoutIpv6 },
    keepsDescriptors(async () => {
      await isServed({ host: '::1', port: 0 });
      await using acceptor = await listen({ host: '::1', port: 0 });
      assert.equal((acceptor.address as TcpAddress).host, '::1');
      assert.equal(describeFd(acceptor.fd).family, 'ipv6');
    }),
  );

  it(
    'meet at a name',
    keepsDescriptors(async () => {
      await isServed({ host: 'localhost', port: 0 });
      await isServed({ host: 'localhost', port: 0 }, { host: '127.0.0.1', port: 0 });
    }),
  );

  it(
    'meet at :: over IPv4 too, unless ipv6Only is set',
    { skip: withoutIpv6 },
    keepsDescriptors(async () => {
      await isServed({ host: '127.0.0.1', port: 0 }, { host: '::', port: 0 });
      await using only = await listen({ host: '::', port: 0 }, { ipv6Only: true });
      const { port } = only.address as TcpAddress;
      await assert.rejects(connect({ host: '127.0.0.1', port }), { code: 'ERR_CONNECTION_REFUSED' });
      using client = await connect({ host: '::1', port });
      using accepted = await only.accept();
      assert.equal(accepted.closed || client.closed, false);
    }),
  );

  it(
    'refuse a port in use, and a port without a listener',
    keepsDescriptors(async () => {
      const acceptor = await listen({ host: '127.0.0.1', port: 0 });
      const { address } = acceptor;
      await assert.rejects(listen(address), causedBy('ERR_ADDRESS_IN_USE', 'EADDRINUSE', /127\.0\.0\.1:\d+/));
      await acceptor.close();
      await assert.rejects(connect(address), causedBy('ERR_CONNECTION_REFUSED', 'ECONNREFUSED'));
      await (await listen(address)).close();
    }),
  );

  it(
    'refuse an address that this machine does not have, and a name that has none',
    keepsDescriptors(async () => {
      await assert.rejects(
        listen({ host: '192.0.2.1', port: 0 }), // TEST-NET-1, RFC 5737
        causedBy('ERR_ADDRESS', 'EADDRNOTAVAIL'),
      );
      const nameless = { host: 'x'.repeat(300), port: 1 };
      await assert.rejects(listen(nameless), { code: 'ERR_ADDRESS' });
      await assert.rejects(connect(nameless), { code: 'ERR_ADDRESS' });
      await assert.rejects(connect({ ...nameless, host: 'y'.repeat(300) }, { waitForListener: true }), {
        code: 'ERR_ADDRESS',
      });
    }),
  );

  it(
    'reject wrong arguments',
    keepsDescriptors(async () => {
      const host = '127.0.0.1';
      for (const port of [-1, 65_536, 1.5, NaN, '80', null, undefined]) {
        await assert.rejects(listen({ host, port: port as number }), TypeError);
        await assert.rejects(connect({ host, port: port as number }), TypeError);
      }
      for (const wrong of ['', 7, null, undefined]) {
        await assert.rejects(listen({ host: wrong as string, port: 0 }), TypeError);
        await assert.rejects(connect({ host: wrong as string, port: 0 }), TypeError);
      }
      await assert.rejects(listen({ host, port: 0 }, { backlog: -1 }), TypeError);
    }),
  );
});
