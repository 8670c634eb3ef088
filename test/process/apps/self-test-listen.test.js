// Ordinary tests of an ordinary server's `listen`, with its clients in the same process. They know nothing of passfd.
import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';

const directory = mkdtempSync(join(tmpdir(), 'pfd-'));
after(() => rmSync(directory, { recursive: true }));

const hasIPv6 = Object.values(networkInterfaces()).some((all) => all.some(({ family }) => family === 'IPv6'));

const listening = async (server, ...args) => {
  server.listen(...args);
  await once(server, 'listening');
  return server.address();
};

const closed = (server) =>
  new Promise((resolve, reject) => {
    server.close((error) => (error ? reject(error) : resolve()));
  });

/** What a client reads until the end. */
const hear = async (where) => {
  const socket = connect(where);
  let heard = '';
  socket.setEncoding('utf8').on('data', (part) => (heard += part));
  await once(socket, 'close');
  return heard;
};

const errorOf = async (server, ...args) => {
  server.listen(...args);
  const [error] = await once(server, 'error');
  return error;
};

const inUse = (where, address, port) => ({
  name: 'Error',
  message: `listen EADDRINUSE: address already in use ${where}`,
  code: 'EADDRINUSE',
  errno: -98,
  syscall: 'listen',
  address,
  ...(port !== undefined && { port }),
});

const plain = (error) => ({ name: error.name, message: error.message, ...error });

test('listening comes later than listen returns, and the callback is called once', async () => {
  const server = createServer();
  const events = [];
  server.on('listening', () => events.push('listening'));
  assert.equal(
    server.listen(0, '127.0.0.1', () => events.push('callback')),
    server,
  );
  assert.deepEqual(events, []);
  await once(server, 'listening');
  assert.deepEqual(events, ['listening', 'callback']);
  assert.equal(server.listening, true);
  await closed(server);
  assert.equal(server.listening, false);
  assert.equal(server.address(), null);
});

test('address tells the address that was asked for, and a port that clients reach', async () => {
  const server = createServer((socket) => socket.end('here'));
  const address = await listening(server, 0, '127.0.0.1');
  assert.deepEqual(Object.keys(address).sort(), ['address', 'family', 'port']);
  assert.equal(address.address, '127.0.0.1');
  assert.equal(address.family, 'IPv4');
  assert.ok(address.port > 0);
  assert.equal(await hear(address), 'here');
  await closed(server);
});

test('without a host it listens at every interface, for both families', { skip: !hasIPv6 }, async () => {
  const server = createServer((socket) => socket.end(socket.remoteFamily));
  const { address, family, port } = await listening(server);
  assert.equal(address, '::');
  assert.equal(family, 'IPv6');
  assert.equal(await hear({ port, host: '127.0.0.1' }), 'IPv6');
  assert.equal(await hear({ port, host: '::1' }), 'IPv6');
  await closed(server);
});

test('ipv6Only leaves IPv4 out', { skip: !hasIPv6 }, async () => {
  const server = createServer((socket) => socket.end('six'));
  const { port } = await listening(server, { port: 0, host: '::', ipv6Only: true });
  assert.equal(await hear({ port, host: '::1' }), 'six');
  await assert.rejects(hear({ port, host: '127.0.0.1' }), { code: 'ECONNREFUSED' });
  await closed(server);
});

test('a host is looked up', async () => {
  const server = createServer((socket) => socket.end('local'));
  const { address, port } = await listening(server, { port: 0, host: 'localhost' });
  assert.ok(['127.0.0.1', '::1'].includes(address), address);
  assert.equal(await hear({ port, host: 'localhost' }), 'local');
  await closed(server);
});

test('a host that does not exist is an error', async () => {
  const error = await errorOf(createServer(), 0, 'no-such-host.invalid');
  assert.equal(error.syscall, 'getaddrinfo');
});

test('port 0 gives each server a port of its own', async () => {
  const [first, second] = [createServer((s) => s.end('first')), createServer((s) => s.end('second'))];
  const [one, other] = await Promise.all([
    listening(first, 0, '127.0.0.1'),
    listening(second, 0, '127.0.0.1'),
  ]);
  assert.notEqual(one.port, other.port);
  assert.equal(await hear(one), 'first');
  assert.equal(await hear(other), 'second');
  await Promise.all([closed(first), closed(second)]);
});

test('port 0 at two hosts works too', async () => {
  const [first, second] = [createServer((s) => s.end('first')), createServer((s) => s.end('second'))];
  const one = await listening(first, 0, '127.0.0.1');
  const other = await listening(second, 0, '127.0.0.2');
  assert.equal(one.address, '127.0.0.1');
  assert.equal(other.address, '127.0.0.2');
  assert.equal(await hear({ port: one.port, host: one.address }), 'first');
  assert.equal(await hear({ port: other.port, host: other.address }), 'second');
  await Promise.all([closed(first), closed(second)]);
});

