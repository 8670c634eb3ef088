// Real programs that know nothing of passfd, under `passfd run`: every worker answers, as the app alone would.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { once } from 'node:events';
import { Agent as HttpAgent, get, type IncomingMessage } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { Agent as HttpsAgent, get as getSecure } from 'node:https';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

import { io } from 'socket.io-client';
import { WebSocket } from 'ws';

import { ACCEPT_MODES } from '../support/accept-modes.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms, type Program } from '../support/program.js';

const WORKERS = ['1', '2', '3'];

/** The warning of Node itself, since 22.10. */
const stripsTypes = 'typescript' in process.features && process.features.typescript === 'strip';

const ca = readFileSync(app('certificate.pem'));

/** Sends one request over a new connection. @returns the worker that answered */
type Ask = (port: string) => Promise<string>;

const askHttp: Ask = (port) =>
  new Promise((resolve, reject) => {
    const agent = new HttpAgent();
    get({ port, host: '127.0.0.1', agent }, (response) => {
      resolve(text(response));
    }).on('error', reject);
  });

const askHttps: Ask = (port) =>
  new Promise((resolve, reject) => {
    const agent = new HttpsAgent();
    getSecure({ port, host: '127.0.0.1', agent, ca }, (response) => {
      resolve(text(response));
    }).on('error', reject);
  });

const askHttp2: Ask = async (port) => {
  const session = connectHttp2(`https://127.0.0.1:${port}`, { ca });
  try {
    return await text(session.request({ ':path': '/' }));
  } finally {
    session.close();
  }
};

