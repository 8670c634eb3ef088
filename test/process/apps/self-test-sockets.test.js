// Ordinary tests of what a server does with its connections, with the clients in the same process.
import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { Agent, createServer as createHttpServer, get } from 'node:http';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, test } from 'node:test';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';

const directory = mkdtempSync(join(tmpdir(), 'pfd-'));
after(() => rmSync(directory, { recursive: true }));

const file = (name) => readFileSync(new URL(name, import.meta.url));

const listening = async (server, where = { port: 0, host: '127.0.0.1' }) => {
  server.listen(where);
  await once(server, 'listening');
  const address = server.address();
  return typeof address === 'string' ? { path: address } : { port: address.port, host: address.address };
};

const closed = (server) =>
  new Promise((resolve, reject) => {
    server.close((error) => (error ? reject(error) : resolve()));
  });

const countOf = (server) =>
  new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });

/** Both ends of one connection to a server. */
const pair = async (server, where, options = {}) => {
  const accepted = once(server, 'connection');
  const client = connect({ ...where, ...options });
  const [[socket]] = await Promise.all([accepted, once(client, 'connect')]);
  return { client, socket };
};

test('both ends tell the same addresses', async () => {
  const server = createServer();
  const where = await listening(server);
  const { client, socket } = await pair(server, where);
  assert.equal(socket.remoteAddress, '127.0.0.1');
  assert.equal(socket.remoteFamily, 'IPv4');
  assert.equal(socket.remotePort, client.localPort);
  assert.equal(socket.localAddress, client.remoteAddress);
  assert.equal(socket.localPort, where.port);
  assert.equal(socket.localFamily, 'IPv4');
  assert.deepEqual(socket.address(), { address: '127.0.0.1', family: 'IPv4', port: where.port });
  assert.equal(socket.server, server);
  assert.equal(socket.connecting, false);
  assert.equal(socket.readyState, 'open');
  assert.equal(socket.bytesRead, 0);
  client.end();
  socket.resume();
  await closed(server);
});

test('getConnections counts what is open, and closing waits for it', async () => {
  const server = createServer();
  const where = await listening(server);
  const pairs = [await pair(server, where), await pair(server, where), await pair(server, where)];
  assert.equal(await countOf(server), 3);
  const [first, ...rest] = pairs;
  first.client.destroy();
  first.socket.resume();
  await once(first.socket, 'close');
  assert.equal(await countOf(server), 2);
  let isClosed = false;
  const closing = closed(server).then(() => (isClosed = true));
  assert.equal(server.listening, false);
  const [one, other] = rest;
  one.socket.end('still here');
  one.socket.resume();
  const [heard] = await Promise.all([text(one.client), once(one.socket, 'close')]);
  assert.equal(heard, 'still here');
  assert.equal(isClosed, false);
  assert.equal(await countOf(server), 1);
  other.socket.destroy();
  await closing;
  assert.equal(await countOf(server), 0);
  assert.equal(
    await new Promise((resolve) => server.close(resolve)).then(({ code }) => code),
    'ERR_SERVER_NOT_RUNNING',
  );
});

test('close before listening: the server never listens', async () => {
  const server = createServer();
  server.on('listening', () => assert.fail('it listens'));
  server.listen(0, 'localhost');
  await new Promise((resolve) => server.close(resolve));
  assert.equal(server.listening, false);
  const other = createServer();
  await listening(other);
  await closed(other);
});

test('a server that is unreferenced and referenced again works', async () => {
  const server = createServer((socket) => socket.end('on'));
  assert.equal(server.unref(), server);
  const where = await listening(server.ref());
  server.unref();
  server.ref();
  assert.equal(await text(connect(where)), 'on');
  await closed(server);
});

test('pauseOnConnect loses no byte', async () => {
  const server = createServer({ pauseOnConnect: true });
  const where = await listening(server);
  const sent = Buffer.alloc(300_000, 'abcdefghi');
  const { client, socket } = await pair(server, where);
  assert.equal(socket.isPaused(), true);
  client.end(sent);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(socket.bytesRead, 0);
  socket.resume();
  const got = [];
  socket.on('data', (part) => got.push(part));
  await once(socket, 'end');
  assert.ok(Buffer.concat(got).equals(sent));
  await closed(server);
});

test('allowHalfOpen lets the server answer behind the end', async () => {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    assert.equal(socket.allowHalfOpen, true);
    let said = '';
    socket.setEncoding('utf8').on('data', (part) => (said += part));
    socket.on('end', () => socket.end(`you said ${said}`));
  });
  const where = await listening(server);
  const client = connect(where);
  client.end('this');
  assert.equal(await text(client), 'you said this');
  await closed(server);
});

test('without allowHalfOpen the server ends when its client ends', async () => {
  const server = createServer((socket) => {
    assert.equal(socket.allowHalfOpen, false);
    socket.resume();
  });
  const where = await listening(server);
  const client = connect({ ...where, allowHalfOpen: true });
  client.end();
  assert.equal(await text(client), '');
  await closed(server);
});

test('highWaterMark of the server is that of its sockets', async () => {
  const server = createServer({ highWaterMark: 1234 });
  const { client, socket } = await pair(server, await listening(server));
  assert.equal(socket.readableHighWaterMark, 1234);
  assert.equal(socket.writableHighWaterMark, 1234);
  client.destroy();
  socket.destroy();
  await closed(server);
});

