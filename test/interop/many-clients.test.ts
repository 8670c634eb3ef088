// A hundred clients at once, each with a MiB, whoever is the server and whoever the worker: each gets its own words back.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { listen } from '../../src/fd/index.js';
import { Pipe, sendHandle } from '../../src/multiprocessing/index.js';
import { temporaryDirectory } from '../support/files.js';
import { describeWithOnePython, peer } from '../support/peers.js';
import { example, withPrograms } from '../support/program.js';
import { portOf, talkMuchAtOnce } from '../support/tcp-client.js';

const COUNT = 100;

/** A command, given the path at which its server listens for workers. */
type Command = (path: string) => [command: string, args: string[]];

for (const [variant, prefix] of [
  ['listener', ''],
  ['raw', 'raw-'],
] as const) {
  const nodeServer: Command = (path) => example(`${prefix}server`, path, '0');
  const nodeWorker: Command = (path) => example(`${prefix}worker`, path);

  describe(`a hundred clients of the ${prefix}server example at once`, () => {
    it(`are answered by the ${prefix}worker example`, served(nodeServer, nodeWorker));
  });

  describeWithOnePython(`a hundred clients of the ${prefix}server example at once`, (python) => {
    const worker: Command = (path) => peer(python, `${variant}_worker`, path);
    const threadedWorker: Command = (path) => peer(python, `${variant}_worker`, path, 'at-once');
    it('wait in a queue for a Python worker that serves one after the other', served(nodeServer, worker));
    it('are answered by a Python worker with threads', served(nodeServer, threadedWorker));
  });

  describeWithOnePython(`a hundred clients of a Python ${variant} server at once`, (python) => {
    const server: Command = (path) => peer(python, `${variant}_server`, path, String(COUNT));
    it(`are answered by the ${prefix}worker example`, served(server, nodeWorker, 'server ends by itself'));
  });
}

describe('a hundred clients of the pipe example at once', () => {
  it(
    'are answered by its child',
    served(() => example('pipe', '0')),
  );
});

describeWithOnePython('a hundred clients of a Python parent at once', (python) => {
  it(
    'are answered by its Node child',
    served(
      () => {
        const [node, child] = example('pipe');
        return peer(python, 'pipe_parent', String(COUNT), 'env', 'PASSFD_EXAMPLE_CHILD=true', node, ...child);
      },
      undefined,
      'server ends by itself',
    ),
  );
});

describeWithOnePython('a hundred clients of a Node parent at once', (python) => {
  for (const [name, mode] of [
    ['wait in a queue for its Python child that serves one after the other', 'one-by-one'],
    ['are answered by its Python child with threads', 'at-once'],
  ] as const) {
    it(
      name,
      withPrograms(async (start) => {
        await using clients = await listen({ host: '127.0.0.1', port: 0 });
        const [parentEnd, childEnd] = Pipe();
        using parent = parentEnd;
        const child = start(...peer(python, 'pipe_child', mode), { descriptors: [childEnd.fd] });
        childEnd.close();
        const talks = talkMuchAtOnce(portOf(clients), COUNT);
        for (let count = 0; count < COUNT; count++) {
          using client = await clients.accept();
          await sendHandle(parent, client);
        }
        await talks;
        parent.close();
        assert.equal(await child.exit, 0);
        assert.equal(await child.stderr, '');
      }),
    );
  }
});

/** The body of a test in which a server and its worker serve all the clients, and end well. */
function served(server: Command, worker?: Command, end?: 'server ends by itself'): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const path = `${directory.path}/server`;
    const programs = [start(...server(path))];
    const [, port] = (await programs[0]?.line(/listening\b.*\b(\d+)$/i)) ?? [];
    if (worker) programs.push(start(...worker(path)));
    await talkMuchAtOnce(Number(port), COUNT);
    if (!end) programs[0]?.signal('SIGTERM');
    for (const program of programs) {
      assert.equal(await program.stderr, '');
      assert.equal(await program.exit, 0);
    }
  });
}
