// passfd as a service: with the sockets of a unit, and with those that the manager keeps for it.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';

import { listen, type TcpAddress } from '../../src/fd/index.js';
import { ProcessWatch } from '../../src/fd/internal.js';
import { ACCEPT_MODES, type AcceptMode } from '../support/accept-modes.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { untilEnded } from '../support/processes.js';
import { withPrograms } from '../support/program.js';
import { ServiceManager, withoutServiceManager, type ServiceOptions } from '../support/service-manager.js';

/** What a test has: a manager of passfd, and where the parts of it are. */
interface Scene {
  readonly manager: ServiceManager;
  readonly control: string;
  /** Of the one Unix socket in the test. */
  readonly path: string;
}

function managed(
  words: (scene: { readonly path: string; readonly control: string }) => readonly string[],
  body: (scene: Scene) => Promise<void>,
  options: (path: string) => Partial<ServiceOptions> = () => ({}),
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    const path = `${directory.path}/web`;
    const [program, args] = passfd(...words({ path, control }));
    const manager = new ServiceManager(start, {
      command: [program, ...args],
      notify: `${directory.path}/notify`,
      ...options(path),
    });
    await manager.addresses();
    await body({ manager, control, path });
    manager.signal('SIGTERM');
    await manager.ended();
    await manager.end();
  });
}

const run = (control: string, ...rest: readonly string[]): string[] => [
  'run',
  '--workers',
  '2',
  '--control',
  control,
  ...rest,
];

/** An answer over HTTP, of a connection that is open already or about to be. */
async function answered(client: Socket): Promise<string> {
  client.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  return text(client);
}

async function askAt(path: string): Promise<string> {
  return answered(connect(path));
}

const unit = (path: string): Partial<ServiceOptions> => ({ listen: [['web', path]] });

/** The app listens there on its own account. */
const planned = (path: string): Partial<ServiceOptions> => ({
  ...unit(path),
  env: { PLAN: JSON.stringify({ all: [{ name: 'web', listen: { path } }] }) },
});