test('socket options can be set, by the socket and by the server', async () => {
  const server = createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 1000 });
  const { client, socket } = await pair(server, await listening(server));
  const { _handle: handle } = socket;
  assert.equal(handle.setNoDelay(true), 0);
  assert.equal(handle.setKeepAlive(true, 1), 0);
  assert.equal(socket.setNoDelay(false), socket);
  assert.equal(socket.setKeepAlive(false), socket);
  socket.setTimeout(1);
  await once(socket, 'timeout');
  client.destroy();
  socket.destroy();
  await closed(server);
});

test('resetAndDestroy resets the connection', async () => {
  const server = createServer();
  const { client, socket } = await pair(server, await listening(server));
  socket.resetAndDestroy();
  const [error] = await once(client, 'error');
  assert.equal(error.code, 'ECONNRESET');
  await closed(server);
});

test('a Unix path is the address, and the file is gone behind close', async () => {
  const path = join(directory, 'socket');
  const server = createServer((socket) => {
    assert.equal(socket.remoteAddress, undefined);
    socket.end('unix');
  });
  assert.deepEqual(await listening(server, { path }), { path });
  assert.ok(statSync(path).isSocket());
  assert.equal(await text(connect(path)), 'unix');
  await closed(server);
});

test('readableAll and writableAll set the mode of the file', async () => {
  for (const [options, bits] of [
    [{ readableAll: true }, 0o444],
    [{ writableAll: true }, 0o222],
    [{ readableAll: true, writableAll: true }, 0o666],
  ]) {
    const path = join(directory, `mode-${bits}`);
    const server = createServer();
    await listening(server, { path, ...options });
    assert.equal(statSync(path).mode & bits, bits);
    await closed(server);
  }
});

test('what a server listens with is of the kind of its address', async () => {
  const kinds = [];
  for (const where of [{ port: 0, host: '127.0.0.1' }, { path: join(directory, 'kind') }]) {
    const server = createServer();
    await listening(server, where);
    kinds.push(server._handle.constructor.name);
    await closed(server);
  }
  assert.deepEqual(kinds, ['TCP', 'Pipe']);
});

test('a Unix path without options has the mode that the umask leaves', async () => {
  const path = join(directory, 'plain');
  const server = createServer();
  await listening(server, { path });
  assert.equal(statSync(path).mode & 0o777, 0o777 & ~process.umask());
  await closed(server);
});

test('a relative Unix path is of the working directory', async () => {
  const before = process.cwd();
  process.chdir(directory);
  try {
    const server = createServer((socket) => socket.end('relative'));
    assert.deepEqual(await listening(server, { path: 'relative' }), { path: 'relative' });
    assert.ok(existsSync(join(directory, 'relative')));
    assert.equal(await text(connect('relative')), 'relative');
    await closed(server);
  } finally {
    process.chdir(before);
  }
});

test('an exclusive server is reached', async () => {
  const server = createServer((socket) => socket.end('exclusive'));
  const where = await listening(server, { port: 0, host: '127.0.0.1', exclusive: true });
  assert.equal(await text(connect(where)), 'exclusive');
  await closed(server);
});

test('HTTP keeps a connection alive over several requests', async () => {
  const server = createHttpServer((request, response) => response.end(`${request.socket.remotePort}`));
  const where = await listening(server);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const ask = async () => {
    const [response] = await once(get({ ...where, agent }), 'response');
    return text(response);
  };
  const answers = [await ask(), await ask(), await ask()];
  assert.equal(new Set(answers).size, 1);
  assert.equal(await countOf(server), 1);
  agent.destroy();
  await closed(server);
});

test('TLS is spoken', async () => {
  const options = { key: file('key.pem'), cert: file('certificate.pem') };
  const server = createTlsServer(options, (socket) => socket.end(`secret ${socket.remoteAddress}`));
  const where = await listening(server);
  const client = connectTls({ ...where, ca: options.cert, servername: 'localhost' });
  assert.equal(await text(client), 'secret 127.0.0.1');
  assert.equal(client.authorized, true);
  await closed(server);
});

test('what an AsyncLocalStorage holds where listen is called, it holds for each connection and request', async () => {
  const storage = new AsyncLocalStorage();
  const seen = [];
  const server = createHttpServer((request, response) => {
    seen.push(['request', storage.getStore()]);
    response.end();
  });
  server.on('connection', () => seen.push(['connection', storage.getStore()]));
  server.on('listening', () => seen.push(['listening', storage.getStore()]));
  storage.run('of listen', () => server.listen(0, '127.0.0.1'));
  await once(server, 'listening');
  await storage.run('of a client', async () => {
    const [response] = await once(get({ port: server.address().port, agent: new Agent() }), 'response');
    await text(response);
  });
  await closed(server);
  assert.deepEqual(seen, [
    ['listening', 'of listen'],
    ['connection', 'of listen'],
    ['request', 'of listen'],
  ]);
});

test('what a connection puts into an AsyncLocalStorage is not there for the data of the next one', async () => {
  const storage = new AsyncLocalStorage();
  const seen = [];
  let count = 0;
  const server = createServer((socket) => {
    if (++count === 1) storage.enterWith('of the first client');
    socket.on('data', () => {
      seen.push(storage.getStore());
      socket.end();
    });
  });
  const where = await listening(server);
  for (let client = 0; client < 2; client++) {
    const socket = connect(where);
    socket.write('hello');
    await text(socket);
  }
  await closed(server);
  assert.deepEqual(seen, [undefined, undefined]);
});
