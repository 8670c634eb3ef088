// An ordinary test of a closed server: it accepts no client any more.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { test } from 'node:test';

test('whoever comes when close has called back is refused', async () => {
  for (let round = 0; round < 20; round++) {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address();
    await new Promise((resolve) => server.close(resolve));
    const [error] = await once(
      connect(port, '127.0.0.1').on('connect', () => assert.fail('let in')),
      'error',
    );
    assert.equal(error.code, 'ECONNREFUSED', `round ${round}`);
  }
});
