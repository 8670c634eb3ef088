// A service and its manager: sockets from units, notifications, and the store that brings listening sockets back.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectNode, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { formatAddress, type Address } from '../../src/fd/index.js';
import { temporaryDirectory } from '../support/files.js';
import { withPrograms } from '../support/program.js';
import { ServiceManager, withoutServiceManager, type ServiceOptions } from '../support/service-manager.js';

const fixture = fileURLToPath(new URL('./fixtures/service.js', import.meta.url));

/** What the fixture tells of itself. */
interface Report {
  readonly pid: number;
  readonly addresses: readonly Address[];
  readonly sockets: readonly number[];
  readonly found: readonly (string | null)[];
  readonly unwanted: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly ofChildren: readonly string[];
}

/** A manager of the fixture, with what it needs to be asked in a test. */
class Stage {
  readonly manager: ServiceManager;

  constructor(...args: ConstructorParameters<typeof ServiceManager>) {
    this.manager = new ServiceManager(...args);
  }

  /** Starts the service, and waits until it is ready. */
  async start(): Promise<Report> {
    const { pid } = await this.manager.start();
    const [line] = await this.manager.printed(new RegExp(`^\\{"pid":${pid},.*`));
    const ready = await this.manager.notified('READY=1');
    assert.equal(ready.pid, pid);
    return JSON.parse(line) as Report;
  }
}

function onStage(
  words: (path: string) => readonly string[],
  body: (stage: Stage, path: string) => Promise<void>,
  options: (path: string) => Partial<ServiceOptions> = () => ({}),
): () => Promise<void> {
  return withPrograms(async (start) => {
    await using directory = await temporaryDirectory();
    const { path } = directory;
    const command = [process.execPath, fixture, ...words(path)];
    const stage = new Stage(start, { command, notify: `${path}/notify`, ...options(path) });
    await stage.manager.addresses();
    await body(stage, path);
    await stage.manager.end();
  });
}

function connectTo(address: Address | undefined): Socket {
  assert.ok(address);
  return 'path' in address ? connectNode(address.path) : connectNode(address.port, address.host);
}

/** The process that serves a client who comes to an address. */
async function served(client: Socket): Promise<number> {
  return Number(await text(client));
}

describe('a service with a socket unit', { skip: withoutServiceManager }, () => {
  it(
    'serves all sockets of the name that it is told, in their order, and no child of it has them',
    onStage(
      () => ['name=web'],
      async (stage, path) => {
        const report = await stage.start();
        assert.equal(report.addresses.length, 2);
        assert.deepEqual(report.addresses[1], { path: `${path}/web` });
        for (const address of report.addresses) assert.equal(await served(connectTo(address)), report.pid);
        assert.deepEqual(report.ofChildren, []);
      },
      (path) => ({
        listen: [
          ['admin', `${path}/admin`],
          ['web', '127.0.0.1', 0],
          ['web', `${path}/web`],
        ],
      }),
    ),
  );

  it(
    'finds the socket of an address that it would listen at, written in any way',
    onStage(
      (path) => [`${path}/./web`],
      async (stage, path) => {
        const report = await stage.start();
        assert.deepEqual(report.found, ['web']);
        assert.deepEqual(report.addresses, [{ path: `${path}/web` }]);
        assert.equal(await served(connectTo(report.addresses[0])), report.pid);
      },
      (path) => ({ listen: [['web', `${path}/web`]] }),
    ),
  );

  it(
    'ends with an error that lists the names that there are, when it is told another',
    onStage(
      () => ['name=wep'],
      async ({ manager }) => {
        await manager.start();
        await manager.printed(/No inherited descriptor is named "wep"; names: web, admin/);
        assert.equal(await manager.ended(), 1);
      },
      (path) => ({
        listen: [
          ['web', '127.0.0.1', 0],
          ['admin', `${path}/admin`],
          ['web', `${path}/web`],
        ],
      }),
    ),
  );
});

describe('a service without a socket unit', { skip: withoutServiceManager }, () => {
  it(
    'has its listening sockets again when it is started again after a kill, and clients wait meanwhile',
    onStage(
      (path) => ['127.0.0.1:0', `${path}/web`],
      async (stage, path) => {
        const first = await stage.start();
        assert.deepEqual(first.found, [null, null]);
        stage.manager.signal('SIGKILL');
        assert.equal(await stage.manager.ended(), -9);
        const client = connectTo({ path: `${path}/web` });
        await once(client, 'connect'); // not refused
        const second = await stage.start();
        assert.deepEqual(second.found, [null, `listener-${path}/web`]);
        assert.equal(second.sockets[1], first.sockets[1]);
        assert.equal(await served(client), second.pid);
      },
    ),
  );

  it(
    'gives up the stored sockets that it does not want any more, so that their addresses are free',
    onStage(
      () => ['127.0.0.1:0'],
      async (stage) => {
        const first = await stage.start();
        stage.manager.signal('SIGKILL');
        await stage.manager.ended();
        const second = await stage.start();
        const [former] = first.addresses;
        assert.ok(former);
        assert.deepEqual(second.unwanted, [`listener-${formatAddress(former).replace(':', '%3A')}`]);
        const client = connectTo(former);
        const [error] = (await once(client, 'error')) as [NodeJS.ErrnoException];
        assert.equal(error.code, 'ECONNREFUSED');
      },
    ),
  );

  it(
    'says that it is ready, and then that it stops, from its own process',
    onStage(
      () => [],
      async ({ manager }) => {
        const { pid } = await manager.start();
        const ready = await manager.next();
        assert.deepEqual([ready.pid, ready.lines], [pid, ['READY=1']]);
        await manager.printed(/^\{/); // so it waits for the signal
        manager.signal('SIGTERM');
        const stopping = await manager.next();
        assert.deepEqual([stopping.pid, stopping.lines], [pid, ['STOPPING=1']]);
        assert.equal(await manager.ended(), 0);
      },
    ),
  );

  it(
    'proves to a watching manager, time after time, that its event loop runs, and has a successor do so',
    onStage(
      () => [],
      async (stage) => {
        const report = await stage.start();
        for (let count = 0; count < 3; count++) {
          const { lines, pid } = await stage.manager.notified('WATCHDOG=1');
          assert.deepEqual([lines, pid], [['WATCHDOG=1'], report.pid]);
        }
        const { NOTIFY_SOCKET, ...rest } = report.environment;
        assert.match(NOTIFY_SOCKET ?? '', /notify$/);
        assert.deepEqual(rest, { WATCHDOG_USEC: '20000', FDSTORE: '16' });
        assert.deepEqual(report.ofChildren, []);
      },
      () => ({ env: { WATCHDOG_USEC: '20000', FDSTORE: '16' } }),
    ),
  );

  it(
    'reaches a manager at an abstract name',
    onStage(
      () => [],
      async (stage) => {
        await stage.start();
      },
      (path) => ({ notify: `@${path}` }),
    ),
  );
});
