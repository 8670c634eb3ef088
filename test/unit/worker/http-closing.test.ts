// A drain of HTTP/1 servers: every request gets its whole answer, whenever it comes.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

import { closeGracefully, prepareClosing } from '../../../src/worker/server-closing.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { HttpClient, request } from '../../support/http-client.js';
import { isPending, turns } from '../../support/loop.js';
import { app } from '../../support/passfd.js';

const key = readFileSync(app('key.pem'));
const cert = readFileSync(app('certificate.pem'));

/** Connections in each round of a race. */
const CROWD = 20;
const ROUNDS = 20;

/** More than the buffers of the kernel hold, so that the client is still sending when the answer comes. */
const LARGE_BYTES = 32 * 1_048_576;

interface Stage {
  readonly server: Server;
  readonly connect: () => Promise<HttpClient>;
  readonly drain: () => void;
  /** Resolves when the server has emitted 'close'. */
  readonly closed: Promise<unknown>;
}

type Protocol = 'http' | 'https';

/** A test with a prepared server that listens. Its clients are closed after it. */
function onStage(
  protocol: Protocol,
  app: RequestListener,
  body: (stage: Stage) => Promise<void>,
  options: ServerOptions = {},
): () => Promise<void> {
  return keepsDescriptors(async () => {
    const server =
      protocol === 'http' ? createServer(options, app) : createSecureServer({ ...options, key, cert }, app);
    prepareClosing(server);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const clients: HttpClient[] = [];
    const closed = once(server, 'close');
    try {
      await body({
        server,
        closed,
        connect: async () => {
          const client = await HttpClient.connect(port, protocol === 'https' ? cert : undefined);
          clients.push(client);
          return client;
        },
        drain: () => {
          closeGracefully(server);
        },
      });
    } finally {
      for (const client of clients) client[Symbol.dispose]();
      server.closeAllConnections();
      server.close();
      await closed;
    }
  });
}

const echo: RequestListener = (asked, response) => {
  response.end(asked.url);
};

/** Node keeps a connection of HTTP/1.0 open only after an answer with a length. */
const withLength: RequestListener = (_asked, response) => {
  response.setHeader('Content-Length', '1').end('a');
};

const echoBody: RequestListener = (asked, response) => {
  text(asked).then(
    (body) => response.end(body),
    () => response.destroy(),
  );
};

/** An app whose answers the test sends itself. */
function byHand(): {
  app: RequestListener;
  next(): Promise<{ asked: IncomingMessage; response: ServerResponse }>;
} {
  const waiting: { asked: IncomingMessage; response: ServerResponse }[] = [];
  let wake: (() => void) | undefined;
  return {
    app: (asked, response) => {
      waiting.push({ asked, response });
      wake?.();
    },
    next: async () => {
      for (;;) {
        const found = waiting.shift();
        if (found) return found;
        await new Promise<void>((resolve) => (wake = resolve));
      }
    },
  };
}

async function endsBehind(client: HttpClient, body: string): Promise<void> {
  const answer = await client.answer();
  assert.deepEqual([answer.body, answer.connection], [body, 'close']);
  assert.equal(await client.ended, '', 'the connection ends without a reset');
}

