// Variant 1 with CPython at either end: a parent passes the clients it accepts to its child, over a Pipe.
import assert from 'node:assert/strict';
import { it } from 'node:test';

import { listen } from '../../src/fd/index.js';
import { Pipe, sendHandle } from '../../src/multiprocessing/index.js';
import { describeWithEachPython, peer } from '../support/peers.js';
import { example, withPrograms } from '../support/program.js';
import { portOf, talkAtOnce } from '../support/tcp-client.js';

const CLIENTS = 5;

describeWithEachPython('a Pipe from a Node parent to a Python child', (python) => {
  it(
    'brings the child every client, as a socket that blocks',
    withPrograms(async (start) => {
      await using clients = await listen({ host: '127.0.0.1', port: 0 });
      const [parentEnd, childEnd] = Pipe();
      using parent = parentEnd;
      const child = start(...peer(python, 'pipe_child'), { descriptors: [childEnd.fd] });
      childEnd.close();
      const talks = talkAtOnce(portOf(clients), CLIENTS);
      for (let count = 0; count < CLIENTS; count++) {
        using client = await clients.accept();
        await sendHandle(parent, client, child.pid);
      }
      await talks;
      parent.close();
      assert.equal(await child.exit, 0);
      assert.deepEqual(child.lines, Array(CLIENTS).fill('GOT FD blocking'));
      assert.equal(await child.stderr, '');
    }),
  );
});

describeWithEachPython('a Pipe from a Python parent to a Node child', (python) => {
  it(
    'brings the child every client',
    withPrograms(async (start) => {
      const [node, pipe] = example('pipe');
      const parent = start(...peer(python, 'pipe_parent', String(CLIENTS), node, ...pipe), {
        env: { PASSFD_EXAMPLE_CHILD: 'true' },
      });
      const [, port] = await parent.line(/^LISTENING (\d+)$/);
      await talkAtOnce(Number(port), CLIENTS);
      assert.equal(await parent.exit, 0);
      assert.equal(parent.lines.filter((line) => /^CHILD: GOT FD \d+$/.test(line)).length, CLIENTS);
      assert.deepEqual(parent.lines.at(-1), 'CHILD ENDED WITH 0');
      assert.equal(await parent.stderr, '');
    }),
  );
});
