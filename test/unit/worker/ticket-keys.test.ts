// Shared ticket keys: which sessions a TLS server resumes, and which it must not resume.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createSecureServer as createHttp2Server } from 'node:http2';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { describe, it } from 'node:test';
import { createSecureContext, createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';

import { TicketSecret } from '../../../src/handoff/index.js';
import { shareTickets, stopSharingTickets, ticketSecretOf } from '../../../src/worker/ticket-keys.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { app } from '../../support/passfd.js';
import { visit } from '../../support/tls-client.js';

const key = readFileSync(app('key.pem'));
const cert = readFileSync(app('certificate.pem'));
/** A self-signed certificate. It is also the authority, so a client that presents it is accepted. */
const ca = cert;

const VERSIONS = ['TLSv1.2', 'TLSv1.3'] as const;

/** Answers with what Node reports of the client, and ends. */
function onClient(socket: TLSSocket): void {
  socket.on('error', () => undefined);
  socket.once('data', () => {
    socket.end(socket.authorized ? 'authorized' : 'a stranger');
  });
}

function serverWith(options: TlsOptions): Server {
  return createServer({ key, cert, ...options }, onClient).on('tlsClientError', () => undefined);
}

/** Two servers with the same secret, as in two processes. */
function sharing(secret: TicketSecret, options: TlsOptions): Server {
  const server = serverWith(options);
  shareTickets(server, secret);
  return server;
}

interface Client {
  readonly version: (typeof VERSIONS)[number];
  readonly certificate?: boolean;
  readonly servername?: string;
}

/** The result of resuming a session of the first server at the second one. */
async function carried(
  from: Server,
  to: Server,
  { version, certificate = false, servername = 'localhost' }: Client,
): Promise<{ readonly isResumed: boolean; readonly said: string }> {
  const options = {
    ca,
    servername,
    minVersion: version,
    maxVersion: version,
    checkServerIdentity: () => undefined,
    ...(certificate && { key, cert }),
  };
  const { session } = await visit(await portOf(from), options);
  assert.ok(session, 'the first server gives a session');
  try {
    const { isResumed, said } = await visit(await portOf(to), { ...options, session });
    return { isResumed, said };
  } catch {
    return { isResumed: false, said: 'refused' };
  } finally {
    from.close();
    to.close();
  }
}

async function portOf(server: Server): Promise<number> {
  if (!server.listening) await once(server.listen(0, '127.0.0.1'), 'listening');
  return (server.address() as AddressInfo).port;
}

function keysOf(server: Server): string {
  return server.getTicketKeys().toString('hex');
}

const mutual: TlsOptions = { requestCert: true, ca };
const secret = TicketSecret.create(0);

for (const version of VERSIONS) {
  describe(`a session of ${version}`, () => {
    it(
      'is resumed by another server that shares the secret',
      keepsDescriptors(async () => {
        const [first, second] = [sharing(secret, {}), sharing(secret, {})];
        const { isResumed } = await carried(first, second, { version });
        assert.equal(isResumed, true);
      }),
    );

    it(
      'is not resumed by a server with another secret',
      keepsDescriptors(async () => {
        const [first, second] = [sharing(secret, {}), sharing(TicketSecret.create(0), {})];
        const { isResumed } = await carried(first, second, { version });
        assert.equal(isResumed, false);
      }),
    );

    it(
      'is resumed with the client certificate that was shown',
      keepsDescriptors(async () => {
        const [first, second] = [sharing(secret, mutual), sharing(secret, mutual)];
        const outcome = await carried(first, second, { version, certificate: true });
        assert.deepEqual(outcome, { isResumed: true, said: 'authorized' });
      }),
    );

    it(
      'is resumed for a name that has a certificate of its own',
      keepsDescriptors(async () => {
        const servers = [sharing(secret, {}), sharing(secret, {})] as const;
        for (const server of servers) server.addContext('other.example', { key, cert });
        const { isResumed } = await carried(...servers, { version, servername: 'other.example' });
        assert.equal(isResumed, true);
      }),
    );

    it(
      'of a server that asks for no certificate is not accepted where one is required',
      keepsDescriptors(async () => {
        const outcome = await carried(sharing(secret, {}), sharing(secret, mutual), { version });
        assert.equal(outcome.isResumed, false);
        assert.notEqual(outcome.said, 'authorized');
      }),
    );

    const refusals: readonly (readonly [name: string, before: TlsOptions, after: TlsOptions])[] = [
      [
        'a server that lets in clients without a certificate, too',
        { ...mutual, rejectUnauthorized: false },
        mutual,
      ],
      ['a server that trusts more authorities', { ...mutual, ca: [ca, ca] }, mutual],
      ['a server that takes weaker ciphers', { ...mutual, ciphers: 'ALL' }, mutual],
      ['a server with a longer session timeout', { ...mutual, sessionTimeout: 9999 }, mutual],
    ];
    for (const [name, before, after] of refusals) {
      it(
        `is not resumed after ${name}`,
        keepsDescriptors(async () => {
          const servers = [sharing(secret, before), sharing(secret, after)] as const;
          const { isResumed } = await carried(...servers, { version, certificate: true });
          assert.equal(isResumed, false);
        }),
      );
    }

    it(
      'is not resumed after a server with another authority for one of its names',
      keepsDescriptors(async () => {
        const servers = [sharing(secret, mutual), sharing(secret, mutual)] as const;
        servers[0].addContext('other.example', { key, cert, ca: [ca, ca] });
        servers[1].addContext('other.example', { key, cert, ca });
        const { isResumed } = await carried(...servers, {
          version,
          certificate: true,
          servername: 'other.example',
        });
        assert.equal(isResumed, false);
      }),
    );
  });
}

const closesUnverified = Number(process.versions.node.split('.')[0]) >= 24;

// The reason for all of this. It shows that the tests above can fail.
it(
  'a client without a certificate is authorized where common keys are set, by a session of 1.3',
  { skip: closesUnverified && 'this release of Node closes the connection, as seen with 24.22 and 26.12' },
  keepsDescriptors(async () => {
    const ticketKeys = Buffer.alloc(48, 1);
    const servers = [serverWith({ ticketKeys }), serverWith({ ...mutual, ticketKeys })] as const;
    const outcome = await carried(...servers, { version: 'TLSv1.3' });
    assert.deepEqual(outcome, { isResumed: true, said: 'authorized' });
  }),
);

describe('a server whose authorization cannot be compared with that of another process', () => {
  const named = (context: Parameters<Server['addContext']>[1]) => (server: Server) => {
    server.addContext('other.example', context);
  };
  const cases: readonly (readonly [name: string, options: TlsOptions, prepare?: (server: Server) => void])[] =
    [
      ['trusts the authorities of the system', { requestCert: true }],
      ['chooses contexts by a function', { ...mutual, SNICallback: () => undefined }],
      ['knows keys by a function', { pskCallback: () => null }],
      ['has a context that was made before', mutual, named(createSecureContext({ key, cert, ca }))],
      ['has a context that trusts the system', mutual, named({ key, cert })],
    ];
  for (const [name, options, prepare] of cases) {
    it(`has keys of its own: one that ${name}`, () => {
      const servers = [sharing(secret, options), sharing(secret, options)] as const;
      for (const server of servers) prepare?.(server);
      assert.notEqual(keysOf(servers[0]), keysOf(servers[1]));
    });
  }

  it('gives shared keys up when it becomes one', () => {
    const servers = [sharing(secret, mutual), sharing(secret, mutual)] as const;
    assert.equal(keysOf(servers[0]), keysOf(servers[1]));
    for (const server of servers) server.addContext('other.example', { key, cert });
    assert.notEqual(keysOf(servers[0]), keysOf(servers[1]));
  });
});

describe('shared keys', () => {
  it('are those of https and http2 servers, too', () => {
    const options = { key, cert };
    const servers = [createServer(options), createHttpsServer(options), createHttp2Server(options)];
    for (const server of servers) shareTickets(server, secret);
    assert.equal(new Set(servers.map((server) => server.getTicketKeys().toString('hex'))).size, 1);
  });

  it('stay when the certificate is renewed', () => {
    const server = sharing(secret, {});
    const before = keysOf(server);
    server.setSecureContext({ key, cert: [cert, cert] });
    assert.equal(keysOf(server), before);
  });

  it('change with the authorities', () => {
    const server = sharing(secret, mutual);
    const before = keysOf(server);
    server.setSecureContext({ key, cert, ca: [ca, ca] });
    assert.notEqual(keysOf(server), before);
    assert.equal(keysOf(server), keysOf(sharing(secret, { ...mutual, ca: [ca, ca] })));
  });

  it('stay in force unchanged when the server no longer listens', () => {
    const server = sharing(secret, {});
    const before = keysOf(server);
    stopSharingTickets(server);
    assert.equal(keysOf(server), before);
    assert.equal(ticketSecretOf(server), null);
  });
});

describe("an app's own ticket keys", () => {
  const own = Buffer.alloc(48, 7);
  const ways: readonly (readonly [name: string, make: () => Server])[] = [
    ['the option ticketKeys', () => serverWith({ ticketKeys: own })],
    [
      'setTicketKeys before it listens',
      () => {
        const server = serverWith({});
        server.setTicketKeys(own);
        return server;
      },
    ],
    [
      'setSecureContext with ticketKeys',
      () => {
        const server = serverWith({});
        server.setSecureContext({ key, cert, ticketKeys: own });
        return server;
      },
    ],
  ];
  for (const [name, make] of ways) {
    it(`are never changed: by ${name}`, () => {
      const server = make();
      assert.equal(ticketSecretOf(server), undefined, 'the dispatcher is not asked');
      shareTickets(server, secret);
      assert.equal(keysOf(server), own.toString('hex'));
    });
  }

  it('win when they are set while it listens', () => {
    const server = sharing(secret, {});
    server.setTicketKeys(own);
    shareTickets(server, TicketSecret.create(1));
    server.addContext('other.example', { key, cert });
    assert.equal(keysOf(server), own.toString('hex'));
  });
});
