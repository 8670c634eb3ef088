// A drain under load: clients with busy keep-alive connections lose no request.
import assert from 'node:assert/strict';
import { Agent, get } from 'node:http';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

import { temporaryDirectory } from '../support/files.js';
import { HttpClient } from '../support/http-client.js';
import { app, passfd } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

const CLIENTS = 16;
/** Requests that each client sends before the drain begins, and after it. */
const REQUESTS = 100;

/** The worker that answered, by the body of the answer. */
function workerIn(body: string): string {
  return body.split(' ')[0] ?? '';
}

/** Sends requests without a pause until `stop`. */
type Client = (port: number, answered: (worker: string) => void, isOver: () => boolean) => Promise<void>;

const withAgent: Client = async (port, answered, isOver) => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  try {
    while (!isOver()) {
      const body = await new Promise<string>((resolve, reject) => {
        get({ host: '127.0.0.1', port, agent }, (response) => {
          text(response).then(resolve, reject);
        }).on('error', reject);
      });
      answered(workerIn(body));
    }
  } finally {
    agent.destroy();
  }
};

/** Opens a new connection only when an answer has announced the end of this one. */
const withBytes: Client = async (port, answered, isOver) => {
  while (!isOver()) {
    using client = await HttpClient.connect(port);
    for (let isLast = false; !isLast && !isOver();) {
      client.ask('/');
      const { body, connection } = await client.answer();
      answered(workerIn(body));
      isLast = connection === 'close';
    }
  }
};

/** A worker that listens is ready for the dispatcher a moment later. */
async function bothAnswer(port: number): Promise<void> {
  for (const workers = new Set<string>(); workers.size < 2;) {
    using client = await HttpClient.connect(port);
    client.ask('/');
    workers.add(workerIn((await client.answer()).body));
  }
}

describe('`passfd drain` of a worker whose clients ask at full speed', () => {
  for (const [name, client] of Object.entries({
    'the Agent of Node': withAgent,
    'plain sockets': withBytes,
  })) {
    it(
      `leaves no request of ${name} without its answer, and the other worker takes over`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const program = start(...passfd('run', '--workers', '2', '--control', control, app('http.js')));
        await program.line(/^listening (\d+)$/);
        const port = Number((await program.line(/^listening (\d+)$/))[1]);
        await bothAnswer(port);

        const counts = new Map<string, number>();
        let answers = 0;
        let wanted = Number.POSITIVE_INFINITY;
        let begin: () => void = () => undefined;
        const begun = new Promise<void>((resolve) => (begin = resolve));
        const loads = Array.from({ length: CLIENTS }, () =>
          client(
            port,
            (worker) => {
              counts.set(worker, (counts.get(worker) ?? 0) + 1);
              if (++answers === CLIENTS * REQUESTS) begin();
            },
            () => answers >= wanted,
          ),
        );
        const load = Promise.all(loads);
        await Promise.race([begun, load]);
        assert.ok((counts.get('1') ?? 0) > 0, 'worker 1 has clients');

        const drain = start(...passfd('drain', '1', '--control', control));
        await Promise.race([drain.exit, load]);
        assert.equal(await drain.exit, 0);
        // Each client may have one last answer of the worker that it has not read yet.
        const before = new Map(counts);
        wanted = answers + CLIENTS * REQUESTS;
        await load;
        const since = (worker: string): number => (counts.get(worker) ?? 0) - (before.get(worker) ?? 0);
        assert.ok(since('1') <= CLIENTS, 'the drained worker serves nobody any more');
        assert.ok(since('2') >= CLIENTS * (REQUESTS - 1), 'the other one serves all');
      }),
    );
  }
});