for (const protocol of ['http', 'https'] as const) {
  describe(`the drain of an ${protocol} server`, () => {
    const slow = byHand();

    it(
      'ends a connection after the answer that it waits for',
      onStage(protocol, slow.app, async ({ server, connect, drain, closed }) => {
        const client = await connect();
        client.ask('/a');
        const { response } = await slow.next();
        drain();
        assert.equal(server.listening, false);
        response.end('a');
        await endsBehind(client, 'a');
        await closed;
      }),
    );

    it(
      'leaves an idle connection open, and ends it after its next answer',
      onStage(protocol, echo, async ({ connect, drain, closed }) => {
        const client = await connect();
        client.ask('/a');
        assert.equal((await client.answer()).connection, 'keep-alive');
        drain();
        assert.ok(await isPending(client.ended));
        client.ask('/b');
        await endsBehind(client, '/b');
        await closed;
      }),
    );

    it(
      'serves a connection that has not sent anything yet',
      onStage(protocol, echo, async ({ connect, drain, closed }) => {
        const client = await connect();
        await turns();
        drain();
        assert.ok(await isPending(closed));
        client.ask('/late');
        await endsBehind(client, '/late');
        await closed;
      }),
    );

    it(
      'answers every request that is sent at the same moment',
      onStage(protocol, echo, async () => {
        for (let round = 0; round < ROUNDS; round++) {
          await onStage(protocol, echo, async ({ connect, drain, closed }) => {
            const clients = await Promise.all(Array.from({ length: CROWD }, connect));
            for (const client of clients) client.ask('/first');
            await Promise.all(clients.map((client) => client.answer()));
            const [before, after] = [clients.slice(round), clients.slice(0, round)];
            for (const client of before) client.ask('/second');
            drain();
            for (const client of after) client.ask('/second');
            await Promise.all(clients.map((client) => endsBehind(client, '/second')));
            await closed;
          })();
        }
      }),
    );

    it(
      'answers all requests of one packet in order, and announces the end with the last answer',
      onStage(protocol, echo, async ({ connect, drain, closed }) => {
        const client = await connect();
        client.ask('/a');
        await client.answer();
        drain();
        client.send(request('/b') + request('/c') + request('/d'));
        for (const path of ['/b', '/c']) {
          assert.deepEqual(await client.answer(), { status: 200, connection: 'keep-alive', body: path });
        }
        await endsBehind(client, '/d');
        await closed;
      }),
    );
  });
}

