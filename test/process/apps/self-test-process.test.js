// Ordinary tests of the process that an app finds at its start. They know nothing of passfd.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer, Socket } from 'node:net';
import { test } from 'node:test';

test('there is no global but those of Node', () => {
  const script = 'process.stdout.write(JSON.stringify(Object.getOwnPropertyNames(globalThis)))';
  const bare = execFileSync(process.execPath, ['--input-type=module', '--eval', script], {
    encoding: 'utf8',
  });
  const names = Object.getOwnPropertyNames(globalThis).filter((name) => !JSON.parse(bare).includes(name));
  assert.deepEqual(names, []);
});

test('Node has the arguments that it was given for this app, and passes no others on to what it starts', () => {
  assert.deepEqual(process.execArgv, []);
});

test('a server is among what keeps the process alive, while it listens and is referenced', async () => {
  const keeps = () => process.getActiveResourcesInfo().includes('TCPServerWrap');
  const server = createServer();
  assert.equal(keeps(), false);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  assert.equal(keeps(), true);
  server.unref();
  assert.equal(keeps(), false);
  server.ref();
  assert.equal(keeps(), true);
  server.close();
});

test('a server listens whatever has become of the methods of net.Socket', async (context) => {
  context.mock.method(Socket.prototype, 'connect', () => assert.fail('nothing connects'));
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  server.close();
});