describe('passfd that a socket unit has started', { skip: withoutServiceManager }, () => {
  it(
    'run gives the sockets of a name to the app, and is ready when its workers are',
    managed(
      ({ control }) => run(control, '--listen', 'fd:web', app('http.js')),
      async ({ manager, control, path }) => {
        const { pid } = await manager.start();
        const ready = await manager.notified('READY=1');
        assert.equal(ready.pid, pid);
        assert.match(await askAt(path), /^HTTP\/1\.1 200 /);
        const { listeners, workers } = await statusOf(control);
        assert.deepEqual(
          listeners.map(({ address }) => address),
          [path],
        );
        assert.deepEqual(
          workers.map(({ state }) => state),
          ['ready', 'ready'],
        );
      },
      unit,
    ),
  );

  it(
    'serve is ready as soon as it listens, since its workers may come later',
    managed(
      ({ control }) => ['serve', '--listen', 'fd:web', '--control', control],
      async ({ manager, control, path }) => {
        await manager.start();
        await manager.notified('READY=1');
        const { listeners } = await statusOf(control);
        assert.deepEqual(
          listeners.map(({ address }) => address),
          [path],
        );
      },
      unit,
    ),
  );

  it(
    'takes the socket that is there for an address, and does not find that in use',
    managed(
      ({ control, path }) => run(control, '--listen', `unix:${path}`, app('http.js')),
      async ({ manager, path }) => {
        await manager.start();
        await manager.notified('READY=1');
        assert.match(await askAt(path), /^HTTP\/1\.1 200 /);
      },
      unit,
    ),
  );

  it(
    'leaves the socket that the app asked for to the unit when it stops: who comes then waits for the next start',
    managed(
      ({ control }) => run(control, app('listener.js')),
      async ({ manager, path }) => {
        await manager.start();
        await manager.notified('READY=1');
        manager.signal('SIGTERM');
        assert.equal(await manager.ended(), 0);
        const client = connect(path);
        await once(client, 'connect'); // not refused
        const { names } = await manager.start();
        assert.deepEqual(names, ['web'], 'none was stored');
        const [greeting] = (await once(client, 'data')) as [Buffer];
        assert.match(greeting.toString(), /^\d web$/m);
        client.end();
        await text(client);
      },
      planned,
    ),
  );

  it(
    'leaves it to the unit also when the app closes its server',
    managed(
      ({ control }) => ['run', '--workers', '1', '--control', control, app('listener.js')],
      async ({ manager, path }) => {
        await manager.start();
        await manager.notified('READY=1');
        const last = connect(path);
        last.end('close');
        await text(last);
        // The app has nothing more to do then. It has served, so it is started again, and listens there again.
        manager.signal('SIGTERM');
        assert.equal(await manager.ended(), 0);
        const client = connect(path);
        await once(client, 'connect'); // not refused
        await manager.start();
        await once(client, 'data');
        client.end();
        await text(client);
      },
      planned,
    ),
  );

  it(
    'gives none of it to a worker: no descriptor that was passed, and no variable that tells of one',
    managed(
      ({ control }) => run(control, '--listen', 'fd:web', app('http.js')),
      async ({ manager, control }) => {
        await manager.start();
        await manager.notified('READY=1');
        const { workers } = await statusOf(control);
        assert.equal(workers.length, 2);
        for (const { pid } of workers) {
          const names = readFileSync(`/proc/${pid}/environ`, 'utf8')
            .split('\0')
            .map((variable) => variable.replace(/=.*/s, ''));
          assert.deepEqual(
            names.filter((name) => /^(NOTIFY_SOCKET|WATCHDOG_|LISTEN_|FDSTORE$)/.test(name)),
            [],
          );
        }
      },
      (path) => ({ ...unit(path), env: { WATCHDOG_USEC: '60000000', FDSTORE: '16' } }),
    ),
  );

  it(
    'ends with code 1 for an unknown name, and lists those that there are',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const [program, args] = passfd('serve', '--listen', 'fd:wep', '--control', `${directory.path}/control`);
      const manager = new ServiceManager(start, {
        command: [program, ...args],
        notify: `${directory.path}/notify`,
        listen: [['web', `${directory.path}/web`]],
      });
      await manager.addresses();
      await manager.start();
      await manager.printed(/No inherited descriptor is named .*wep.*; names: web/);
      assert.equal(await manager.ended(), 1);
      await manager.end();
    }),
  );
});

describe('passfd whose manager keeps its sockets', { skip: withoutServiceManager }, () => {
  it(
    'has the same listening socket after a kill, and a client that came meanwhile is served',
    managed(
      ({ control, path }) => run(control, '--listen', `unix:${path}`, app('http.js')),
      async ({ manager, path }) => {
        await manager.start();
        const stored = await manager.notified('FDSTORE=1');
        assert.deepEqual(stored.lines, ['FDSTORE=1', `FDNAME=listener-${path}`]);
        await manager.notified('READY=1');
        manager.signal('SIGKILL');
        assert.equal(await manager.ended(), -9);
        const client = connect(path);
        await once(client, 'connect'); // not refused
        const { names } = await manager.start();
        assert.deepEqual(names, [`listener-${path}`]);
        assert.match(await answered(client), /^HTTP\/1\.1 200 /);
      },
    ),
  );
});

/** Starts services one after the other that differ in where they listen; the manager keeps their sockets. */
function restarted(
  body: (
    scene: Pick<Scene, 'manager' | 'control'> & { readonly listenAt: (address: string) => void },
  ) => Promise<void>,
  accept: AcceptMode = 'hand-off',
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const control = `${directory.path}/control`;
    const script = `${directory.path}/command`;
    const listenAt = (address: string): void => {
      const [program, args] = passfd(
        ...run(control, '--accept', accept, '--listen', address, app('http.js')),
      );
      writeFileSync(script, `exec ${[program, ...args].join(' ')}`);
    };
    const manager = new ServiceManager(start, {
      command: ['/bin/sh', script],
      notify: `${directory.path}/notify`,
    });
    await manager.addresses();
    await body({ manager, control, listenAt });
    manager.signal('SIGTERM');
    await manager.ended();
    await manager.end();
  });
}

