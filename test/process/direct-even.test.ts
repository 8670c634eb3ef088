// Long-lived connections over workers that accept by themselves: they are even, although workers come late and die.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { describe, it } from 'node:test';

import type { Status } from '../../src/dispatcher/index.js';
import { temporaryDirectory } from '../support/files.js';
import { app, passfd, statusOf } from '../support/passfd.js';
import { withPrograms } from '../support/program.js';

const CONNECTIONS = 1_000;

/** Clients that connect at a time. */
const AT_A_TIME = 20;

const plan = { all: [{ name: 'app', listen: { host: '127.0.0.1', port: 0 } }] };
const env = { PLAN: JSON.stringify(plan) };

const skip = process.platform === 'linux' ? false : 'direct accept needs Linux';

describe(
  '1,000 open connections over four workers, of which one starts late and one is killed',
  { skip },
  () => {
    it(
      'are within 10 % of even at the end, and the dispatcher has accepted none',
      withPrograms(async (start) => {
        await using directory = await temporaryDirectory();
        const control = `${directory.path}/control`;
        const options = ['--workers', '3', '--accept', 'direct', '--control', control];
        const service = start(...passfd('run', ...options, app('listener.js')), { env });
        const [, port = ''] = await service.line(/listening app .*"port":(\d+)/);
        await statusWhen(control, (status) => readyIn(status) === 3);
        const clients = new Set<Socket>();
        const open = async (count: number): Promise<void> => {
          const wanted = clients.size + count;
          while (clients.size < wanted) {
            const coming = Array.from({ length: Math.min(AT_A_TIME, wanted - clients.size) }, () =>
              opened(Number(port), clients),
            );
            await Promise.all(coming);
          }
        };
        await open(CONNECTIONS / 2);
        start(...passfd('worker', '--control', control, app('listener.js')), { env });
        const { workers } = await statusWhen(control, (status) => readyIn(status) === 4);
        await open(CONNECTIONS / 4);
        const victim = workers[0]?.pid ?? 0;
        process.kill(victim, 'SIGKILL');
        await statusWhen(
          control,
          (status) => readyIn(status) === 4 && status.workers.every(({ pid }) => pid !== victim),
        );
        await open(CONNECTIONS - clients.size);
        const status = await statusWhen(control, (each) => activeIn(each) === clients.size);
        assert.equal(clients.size, CONNECTIONS);
        const mean = CONNECTIONS / 4;
        const counts = status.workers.map(({ active }) => active ?? 0);
        for (const count of counts) assert.ok(Math.abs(count - mean) <= mean / 10, counts.join(' '));
        assert.deepEqual(
          status.workers.map(({ watching }) => typeof watching),
          ['boolean', 'boolean', 'boolean', 'boolean'],
        );
        for (const client of clients) client.destroy();
        service.signal('SIGTERM');
        assert.equal(await service.exit, 0);
      }),
    );
  },
);

/** A client that has been greeted, and stays connected. It leaves the set when its worker dies. */
async function opened(port: number, clients: Set<Socket>): Promise<void> {
  const client = connect(port, '127.0.0.1');
  client.on('error', () => undefined);
  client.on('close', () => clients.delete(client));
  await once(client, 'data');
  clients.add(client);
}

function readyIn({ workers }: Status): number {
  return workers.filter(({ state }) => state === 'ready').length;
}

function activeIn({ workers }: Status): number {
  return workers.reduce((sum, { active }) => sum + (active ?? 0), 0);
}

async function statusWhen(control: string, isSo: (status: Status) => boolean): Promise<Status> {
  for (;;) {
    const status = await statusOf(control);
    if (isSo(status)) return status;
  }
}
