// Workers of unmodified CPython in a dispatcher's pool: beside others, busy, and killed.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { it } from 'node:test';

import {
  Dispatcher,
  type ControlOptions,
  type DispatcherOptions,
  type WorkerView,
} from '../../src/dispatcher/index.js';
import type { Address } from '../../src/fd/index.js';
import { FakeWorker } from '../support/fake-worker.js';
import { temporaryDirectory } from '../support/files.js';
import { isPending, turns } from '../support/loop.js';
import { describeWithFirstAndLastPython, peer } from '../support/peers.js';
import { withPrograms, type Program, type Start } from '../support/program.js';
import type { Python } from '../support/pythons.js';
import { talk, talkAtOnce, TcpClient } from '../support/tcp-client.js';

/** The key of the Python programs. */
const KEY: ControlOptions = { authkey: 'peekaboo' };

const GOT = 'GOT FD blocking';

interface Pool {
  /** Warnings of the dispatcher. A test takes out those that it expects. */
  readonly warnings: unknown[];
  readonly dispatcher: Dispatcher;
  readonly port: number;
  readonly control: string;
  /** Starts a worker, and waits until it is ready. */
  start(name: 'listener_worker' | 'raw_worker', ...args: string[]): Promise<[Program, WorkerView]>;
}

/** A dispatcher in this process that lets both kinds of Python workers join. */
async function withPool(
  python: Python,
  start: Start,
  body: (pool: Pool) => Promise<void>,
  options: DispatcherOptions = {},
): Promise<void> {
  await using directory = await temporaryDirectory();
  const programs: Program[] = [];
  await using dispatcher = new Dispatcher(options);
  const warnings: unknown[] = [];
  dispatcher.on('warned', (error) => warnings.push(error));
  const address: Address = await dispatcher.listen({ host: '127.0.0.1', port: 0 });
  assert.ok('port' in address);
  const paths = {
    listener_worker: `${directory.path}/control`,
    raw_worker: `${directory.path}/raw`,
  };
  await dispatcher.openControl(paths.listener_worker, KEY);
  await dispatcher.openRawControl(paths.raw_worker);
  await body({
    warnings,
    dispatcher,
    port: address.port,
    control: paths.listener_worker,
    start: async (name, ...args) => {
      const program = start(...peer(python, name, paths[name], ...args), { ownGroup: true });
      programs.push(program);
      const ended = program.exit.then(async (how) => {
        throw new Error(`The worker ended with ${how}: ${await program.stderr}`);
      });
      ended.catch(() => undefined);
      const [worker] = (await Promise.race([once(dispatcher, 'ready'), ended])) as [WorkerView];
      return [program, worker];
    },
  });
  await dispatcher.close();
  assert.deepEqual(warnings, []);
  for (const program of programs) {
    const exit = await program.exit;
    if (exit === 'SIGKILL') continue;
    assert.deepEqual([exit, await program.stderr], [0, '']);
  }
}

/** Has a worker adopt everything that it gets, until it is closed. */
function adoptAll(worker: FakeWorker): void {
  const isOver = (async (): Promise<void> => {
    for (;;) {
      await worker.handoff();
      await worker.adopt();
    }
  })();
  isOver.catch(() => undefined);
}

async function until(fact: () => boolean): Promise<void> {
  while (!fact()) await turns(1);
}

/** Stops a process, and waits until it has stopped. */
async function stop(program: Program): Promise<void> {
  program.signal('SIGSTOP');
  // proc_pid_stat(5): the state comes after the name.
  await until(() => readFileSync(`/proc/${program.pid}/stat`, 'utf8').includes(') T '));
}

