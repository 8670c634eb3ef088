// A drain of HTTP/2 servers: every request is answered, and then the session ends.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import {
  connect,
  createSecureServer,
  createServer,
  type ClientHttp2Session,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it, mock } from 'node:test';

import { closeGracefully, prepareClosing } from '../../../src/worker/server-closing.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { HttpClient } from '../../support/http-client.js';
import { turns } from '../../support/loop.js';
import { app } from '../../support/passfd.js';

const key = readFileSync(app('key.pem'));
const cert = readFileSync(app('certificate.pem'));

const ROUNDS = 50;
/** Requests that a client has open at the same time. */
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

/** Sends requests one after the other until the session takes no more. @returns how many were answered */
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
      'answers every request of clients that send at full speed',
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
      'answers open requests, however long they take, and takes nothing new',
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
      'ends a session that begins after it, once its requests are answered',
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

/** RFC 9113, 6: length, type, flags and stream before the payload. */
function frame(type: number, flags: number, stream: number, payload = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

const PREFACE = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, 0)]);

/** HEADERS of a GET, by indexes of the static table (RFC 7541, A), a whole request. */
function asking(stream: number, path: string): Buffer {
  const literal = (index: number, text: string): Buffer =>
    Buffer.concat([Buffer.from([index, text.length]), Buffer.from(text)]);
  const headers = [Buffer.from([0x82, 0x86]), literal(4, path), literal(1, 'localhost')];
  return frame(1, 5, stream, Buffer.concat(headers));
}

/** RST_STREAM with INTERNAL_ERROR. */
function resetting(stream: number): Buffer {
  return frame(3, 0, stream, Buffer.from([0, 0, 0, 2]));
}

interface Held {
  readonly client: HttpClient;
  readonly streams: readonly ServerHttp2Stream[];
  /** Ends the time that a client has to answer PING. */
  readonly end: () => Promise<void>;
  /** The requests that the app got. */
  readonly served: readonly string[];
  /** The exceptions that the app's own handler got. */
  readonly thrown: readonly unknown[];
}

/** A test of requests that wait during a drain. */
function withHeld(
  paths: readonly string[],
  serve: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void,
  body: (held: Held) => Promise<void>,
): () => Promise<void> {
  return keepsDescriptors(async () => {
    const served: string[] = [];
    const thrown: unknown[] = [];
    process.setUncaughtExceptionCaptureCallback((error) => thrown.push(error));
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      await onStage(
        'http',
        () => undefined,
        async ({ server, port, drain, closed }) => {
          server.on('stream', (stream, headers) => {
            served.push(headers[':path'] ?? '');
            serve(stream, headers);
          });
          const come = once(server, 'session') as Promise<[ServerHttp2Session]>;
          using client = await HttpClient.connect(port);
          client.socket.write(PREFACE);
          const [session] = await come;
          drain();
          const streams: ServerHttp2Stream[] = [];
          const allCome = new Promise<void>((resolve) => {
            const emit = session.emit.bind(session) as (...args: unknown[]) => boolean;
            session.emit = (...args: unknown[]) => {
              if (args[0] === 'stream') streams.push(args[1] as ServerHttp2Stream);
              const result = emit(...args);
              if (streams.length === paths.length) resolve();
              return result;
            };
          });
          client.socket.write(Buffer.concat(paths.map((path, index) => asking(2 * index + 1, path))));
          await allCome;
          const end = async (): Promise<void> => {
            mock.timers.runAll();
            await turns();
          };
          await body({ client, streams, end, served, thrown });
          client.socket.destroy();
          await closed;
        },
      );
    } finally {
      mock.timers.reset();
      process.setUncaughtExceptionCaptureCallback(null);
    }
  });
}

describe('the drain of an HTTP/2 server', () => {
  it(
    'ends a session whose client does not answer PING, and answers its requests',
    keepsDescriptors(async () => {
      await onStage('http', echo, async ({ server, port, drain, closed }) => {
        const come = once(server, 'session');
        using client = await HttpClient.connect(port);
        client.socket.write(PREFACE);
        await come;
        drain();
        client.socket.resume();
        await client.ended;
        await closed;
      });
    }),
  );

  it(
    'serves the requests that waited, except those that their client has reset',
    withHeld(['/reset', '/second'], echo, async ({ client, streams: [first], end, served, thrown }) => {
      assert.ok(first);
      // Unlike `once`, this does not listen to errors.
      const closed = new Promise<void>((resolve) => first.once('close', resolve));
      client.socket.write(resetting(1));
      await closed;
      assert.deepEqual(served, []);
      await end();
      assert.deepEqual(served, ['/second']);
      assert.deepEqual(thrown, []);
    }),
  );

  it(
    'serves the requests that waited after a request whose handler throws',
    withHeld(
      ['/first', '/second'],
      (stream, { ':path': path }) => {
        echo(stream);
        if (path === '/first') throw new Error('not this one');
      },
      async ({ end, served, thrown }) => {
        await end();
        assert.deepEqual(thrown.map(String), ['Error: not this one']);
        assert.deepEqual(served, ['/first', '/second']);
      },
    ),
  );

  it(
    'ends HTTP/1.1 connections of a server that speaks both, as an HTTP server does',
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