describe('the drain of an HTTP server', () => {
  const slow = byHand();

  it(
    'answers a request that began before the drain and ends after it',
    onStage('http', echo, async ({ connect, drain }) => {
      const clients = await Promise.all([connect(), connect(), connect()]);
      const cuts = [1, 10, request('/a').length - 1];
      for (const [index, client] of clients.entries()) client.send(request('/a').slice(0, cuts[index]));
      await turns();
      drain();
      await turns();
      for (const [index, client] of clients.entries()) client.send(request('/a').slice(cuts[index]));
      for (const client of clients) await endsBehind(client, '/a');
    }),
  );

  it(
    'answers pipelined requests from before and after it, also when the app is slow',
    onStage('http', slow.app, async ({ connect, drain }) => {
      const client = await connect();
      client.send(request('/a') + request('/b'));
      const [a, b] = [await slow.next(), await slow.next()];
      drain();
      b.response.end('b');
      await turns();
      a.response.end('a');
      assert.deepEqual(await client.answer(), { status: 200, connection: 'keep-alive', body: 'a' });
      await endsBehind(client, 'b');
    }),
  );

  it(
    'keeps a connection for a request that came before the previous one was answered',
    onStage('http', slow.app, async ({ connect, drain }) => {
      const client = await connect();
      client.ask('/a');
      const a = await slow.next();
      drain();
      client.ask('/b');
      const b = await slow.next();
      a.response.end('a');
      assert.equal((await client.answer()).connection, 'keep-alive');
      b.response.end('b');
      await endsBehind(client, 'b');
    }),
  );

  it(
    'keeps a connection for one more request when the head of an answer was already sent',
    onStage('http', slow.app, async ({ connect, drain }) => {
      const client = await connect();
      client.ask('/a');
      const { response } = await slow.next();
      response.write('one ');
      await once(client.socket, 'data');
      drain();
      response.end('two');
      assert.deepEqual(await client.answer(), { status: 200, connection: 'keep-alive', body: 'one two' });
      client.ask('/b');
      (await slow.next()).response.end('b');
      await endsBehind(client, 'b');
    }),
  );

  it(
    'lets a request body arrive that was being sent',
    onStage('http', echoBody, async (stage) => {
      const client = await stage.connect();
      client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello');
      await turns();
      stage.drain();
      await turns();
      client.send(' world');
      await endsBehind(client, 'hello world');
    }),
  );

  it(
    'gets the answer to a client that still sends a body that the app does not read',
    onStage('http', slow.app, async ({ connect, drain }) => {
      const client = await connect();
      client.send(`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ${LARGE_BYTES}\r\n\r\n`);
      const { response } = await slow.next();
      drain();
      response.end('enough');
      client.send('x'.repeat(LARGE_BYTES));
      await endsBehind(client, 'enough');
    }),
  );

  it(
    'does not give the app a request that comes after the last answer',
    onStage('http', slow.app, async ({ connect, drain, closed }) => {
      const client = await connect();
      client.ask('/a');
      const { response } = await slow.next();
      drain();
      response.write('a');
      await once(client.socket, 'data');
      client.ask('/b');
      await turns();
      response.end();
      await endsBehind(client, 'a');
      assert.ok(await isPending(slow.next()));
      await closed;
    }),
  );

  it(
    'answers a client that waits for 100 Continue',
    onStage('http', echoBody, async (stage) => {
      const client = await stage.connect();
      client.ask('/a');
      await client.answer();
      stage.drain();
      const head = 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n';
      client.send(head);
      const [told] = (await once(client.socket, 'data')) as [Buffer];
      assert.match(told.toString(), /^HTTP\/1\.1 100 Continue\r\n\r\n$/);
      client.send('body');
      await endsBehind(client, 'body');
    }),
  );

  it(
    'answers HTTP/1.0 with keep-alive, and ends the connection after the answer',
    onStage('http', withLength, async ({ connect, drain }) => {
      const client = await connect();
      const ask = 'GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n';
      client.send(ask);
      assert.equal((await client.answer()).connection, 'keep-alive');
      drain();
      client.send(ask);
      await endsBehind(client, 'a');
    }),
  );

  it(
    'closes an idle connection at its keep-alive timeout',
    onStage(
      'http',
      echo,
      async ({ connect, drain, closed }) => {
        const client = await connect();
        client.ask('/a');
        await client.answer();
        drain();
        assert.equal(await client.ended, '');
        await closed;
      },
      { keepAliveTimeout: 10 },
    ),
  );

  for (const [name, say] of Object.entries<RequestListener>({
    'by a header': (_asked, response) => {
      response.setHeader('Connection', 'keep-alive');
      response.end('a');
    },
    'by taking the header away': (_asked, response) => {
      response.removeHeader('Connection');
      response.setHeader('Content-Length', '1');
      response.end('a');
    },
    'by shouldKeepAlive': (_asked, response) => {
      response.shouldKeepAlive = true;
      response.end('a');
    },
    'by writeHead with an object': (_asked, response) => {
      response.writeHead(200, { connection: 'keep-alive', 'Content-Length': '1' }).end('a');
    },
    'by writeHead with a reason and an object': (_asked, response) => {
      response.setHeader('X-One', '1');
      response.writeHead(200, 'Fine', { Connection: 'Keep-Alive', 'Content-Length': '1' }).end('a');
    },
    'by writeHead with a flat list': (_asked, response) => {
      response
        .writeHead(200, ['Connection', 'keep-alive', 'Set-Cookie', 'a=1', 'Set-Cookie', 'b=2'])
        .end('a');
    },
    'by writeHead with pairs': (_asked, response) => {
      const pairs = [
        ['CONNECTION', 'keep-alive'],
        ['Content-Length', '1'],
      ];
      response.writeHead(200, pairs as unknown as string[]).end('a');
    },
    'by writeHead and a header': (_asked, response) => {
      response.setHeader('connection', 'keep-alive');
      response.writeHead(200).end('a');
    },
    'by headers that are flushed': (_asked, response) => {
      response.setHeader('Connection', 'keep-alive');
      response.flushHeaders();
      response.end('a');
    },
    'with nothing at all': (_asked, response) => {
      response.end('a');
    },
  })) {
    it(
      `marks an answer as the last one, whatever the app sets: ${name}`,
      onStage('http', say, async ({ connect, drain }) => {
        const client = await connect();
        drain();
        client.ask('/');
        await endsBehind(client, 'a');
      }),
    );
  }

  it(
    'keeps the other headers of writeHead, duplicates too',
    onStage(
      'http',
      (_asked, response) => {
        response
          .writeHead(200, 'Fine', ['Set-Cookie', 'a=1', 'Set-Cookie', 'b=2', 'Content-Length', '0'])
          .end();
      },
      async ({ connect, drain }) => {
        const client = await connect();
        drain();
        let heard = '';
        client.socket.on('data', (chunk: Buffer) => (heard += chunk.toString()));
        client.ask('/');
        await client.ended;
        assert.match(heard, /^HTTP\/1\.1 200 Fine\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n/);
        assert.equal(heard.match(/connection:/gi)?.length, 1);
      },
    ),
  );

  it(
    'keeps the upgrade option beside close when an answer asks for an upgrade',
    onStage(
      'http',
      (_asked, response) => {
        response.writeHead(426, { Connection: 'Upgrade', Upgrade: 'TLS/1.2', 'Content-Length': '0' }).end();
      },
      async ({ connect, drain }) => {
        const client = await connect();
        drain();
        client.ask('/');
        assert.equal((await client.answer()).connection, 'upgrade, close');
      },
    ),
  );

  for (const event of ['upgrade', 'connect'] as const) {
    it(
      `leaves a connection to the app that it has got by '${event}', before or after the drain begins`,
      onStage('http', echo, async ({ server, connect, drain, closed }) => {
        server.on(event, (_asked: IncomingMessage, socket: NodeJS.ReadWriteStream) => {
          socket.write('HTTP/1.1 101 Yours\r\nConnection: upgrade\r\n\r\n');
          socket.pipe(socket);
        });
        const [early, late] = await Promise.all([connect(), connect()]);
        const head =
          event === 'upgrade'
            ? request('/', 'Connection: Upgrade', 'Upgrade: echo')
            : 'CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n';
        early.send(head);
        assert.equal((await early.answer()).status, 101);
        drain();
        late.send(head);
        assert.equal((await late.answer()).status, 101);
        for (const client of [early, late]) {
          client.send('hello');
          const [heard] = (await once(client.socket, 'data')) as [Buffer];
          assert.equal(heard.toString(), 'hello');
          assert.ok(await isPending(client.ended));
          client.socket.end();
          assert.equal(await client.ended, '');
        }
        await closed;
      }),
    );
  }

  it(
    'does not end a connection that the app has taken over, after the answer to an earlier request',
    onStage('http', slow.app, async ({ server, connect, drain }) => {
      server.on('upgrade', (_asked, socket: NodeJS.ReadWriteStream) => socket.pipe(socket));
      const client = await connect();
      client.ask('/a');
      const { response } = await slow.next();
      drain();
      const upgraded = once(server, 'upgrade');
      client.ask('/b', 'Connection: Upgrade', 'Upgrade: echo');
      await upgraded;
      response.end('a');
      assert.equal((await client.answer()).connection, 'keep-alive');
      client.send('hello');
      const [heard] = (await once(client.socket, 'data')) as [Buffer];
      assert.equal(heard.toString(), 'hello');
      client.socket.end();
      assert.equal(await client.ended, '');
    }),
  );
});

