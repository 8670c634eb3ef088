// matchListeners: finds the inherited socket of an address, however the address is written.
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { describe, it } from 'node:test';

import { listen, type Acceptor, type Address, type TcpAddress } from '../../../src/fd/index.js';
import { matchListeners, type InheritedDescriptor, type Surroundings } from '../../../src/systemd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { openFile, temporaryDirectory } from '../../support/files.js';
import { withoutIpv6 } from '../../support/listeners.js';

const surroundings: Surroundings = {
  resolveHost: (host) =>
    host === 'localhost' ? Promise.resolve('127.0.0.1') : Promise.reject(new Error('no such host')),
  hasIpv6: () => true,
  isSocketFile: () => true,
};

/** Lends listening sockets to a test, as if they were inherited. */
async function withInherited(
  addresses: Readonly<Record<string, Address>>,
  body: (inherited: readonly InheritedDescriptor[], own: readonly Address[]) => Promise<void>,
): Promise<void> {
  const acceptors: Acceptor[] = [];
  const inherited: InheritedDescriptor[] = [];
  try {
    for (const [name, address] of Object.entries(addresses)) {
      const acceptor = await listen(address);
      acceptors.push(acceptor);
      inherited.push({ name, descriptor: acceptor.duplicate() });
    }
    await body(
      inherited,
      acceptors.map(({ address }) => address),
    );
  } finally {
    for (const { descriptor } of inherited) descriptor.close();
    for (const acceptor of acceptors) await acceptor.close();
  }
}

const anyPort = { host: '127.0.0.1', port: 0 };

/** The names of the sockets that were found, and of the others. */
async function namesOf(
  inherited: readonly InheritedDescriptor[],
  wanted: readonly Address[],
  around: Partial<Surroundings> = {},
): Promise<[found: (string | undefined)[], rest: string[]]> {
  const { found, rest, useless } = await matchListeners(inherited, wanted, { ...surroundings, ...around });
  return [found.map((one) => one?.name), [...rest, ...useless].map(({ name }) => name)];
}

describe('an inherited listening socket', () => {
  it(
    'is found by its TCP address, in the order of the wanted addresses; the rest is listed',
    keepsDescriptors(() =>
      withInherited({ a: anyPort, b: anyPort, c: anyPort }, async (inherited, [a, b]) => {
        assert.ok(a && b);
        const elsewhere = { host: '127.0.0.2', port: (a as TcpAddress).port };
        assert.deepEqual(await namesOf(inherited, [b, elsewhere, a]), [['b', undefined, 'a'], ['c']]);
        assert.equal(inherited[0]?.descriptor.closed, false);
      }),
    ),
  );

  it(
    'is found by a host name, but not by one without an address',
    keepsDescriptors(() =>
      withInherited({ a: anyPort }, async (inherited, [own]) => {
        const { port } = own as TcpAddress;
        assert.deepEqual(await namesOf(inherited, [{ host: 'nowhere', port }]), [[undefined], ['a']]);
        assert.deepEqual(await namesOf(inherited, [{ host: 'localhost', port }]), [['a'], []]);
      }),
    ),
  );

  it(
    'is found by its IPv6 address in any spelling',
    { skip: withoutIpv6 },
    keepsDescriptors(() =>
      withInherited({ a: { host: '::1', port: 0 } }, async (inherited, [own]) => {
        const { port } = own as TcpAddress;
        assert.deepEqual(await namesOf(inherited, [{ host: '0:0::0:1', port }]), [['a'], []]);
        assert.deepEqual(await namesOf(inherited, [{ host: '127.0.0.1', port }]), [[undefined], ['a']]);
      }),
    ),
  );

  it(
    'at 0.0.0.0 is found for :: only on a machine without IPv6',
    keepsDescriptors(() =>
      withInherited({ a: { host: '0.0.0.0', port: 0 } }, async (inherited, [own]) => {
        const wanted = [{ host: '::', port: (own as TcpAddress).port }];
        assert.deepEqual(await namesOf(inherited, wanted), [[undefined], ['a']]);
        assert.deepEqual(await namesOf(inherited, wanted, { hasIpv6: () => false }), [['a'], []]);
      }),
    ),
  );

  it(
    'is never found for port 0, which means any free port',
    keepsDescriptors(() =>
      withInherited({ a: anyPort }, async (inherited) => {
        assert.deepEqual(await namesOf(inherited, [anyPort]), [[undefined], ['a']]);
      }),
    ),
  );

  it(
    'is found by its path if clients can reach it there, or by its abstract name',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/s`;
      const abstract = `\0${path}`;
      await withInherited({ a: { path }, b: { path: abstract } }, async (inherited) => {
        const wanted = [{ path: `${directory.path}/.//s` }, { path: abstract }];
        const names = async (): Promise<(string | undefined)[]> =>
          (await matchListeners(inherited, wanted)).found.map((one) => one?.name);
        assert.deepEqual(await names(), ['a', 'b']);
        await rm(path);
        assert.deepEqual(await names(), [undefined, 'b']);
      });
    }),
  );

  it(
    'is found once, and another one with the same address for the next request',
    keepsDescriptors(() =>
      withInherited({ a: anyPort }, async ([one], [own]) => {
        assert.ok(one && own);
        using descriptor = one.descriptor.duplicate();
        const inherited = [one, { name: 'stored', descriptor }];
        assert.deepEqual(await namesOf(inherited, [own]), [['a'], ['stored']]);
        assert.deepEqual(await namesOf(inherited, [own, own, own]), [['a', 'stored', undefined], []]);
      }),
    ),
  );

  it(
    'is not found when it is closed, or no listening socket',
    keepsDescriptors(() =>
      withInherited({ a: anyPort }, async ([one], [own]) => {
        assert.ok(one && own);
        using descriptor = openFile('a file');
        one.descriptor.close();
        const inherited = [{ name: 'file', descriptor }, one];
        assert.deepEqual(await namesOf(inherited, [own]), [[undefined], ['file', 'a']]);
      }),
    ),
  );
});