/** A port that was free a moment ago, and that nobody is given soon. */
async function freePort(): Promise<number> {
  await using acceptor = await listen({ host: '127.0.0.1', port: 0 });
  return (acceptor.address as TcpAddress).port;
}

/** Kills the service, and waits for the end of its workers: they have its sockets too. */
async function kill({ manager, control }: Pick<Scene, 'manager' | 'control'>): Promise<void> {
  const { workers } = await statusOf(control);
  manager.signal('SIGKILL');
  assert.equal(await manager.ended(), -9);
  for (const { pid } of workers) {
    await new Promise<void>((resolve) => ProcessWatch.start(pid, resolve, { keepsAlive: true }));
  }
}

describe('passfd that finds stored sockets', { skip: withoutServiceManager }, () => {
  for (const accept of ACCEPT_MODES) {
    it(
      `goes on with them after a stop, and no client that came meanwhile is refused: ${accept}`,
      restarted(async ({ manager, listenAt }) => {
        const port = await freePort();
        listenAt(`127.0.0.1:${port}`);
        await manager.start();
        await manager.notified('READY=1');
        manager.signal('SIGTERM');
        assert.equal(await manager.ended(), 0);
        const client = connect(port, '127.0.0.1');
        await once(client, 'connect'); // not refused
        const { names } = await manager.start();
        assert.deepEqual(names, [`listener-127.0.0.1%3A${port}`]);
        assert.match(await answered(client), /^HTTP\/1\.1 200 /);
      }, accept),
    );
  }

  it(
    'gives up those that nobody asks for: their addresses are free, and they are stored no longer',
    restarted(async ({ manager, control, listenAt }) => {
      const [former, port] = [await freePort(), await freePort()];
      listenAt(`127.0.0.1:${former}`);
      await manager.start();
      await manager.notified('READY=1');
      await kill({ manager, control });
      listenAt(`127.0.0.1:${port}`);
      await manager.start();
      const { lines } = await manager.notified('FDSTOREREMOVE=1');
      assert.ok(lines.includes(`FDNAME=listener-127.0.0.1%3A${former}`));
      await assert.rejects(once(connect(former, '127.0.0.1'), 'connect'), { code: 'ECONNREFUSED' });
    }),
  );

  it(
    'gives up one that is in the way of what it is to listen at',
    restarted(async ({ manager, control, listenAt }) => {
      const port = await freePort();
      listenAt(`0.0.0.0:${port}`);
      await manager.start();
      await manager.notified('READY=1');
      await kill({ manager, control });
      listenAt(`127.0.0.1:${port}`);
      await manager.start();
      await manager.notified('READY=1');
      assert.match(await answered(connect(port, '127.0.0.1')), /^HTTP\/1\.1 200 /);
    }),
  );
});

