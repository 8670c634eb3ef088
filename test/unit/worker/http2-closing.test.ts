// A drain of HTTP/2 servers: what a client has asked is answered, and its session ends.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import {
  connect,
  createSecureServer,
  createServer,
  type ClientHttp2Session,
  type Http2Server,
  type ServerHttp2Stream,
} from 'node:http2';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

import { closeGracefully, prepareClosing } from '../../../src/worker/server-closing.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { HttpClient } from '../../support/http-client.js';
import { app } from '../../support/passfd.js';

const key = readFileSync(app('key.pem'));
const cert = readFileSync(app('certificate.pem'));

const ROUNDS = 50;
/** Requests that a client has open at a time. */
const CROWD = 20;

type Protocol = 'http' | 'https';
type App = (stream: ServerHttp2Stream) => void;

interface Stage {
  readonly server: Http2Server;
  readonly port: number;
  readonly connect: () => Promise<ClientHttp2Session>;
  readonly drain: () => void;
  readonly closed: Promise<unknown>;
}

async function onStage(protocol: Protocol, serve: App, body: (stage: Stage) => Promise<void>): Promise<void> {
  const server = protocol === 'http' ? createServer() : createSecureServer({ key, cert, allowHTTP1: true });
  server.on('stream', serve);
  prepareClosing(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const sessions: ClientHttp2Session[] = [];
  const closed = once(server, 'close');
  try {
    await body({
      server,
      port,
      closed,
      connect: async () => {
        const session = connect(`${protocol}://127.0.0.1:${port}`, { ca: cert, servername: 'localhost' });
        sessions.push(session);
        await once(session, 'connect');
        return session;
      },
      drain: () => {
        closeGracefully(server);
      },
    });
  } finally {
    for (const session of sessions) session.destroy();
    server.close();
    await closed;
  }
}

async function ask(session: ClientHttp2Session, path = '/'): Promise<string> {
  return text(session.request({ ':path': path }));
}

/** Asks one after the other until the session takes nothing new. @returns how many were answered */
async function askOnAndOn(session: ClientHttp2Session): Promise<number> {
  let answered = 0;
  while (!session.closed && !session.destroyed) {
    assert.equal(await ask(session, `/${answered}`), `/${answered}`);
    answered++;
  }
  return answered;
}

const echo: App = (stream) => {
  stream.respond();
  stream.end('ok');
};

for (const protocol of ['http', 'https'] as const) {
  describe(`the drain of an HTTP/2 server over ${protocol}`, () => {
    const answerWithPath = (server: Http2Server): void => {
      server.on('stream', (stream, headers) => {
        setImmediate(() => {
          if (stream.destroyed) return;
          stream.respond();
          stream.end(headers[':path']);
        });
      });
    };

    it(
      'answers every request of clients that go on asking at full speed',
      keepsDescriptors(async () => {
        for (let round = 0; round < ROUNDS; round++) {
          await onStage(
            protocol,
            () => undefined,
            async ({ server, connect: open, drain, closed }) => {
              answerWithPath(server);
              const session = await open();
              const asking = Array.from({ length: CROWD }, () => askOnAndOn(session));
              let seen = 0;
              await new Promise<void>((resolve) => {
                server.on('stream', () => {
                  if (++seen === CROWD + round) resolve();
                });
              });
              drain();
              const counts = await Promise.all(asking);
              assert.ok(counts.reduce((sum, count) => sum + count, 0) >= CROWD);
              await closed;
            },
          );
        }
      }),
    );

    it(
      'answers what is open, however long it takes, and takes nothing new',
      keepsDescriptors(async () => {
        const streams: ServerHttp2Stream[] = [];
        await onStage(
          protocol,
          (stream) => streams.push(stream),
          async ({ connect: open, drain, closed }) => {
            const session = await open();
            const asked = ask(session);
            while (streams.length === 0) await new Promise(setImmediate);
            const goneAway = once(session, 'goaway');
            drain();
            await goneAway;
            await assert.rejects(ask(session), { code: 'ERR_HTTP2_GOAWAY_SESSION' });
            streams[0]?.respond();
            streams[0]?.end('late');
            assert.equal(await asked, 'late');
            await once(session, 'close');
            await closed;
          },
        );
      }),
    );

    it(
      'ends a session that has nothing open',
      keepsDescriptors(async () => {
        await onStage(protocol, echo, async ({ connect: open, drain, closed }) => {
          const session = await open();
          assert.equal(await ask(session), 'ok');
          drain();
          await once(session, 'close');
          await closed;
        });
      }),
    );

    it(
      'ends a session that begins behind it, when it has answered',
      keepsDescriptors(async () => {
        await onStage(protocol, echo, async ({ server, connect: open, drain, closed }) => {
          const came = once(server, protocol === 'http' ? 'connection' : 'secureConnection');
          server.prependOnceListener('connection', () => {
            drain();
          });
          const session = await open();
          await came;
          assert.equal(await ask(session), 'ok');
          await once(session, 'close');
          await closed;
        });
      }),
    );
  });
}

describe('the drain of an HTTP/2 server', () => {
  it(
    'ends a session whose client does not answer to PING, and answers what it has asked',
    keepsDescriptors(async () => {
      await onStage('http', echo, async ({ server, port, drain, closed }) => {
        const come = once(server, 'session');
        using client = await HttpClient.connect(port);
        client.send('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
        client.send('\0\0\0\x04\0\0\0\0\0');
        await come;
        drain();
        client.socket.resume();
        await client.ended;
        await closed;
      });
    }),
  );

  it(
    'ends HTTP/1.1 connections of a server that speaks both, as those of an HTTP server',
    keepsDescriptors(async () => {
      await onStage(
        'https',
        () => undefined,
        async ({ server, port, drain, closed }) => {
          server.on('request', (asked, response) => response.end(asked.url));
          using client = await HttpClient.connect(port, cert);
          client.ask('/a');
          assert.equal((await client.answer()).body, '/a');
          drain();
          client.ask('/b');
          assert.deepEqual(await client.answer(), { status: 200, connection: 'close', body: '/b' });
          assert.equal(await client.ended, '');
          await closed;
        },
      );
    }),
  );
});