describeWithFirstAndLastPython('a Python worker in a pool', (python) => {
  it(
    'joins by the control socket with the key, and serves clients',
    withPrograms((start) =>
      withPool(python, start, async (pool) => {
        const [program, worker] = await pool.start('listener_worker');
        assert.deepEqual([worker.pid, worker.dialect], [program.pid, 'multiprocessing']);
        await talkAtOnce(pool.port, 5);
        await until(() => worker.adopted === 5);
        await pool.dispatcher.close();
        assert.equal(await program.exit, 0);
        assert.deepEqual(program.lines, ['JOINED', GOT, GOT, GOT, GOT, GOT]);
      }),
    ),
  );

  it(
    'joins by the raw control socket, and answers OK to each',
    withPrograms((start) =>
      withPool(python, start, async (pool) => {
        const [program, worker] = await pool.start('raw_worker');
        assert.deepEqual([worker.pid, worker.dialect], [program.pid, 'raw']);
        await talkAtOnce(pool.port, 5);
        assert.equal(worker.adopted, 5);
        await pool.dispatcher.close();
        assert.equal(await program.exit, 0);
        assert.deepEqual(program.lines, ['JOINED', GOT, GOT, GOT, GOT, GOT]);
      }),
    ),
  );

  for (const name of ['listener_worker', 'raw_worker'] as const) {
    it(
      `gets no client while it is busy with one and another worker is free: ${name}`,
      withPrograms((start) =>
        withPool(python, start, async (pool) => {
          const [, busy] = await pool.start(name);
          using slow = await TcpClient.connect(pool.port);
          await slow.echo('I take my time');
          const [, free] = await pool.start(name);
          for (let count = 0; count < 5; count++) await talk(pool.port, 'I am in a hurry');
          await until(() => free.adopted === 5);
          assert.deepEqual([busy.adopted, busy.inFlight, busy.active], [1, 0, 1]);
          await slow.echo('now I am done');
          await slow.hangUp();
          await until(() => busy.active === 0);
          for (let count = 0; count < 4; count++) await talk(pool.port, 'me too');
          assert.ok(busy.adopted > 1, 'it gets clients again');
        }),
      ),
    );
  }

  it(
    'gets all clients that come, if it serves each in a thread',
    withPrograms((start) =>
      withPool(python, start, async (pool) => {
        const [program, worker] = await pool.start('listener_worker', 'at-once');
        const clients = await Promise.all(Array.from({ length: 20 }, () => TcpClient.connect(pool.port)));
        for (const client of clients) await client.echo('all of us at once');
        await until(() => worker.adopted === 20);
        assert.equal(worker.active, 20);
        await stop(program);
        const drained = pool.dispatcher.drainWorker(worker.id);
        assert.equal(await isPending(drained), true);
        program.signal('SIGCONT');
        for (const client of clients) await client.hangUp();
        await drained;
        assert.equal(await program.exit, 0);
      }),
    ),
  );

  it(
    'gets its share beside a worker of another dialect, if it serves each client in a thread',
    withPrograms((start) =>
      withPool(
        python,
        start,
        async ({ dispatcher, port, control, ...pool }) => {
          const [, worker] = await pool.start('listener_worker', 'at-once');
          const ready = once(dispatcher, 'ready') as Promise<[WorkerView]>;
          using other = await FakeWorker.join(control, KEY);
          await other.serve();
          const [view] = await ready;
          adoptAll(other);
          const clients: TcpClient[] = [];
          while (clients.length < 60) {
            clients.push(await TcpClient.connect(port));
            await until(() => worker.adopted + view.adopted === clients.length);
          }
          assert.deepEqual([worker.active, view.active], [30, 30]);
          for (const client of clients) client[Symbol.dispose]();
          await until(() => worker.active === 0);
        },
        { policy: 'least-connections' },
      ),
    ),
  );

  for (const name of ['listener_worker', 'raw_worker'] as const) {
    it(
      `makes no client wait for another one if its declared limit is 1, even if others have much to do: ${name}`,
      withPrograms((start) =>
        withPool(
          python,
          start,
          async ({ dispatcher, port, control, ...pool }) => {
            const [, worker] = await pool.start(name);
            using slow = await TcpClient.connect(port);
            await slow.echo('I take my time');
            const ready = once(dispatcher, 'ready') as Promise<[WorkerView]>;
            using other = await FakeWorker.join(control, KEY);
            await other.serve();
            const [view] = await ready;
            adoptAll(other);
            const clients: TcpClient[] = [];
            while (clients.length < 20) {
              clients.push(await TcpClient.connect(port));
              await until(() => view.adopted === clients.length);
            }
            assert.deepEqual([worker.adopted, worker.inFlight], [1, 0]);
            await slow.hangUp();
            using next = await TcpClient.connect(port);
            await until(() => worker.adopted + view.adopted === 22);
            if (worker.adopted === 2) await next.echo('my turn');
            for (const client of clients) client[Symbol.dispose]();
          },
          { policy: 'least-connections', recipeConcurrency: 1 },
        ),
      ),
    );
  }

  for (const name of ['listener_worker', 'raw_worker'] as const) {
    it(
      `that is killed loses only what it had not received, to another worker: ${name}`,
      withPrograms((start) =>
        withPool(python, start, async (pool) => {
          const { dispatcher } = pool;
          const [victim, worker] = await pool.start(name, 'at-once');
          using own = await TcpClient.connect(pool.port);
          await own.echo('served by the victim');
          await until(() => worker.adopted === 1);
          await stop(victim);
          using unread = await TcpClient.connect(pool.port);
          await until(() => worker.inFlight === 1);
          const heard = unread.echo('served by the heir');
          const [heir] = await pool.start('listener_worker');
          const left = once(dispatcher, 'left') as Promise<[WorkerView, { redelivered: number }]>;
          victim.signal('SIGKILL');
          const [, { redelivered }] = await left;
          assert.equal(redelivered, 1);
          await heard;
          await unread.hangUp();
          await assert.rejects(own.echo('is gone with its worker'));
          await heir.line(/^GOT FD blocking$/);
          await until(() => dispatcher.status().connections.adopted === 2);
        }),
      ),
    );
  }

  for (const name of ['listener_worker', 'raw_worker'] as const) {
    it(
      `that is killed gets nothing more while its child may still receive what is in flight: ${name}`,
      withPrograms((start) =>
        withPool(python, start, async ({ dispatcher, port, warnings, ...pool }) => {
          const [victim, worker] = await pool.start(name, 'fork');
          const [, child] = await victim.line(/^FORKED (\d+)$/);
          await stop(victim);
          using client = await TcpClient.connect(port);
          await until(() => worker.inFlight === 1);
          const heard = client.echo('served by the heir');
          victim.signal('SIGKILL');
          const draining = once(dispatcher, 'draining') as Promise<[WorkerView]>;
          assert.equal((await draining)[0], worker);
          const [warning] = warnings.splice(0) as [Error];
          assert.match(warning.message, new RegExp(`[Pp]rocess ${victim.pid} has ended`));
          await pool.start('listener_worker');
          await talk(port, 'served by the heir, too');
          assert.equal(worker.inFlight, 1);
          const left = once(dispatcher, 'left') as Promise<[WorkerView, { redelivered: number }]>;
          process.kill(Number(child), 'SIGKILL');
          assert.equal((await left)[1].redelivered, 1);
          await heard;
          await client.hangUp();
        }),
      ),
    );
  }

  it(
    'finishes its connections when it is drained, and exits',
    withPrograms((start) =>
      withPool(python, start, async (pool) => {
        const [program, worker] = await pool.start('listener_worker');
        using client = await TcpClient.connect(pool.port);
        await client.echo('before');
        const drained = pool.dispatcher.drainWorker(worker.id);
        await client.echo('and after');
        await client.hangUp();
        await drained;
        assert.equal(await program.exit, 0);
      }),
    ),
  );
});