describe('passfd under a manager', { skip: withoutServiceManager }, () => {
  it(
    'says that it stops, and ends with code 0',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const [program, args] = passfd(
        ...run(`${directory.path}/control`, '--listen', `unix:${directory.path}/web`, app('http.js')),
      );
      const manager = new ServiceManager(start, {
        command: [program, ...args],
        notify: `${directory.path}/notify`,
      });
      await manager.addresses();
      await manager.start();
      await manager.notified('READY=1');
      manager.signal('SIGTERM');
      await manager.notified('STOPPING=1');
      assert.equal(await manager.ended(), 0);
      await manager.end();
    }),
  );

  it(
    'proves that its event loop runs',
    managed(
      ({ control, path }) => run(control, '--listen', `unix:${path}`, app('http.js')),
      async ({ manager }) => {
        const { pid } = await manager.start();
        for (let count = 0; count < 3; count++) {
          assert.equal((await manager.notified('WATCHDOG=1')).pid, pid);
        }
      },
      () => ({ env: { WATCHDOG_USEC: '20000' } }),
    ),
  );

  it(
    'says when a rolling restart begins, and when it is done',
    managed(
      ({ control, path }) => run(control, '--listen', `unix:${path}`, app('http.js')),
      async ({ manager }) => {
        await manager.start();
        await manager.notified('READY=1');
        manager.signal('SIGHUP');
        const { lines } = await manager.notified('RELOADING=1');
        assert.match(lines.join(), /MONOTONIC_USEC=\d+/);
        await manager.notified('READY=1');
      },
    ),
  );

  it(
    'says nothing of a restart that waits for another one, and nothing of one that ends with it when it stops',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const mood = `${directory.path}/mood`;
      writeFileSync(mood, 'serve');
      const flags = ['--ready-timeout', '600000', app('moody.js')];
      const [program, args] = passfd(...run(`${directory.path}/control`, ...flags));
      const manager = new ServiceManager(start, {
        command: [program, ...args],
        notify: `${directory.path}/notify`,
        env: { MOOD_FILE: mood },
      });
      await manager.addresses();
      await manager.start();
      await manager.notified('READY=1');
      writeFileSync(mood, 'hang');
      manager.signal('SIGHUP');
      await manager.notified('RELOADING=1');
      manager.signal('SIGHUP');
      await manager.printed(/restart requested while another restart runs/);
      manager.signal('SIGTERM');
      assert.deepEqual((await manager.next()).lines, ['STOPPING=1']);
      assert.equal(await manager.ended(), 0);
      await manager.end();
    }),
  );

  it(
    'names the next generation as the main process before it ends, and that is notified by it',
    managed(
      ({ control, path }) => run(control, '--listen', `unix:${path}`, app('http.js')),
      async ({ manager, control, path }) => {
        const { pid } = await manager.start();
        await manager.notified('READY=1');
        manager.signal('SIGUSR2');
        const next = await nextPid(manager, pid);
        const status = await statusOf(control);
        assert.equal(status.pid, next);
        assert.match(await askAt(path), /^HTTP\/1\.1 200 /);
      },
    ),
  );

  for (const accept of ACCEPT_MODES) {
    it(
      `ends when the next generation is the main process, and that one serves on, hands on, and stops like the first: ${accept}`,
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const path = `${directory.path}/web`;
        const [program, args] = passfd(
          ...run(control, '--accept', accept, '--listen', `unix:${path}`, app('http.js')),
        );
        const manager = new ServiceManager(start, {
          command: [program, ...args],
          notify: `${directory.path}/notify`,
        });
        await manager.addresses();
        let { pid } = await manager.start();
        await manager.notified('READY=1');
        for (let takeover = 0; takeover < 3; takeover++) {
          assert.equal(await start(...passfd('takeover', '--control', control)).exit, 0);
          await untilEnded(pid);
          pid = (await statusOf(control)).pid;
          await manager.notified(`MAINPID=${pid}`);
          assert.match(await askAt(path), /^HTTP\/1\.1 200 /);
        }
        manager.signal('SIGTERM');
        await manager.notified('STOPPING=1');
        await manager.ended();
        await untilEnded(pid);
        await manager.end();
      }),
    );
  }
});

/** The process that a notification names as the main one. */
async function nextPid(manager: ServiceManager, former: number): Promise<number> {
  for (;;) {
    const { lines } = await manager.next();
    const named = lines.map((line) => /^MAINPID=(\d+)$/.exec(line)?.[1]).find((pid) => pid !== undefined);
    if (named !== undefined && Number(named) !== former) return Number(named);
  }
}