/** Reads two messages of the server, with an echo between them. */
const askWebSocket: Ask = (port) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`);
    const heard: string[] = [];
    socket.on('error', reject);
    socket.on('message', (message: Buffer) => {
      heard.push(message.toString());
      if (heard.length === 1) socket.send('are you there?');
      else socket.close();
    });
    socket.on('close', () => {
      assert.equal(heard[1], 'are you there?');
      resolve(heard[0] ?? '');
    });
  });

/** The port of the workers, once all are ready. A worker becomes ready a moment after it listens. */
async function portOf(program: Program, control: string): Promise<string> {
  const listening: string[] = [];
  while (listening.length < WORKERS.length) {
    const [, found = ''] = await program.line(/^listening (\d+)$/);
    listening.push(found);
  }
  assert.equal(new Set(listening).size, 1, 'every worker has the same port');
  for (let ready = 0; ready < WORKERS.length;) {
    const { workers } = await statusOf(control);
    ready = workers.filter(({ state }) => state === 'ready').length;
  }
  return listening[0] ?? '';
}

describe('an app under `passfd run`', () => {
  const apps: readonly (readonly [name: string, ask: Ask])[] = [
    ['http.js', async (port) => (await askHttp(port)).replace(' 127.0.0.1', '')],
    ['commonjs.cjs', askHttp],
    ['https.js', askHttps],
    ['http2.js', askHttp2],
    ['express.js', askHttp],
    ['fastify.js', askHttp],
    ['hono.js', askHttp],
    ['ws.js', askWebSocket],
  ];
  for (const accept of ACCEPT_MODES) {
    for (const [name, ask] of apps) {
      it(
        `is answered ${accept === 'direct' ? 'by some worker' : 'by every worker, in turn'}: ${name}, ${accept}`,
        withPrograms(async (start) => {
          await using directory = await temporaryDirectory();
          const control = `${directory.path}/control`;
          const flags = ['--accept', accept, '--workers', '3', '--control', control];
          const program = start(...passfd('run', ...flags, app(name)));
          const port = await portOf(program, control);
          const answers: string[] = [];
          for (let round = 0; round < 6; round++) answers.push(await ask(port));
          if (accept === 'direct') {
            for (const answer of answers) assert.ok(WORKERS.includes(answer), answer);
          } else {
            assert.deepEqual(answers.slice(0, 3).sort(), WORKERS);
            assert.deepEqual(answers.slice(3), answers.slice(0, 3));
          }
          const { connections } = await statusOf(control);
          assert.equal(connections.adopted, 6);
          program.signal('SIGTERM');
          assert.equal(await program.exit, 0);
        }),
      );
    }
  }

  it(
    'may be TypeScript whose types Node strips',
    { skip: stripsTypes ? false : `Node ${process.version} strips no types by itself` },
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const program = start(
        ...passfd('run', '--accept', 'hand-off', '--workers', '3', '--control', control, app('typed.ts')),
      );
      const port = await portOf(program, control);
      const answers = [await askHttp(port), await askHttp(port), await askHttp(port)];
      assert.deepEqual(answers.sort(), WORKERS);
    }),
  );

  it(
    'keeps a Socket.IO client with one worker by --policy client-ip, from long polling to WebSocket',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const flags = ['--workers', '3', '--policy', 'client-ip', '--control', control];
      const server = start(...passfd('run', ...flags, app('socket-io.js')));
      // A new worker changes which worker a client belongs to.
      const port = await portOf(server, control);
      const workers = new Set<string>();
      for (let host = 1; host <= 30; host++) workers.add(await talkSocketIo(port, `127.0.0.${host}`));
      assert.deepEqual([...workers].sort(), WORKERS);
    }),
  );
});

describe('a Socket.IO client whose long polling meets several workers', () => {
  const LOST = /^passfd: a Socket\.IO session was lost: .*--policy client-ip/;

  it(
    'loses its session, and the log says once what to do',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const server = start(
        ...passfd('run', '--accept', 'hand-off', '--workers', '3', '--control', control, app('socket-io.js')),
      );
      const port = await portOf(server, control);
      let lost = 0;
      // Only worker 1 looks for lost sessions.
      while (!server.errorLines.some((line) => LOST.test(line))) {
        await talkSocketIo(port, '127.0.0.1').catch(() => lost++);
      }
      for (const end = lost + 3; lost < end;) await talkSocketIo(port, '127.0.0.1').catch(() => lost++);
      server.signal('SIGTERM');
      assert.equal(await server.exit, 0);
      assert.equal(server.errorLines.filter((line) => LOST.test(line)).length, 1);
    }),
  );

  it(
    'is not logged when every client stays with one worker, although a session is unknown after a restart',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const flags = ['--workers', '3', '--policy', 'client-ip', '--control', control];
      const server = start(...passfd('run', ...flags, app('socket-io.js')));
      const port = await portOf(server, control);
      const unknown = `http://127.0.0.1:${port}/socket.io/?EIO=4&transport=polling&sid=of-another-time`;
      for (let host = 1; host <= 20; host++) {
        const agent = new HttpAgent({ localAddress: `127.0.0.${host}` });
        const [response] = (await once(get(unknown, { agent }), 'response')) as [IncomingMessage];
        response.resume();
        assert.equal(response.statusCode, 400);
      }
      server.signal('SIGTERM');
      assert.equal(await server.exit, 0);
      assert.deepEqual(
        server.errorLines.filter((line) => LOST.test(line)),
        [],
      );
    }),
  );
});

/** A client from a host of its own: long polling, then the upgrade, then an echo over the WebSocket. */
async function talkSocketIo(port: string, localAddress: string): Promise<string> {
  const agent = new HttpAgent({ localAddress });
  const socket = io(`http://127.0.0.1:${port}`, {
    agent: agent as unknown as string,
    reconnection: false,
    forceNew: true,
  });
  try {
    return await new Promise<string>((resolve, reject) => {
      let worker = '';
      socket.on('connect_error', reject);
      socket.on('worker', (name: string) => {
        worker = name;
        const echo = (): void => {
          socket.emit('echo', 'hello', (words: string) => {
            assert.equal(words, 'hello');
            resolve(worker);
          });
        };
        if (socket.io.engine.transport.name === 'websocket') echo();
        else socket.io.engine.once('upgrade', echo);
      });
    });
  } finally {
    socket.close();
    agent.destroy();
  }
}