test('the port of another server of this process is in use', async () => {
  const holder = createServer();
  const { port } = await listening(holder, 0, '127.0.0.1');
  const error = await errorOf(createServer(), port, '127.0.0.1');
  assert.deepEqual(plain(error), inUse(`127.0.0.1:${port}`, '127.0.0.1', port));
  await closed(holder);
});

test('the port of another server that listens everywhere is in use', { skip: !hasIPv6 }, async () => {
  const holder = createServer();
  const { port } = await listening(holder);
  assert.deepEqual(plain(await errorOf(createServer(), port)), inUse(`:::${port}`, '::', port));
  await closed(holder);
});

test('the port of an exclusive server is in use', async () => {
  const holder = createServer();
  const { port } = await listening(holder, { port: 0, host: '127.0.0.1', exclusive: true });
  const error = await errorOf(createServer(), port, '127.0.0.1');
  assert.deepEqual(plain(error), inUse(`127.0.0.1:${port}`, '127.0.0.1', port));
  await closed(holder);
});

test('the port of another process is in use', async () => {
  const holder = fork(new URL('holder.js', import.meta.url));
  const [port] = await once(holder, 'message');
  const server = createServer((socket) => socket.end('mine'));
  const error = await errorOf(server, port, '127.0.0.1');
  assert.deepEqual(plain(error), inUse(`127.0.0.1:${port}`, '127.0.0.1', port));
  assert.equal(server.listening, false);
  holder.kill();
  await once(holder, 'exit');
  assert.equal((await listening(server, port, '127.0.0.1')).port, port);
  assert.equal(await hear({ port, host: '127.0.0.1' }), 'mine');
  await closed(server);
});

test('the path of another server is in use', async () => {
  const path = join(directory, 'used');
  const holder = createServer();
  await listening(holder, path);
  const error = await errorOf(createServer(), path);
  assert.deepEqual(plain(error), inUse(path, path, -1));
  await closed(holder);
});

test('an address that is not of this machine is not available', async () => {
  // 192.0.2.0/24 is for documentation (RFC 5737).
  const error = await errorOf(createServer(), 0, '192.0.2.1');
  assert.deepEqual(plain(error), {
    name: 'Error',
    message: 'listen EADDRNOTAVAIL: address not available 192.0.2.1',
    code: 'EADDRNOTAVAIL',
    errno: -99,
    syscall: 'listen',
    address: '192.0.2.1',
  });
});

test('a path in a directory that does not exist is refused', async () => {
  const path = join(directory, 'missing', 'socket');
  const error = await errorOf(createServer(), path);
  assert.equal(error.syscall, 'listen');
  assert.equal(error.address, path);
  assert.equal(error.code, 'EACCES'); // libuv reports ENOENT like this on every system (uv_pipe_bind)
});

test('a descriptor that is no socket is refused', async () => {
  const error = await errorOf(createServer(), { fd: 0x7fff });
  assert.equal(error.syscall, 'listen');
  assert.ok(['EINVAL', 'EBADF', 'EEXIST'].includes(error.code), error.code);
});

test('a server that listens is not told to listen again', async () => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  assert.throws(() => server.listen(0, '127.0.0.1'), { code: 'ERR_SERVER_ALREADY_LISTEN' });
  await closed(server);
});

test('wrong arguments throw at once', () => {
  const server = createServer();
  assert.throws(() => server.listen(65_536), { code: 'ERR_SOCKET_BAD_PORT' });
  assert.throws(() => server.listen({}), { code: 'ERR_INVALID_ARG_VALUE' });
  assert.throws(() => server.listen(false), { code: 'ERR_INVALID_ARG_VALUE' });
});

test('a server that was closed listens again, at the same port', async () => {
  const server = createServer((socket) => socket.end('again'));
  const { port } = await listening(server, 0, '127.0.0.1');
  await closed(server);
  assert.equal((await listening(server, port, '127.0.0.1')).port, port);
  assert.equal(await hear({ port, host: '127.0.0.1' }), 'again');
  server.close();
  const other = createServer((socket) => socket.end('other'));
  assert.equal((await listening(other, port, '127.0.0.1')).port, port, 'free as soon as close was called');
  assert.equal(await hear({ port, host: '127.0.0.1' }), 'other');
  await closed(other);
});

test('an abort signal closes it', async () => {
  const server = createServer();
  const controller = new AbortController();
  await listening(server, { port: 0, host: '127.0.0.1', signal: controller.signal });
  controller.abort();
  await once(server, 'close');
  assert.equal(server.listening, false);
});

test('a signal that was aborted before closes it too', async () => {
  const server = createServer();
  server.listen({ port: 0, host: '127.0.0.1', signal: AbortSignal.abort() });
  await once(server, 'close');
  assert.equal(server.listening, false);
});

test(
  'a name in the abstract namespace is found by clients, and is told as it was given',
  { skip: process.platform !== 'linux' },
  async () => {
    const path = `\0${directory}`;
    const server = createServer((socket) => socket.end('here'));
    assert.equal(await listening(server, path), path);
    assert.equal(await hear(path), 'here');
    await closed(server);
  },
);
