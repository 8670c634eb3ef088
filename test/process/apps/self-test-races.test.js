// An ordinary test file: servers that are closed before they listen, and others at the same address.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import test from 'node:test';

const host = '127.0.0.1';

async function listening(server, port = 0) {
  server.listen(port, host);
  await once(server, 'listening');
  return server.address().port;
}

/** A port that no process has any more. */
async function freePort() {
  const server = createServer();
  const port = await listening(server);
  server.close();
  await once(server, 'close');
  return port;
}

async function hear(port) {
  const socket = connect(port, host);
  let heard = '';
  for await (const text of socket.setEncoding('utf8')) heard += text;
  return heard;
}

async function closed(server) {
  server.close();
  await once(server, 'close');
}

test('a server that is closed before it listens takes nothing from the one that listens there', async () => {
  const first = createServer((socket) => socket.end('first'));
  const port = await listening(first);
  const second = createServer().on('error', () => {});
  second.listen(port, host);
  second.close();
  assert.equal(await hear(port), 'first');
  await closed(first);
});

test('a server listens where one was closed before it listened', async () => {
  const port = await freePort();
  const first = createServer();
  first.listen(port, host);
  first.close();
  const second = createServer((socket) => socket.end('second'));
  await listening(second, port);
  assert.equal(await hear(port), 'second');
  await closed(second);
});

test('a server listens again that was closed before it listened', async () => {
  const port = await freePort();
  const server = createServer((socket) => socket.end('again'));
  server.listen(port, host);
  server.close();
  await listening(server, port);
  assert.equal(await hear(port), 'again');
  await closed(server);
});