describe("an app's own close of an HTTP server", () => {
  /** As in a signal handler that exits with the error of `close`. */
  const close = (server: Server): Promise<Error | undefined> =>
    new Promise((resolve) => server.close(resolve));

  it(
    'during the drain closes idle connections, and succeeds when the last one is closed',
    onStage('http', echo, async ({ server, connect, drain }) => {
      const client = await connect();
      client.ask('/a');
      await client.answer();
      drain();
      const closed = close(server);
      assert.equal(await client.ended, '');
      assert.equal(await closed, undefined);
    }),
  );

  it(
    'succeeds when the drain has closed everything before it, and fails the second time',
    onStage('http', echo, async ({ server, drain, closed }) => {
      drain();
      await closed;
      assert.equal(await close(server), undefined);
      const again = (await close(server)) as NodeJS.ErrnoException | undefined;
      assert.equal(again?.code, 'ERR_SERVER_NOT_RUNNING');
    }),
  );

  it(
    'before the drain leaves nothing to do',
    onStage('http', echo, async ({ server, connect, drain, closed }) => {
      const client = await connect();
      await turns();
      let closes = 0;
      server.on('close', () => closes++);
      const own = close(server);
      drain();
      client.ask('/a');
      await client.ended;
      assert.equal(await own, undefined);
      await closed;
      await turns();
      assert.equal(closes, 1);
    }),
  );

  it(
    'may be replaced by a library, and closes every connection with closeAllConnections',
    onStage('http', echo, async ({ server, connect, drain, closed }) => {
      const calls: string[] = [];
      const original = server.close.bind(server);
      server.close = (callback) => {
        calls.push('its own');
        return original(callback);
      };
      const client = await connect();
      await turns();
      drain();
      assert.deepEqual(calls, []);
      const own = close(server);
      assert.deepEqual(calls, ['its own']);
      server.closeAllConnections();
      await client.ended;
      assert.equal(await own, undefined);
      await closed;
    }),
  );

  it(
    'is not needed, and a second drain does nothing',
    onStage('http', echo, async ({ server, drain, closed }) => {
      let closes = 0;
      server.on('close', () => closes++);
      drain();
      drain();
      await closed;
      await turns();
      assert.equal(closes, 1);
    }),
  );
});
