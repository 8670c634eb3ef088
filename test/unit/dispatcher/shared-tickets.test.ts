// The secret of the ticket keys, which the workers of one address share: which workers get it, and how long it is used.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { inspect } from 'node:util';
import { describe, it } from 'node:test';

import { Dispatcher } from '../../../src/dispatcher/index.js';
import { awaitGo, handOver, takeOver } from '../../../src/dispatcher/internal.js';
import { socketPair } from '../../../src/fd/index.js';
import { encodeJson, type TicketSecretMessage } from '../../../src/handoff/index.js';
import { TakeoverChannel } from '../../../src/dispatcher/internal.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import { FakeWorker } from '../../support/fake-worker.js';
import { ManualClock } from '../../support/manual-clock.js';

const HOUR_MS = 60 * 60 * 1000;

const first = { host: '127.0.0.1', port: 0, ipv6Only: false, index: 0 };
const second = { ...first, index: 1 };

/** The secret without its age, which changes with time. */
function bare(tickets: TicketSecretMessage | undefined): string | undefined {
  return tickets?.secret;
}

/** With ages of whole hours. */
function hours(tickets: TicketSecretMessage | undefined): number | undefined {
  return tickets && tickets.ageMs / HOUR_MS;
}

/** The next dispatcher takes over from the stage's dispatcher, which ends. */
async function succeed(stage: Stage, next: Dispatcher): Promise<void> {
  const [here, there] = socketPair();
  const channel = stage.own(new TakeoverChannel(here));
  const predecessor = stage.own(new TakeoverChannel(there));
  const kill = (): void => {
    there.destroy();
  };
  const handingOver = handOver(stage.dispatcher, { channel, kill }, []);
  await takeOver(next, predecessor, {});
  await Promise.all([handingOver, awaitGo(predecessor)]);
  next.thaw();
  await stage.dispatcher.disown();
}

describe('the secret of the ticket keys', () => {
  it(
    'is the same for all workers of an address, and differs between addresses',
    onStage({}, async (stage) => {
      const workers = [await stage.join(), await stage.join()] as const;
      const secrets: (string | undefined)[] = [];
      for (const worker of workers) secrets.push(bare(await worker.shareTickets(first)));
      for (const worker of workers) secrets.push(bare(await worker.shareTickets(second)));
      assert.ok(secrets[0] !== undefined && secrets[2] !== undefined);
      assert.deepEqual(secrets, [secrets[0], secrets[0], secrets[2], secrets[2]]);
      assert.notEqual(secrets[0], secrets[2]);
    }),
  );

  it(
    "comes with the first of the dispatcher's own addresses",
    onStage({}, async (stage) => {
      await stage.address();
      const secrets: (string | undefined)[] = [];
      for (const worker of [await stage.join(), await stage.join()]) {
        await worker.say(encodeJson({ type: 'serve', request: 9, tickets: null }));
        secrets.push(bare((await worker.next('listening')).tickets));
      }
      assert.ok(secrets[0]);
      assert.equal(secrets[0], secrets[1]);
    }),
  );

  it(
    'is not sent to a worker that has not asked for it, such as one of an earlier release',
    onStage({ clock: new ManualClock() }, async (stage) => {
      const [asks, asksNot] = [await stage.join(), await stage.join()] as const;
      await asks.shareTickets(first);
      const answer = await asksNot.listen(first);
      assert.deepEqual(Object.keys(answer).sort(), ['listeners', 'request', 'type']);
    }),
  );

  it(
    'is not in the status, and in nothing that is printed',
    onStage({}, async (stage) => {
      const worker = await stage.join();
      const secret = bare(await worker.shareTickets(first)) ?? '';
      assert.notEqual(secret, '');
      const printed = [
        JSON.stringify(stage.dispatcher.status()),
        inspect(stage.dispatcher, { depth: null, showHidden: true }),
      ];
      const hex = Buffer.from(secret, 'base64').toString('hex').slice(0, 16);
      for (const text of printed) assert.ok(!text.includes(secret) && !text.includes(hex));
    }),
  );

  it(
    'is not in the message about a malformed secret',
    onStage({}, async (stage) => {
      const refused = stage.next('peerRefused');
      const worker = await stage.join();
      const tickets = { secret: 'c2VjcmV0IGJ1dCB0b28gc2hvcnQ=', ageMs: 0 };
      await worker.say(encodeJson({ type: 'listen', request: 1, address: first, backlog: 16, tickets }));
      const [error] = await refused;
      assert.equal(error.code, 'ERR_PROTOCOL');
      assert.ok(!error.message.includes(tickets.secret), error.message);
      assert.ok(!(await worker.next('farewell')).reason.includes(tickets.secret));
    }),
  );

  const clock = new ManualClock();
  it(
    'is replaced after 12 hours, and all workers that share it get the new one',
    onStage({ clock }, async (stage) => {
      const workers = [await stage.join(), await stage.join()] as const;
      const before = bare(await workers[0].shareTickets(first));
      await workers[1].shareTickets(first);
      clock.advance(12 * HOUR_MS - 1);
      assert.equal(bare(await (await stage.join()).shareTickets(first)), before);
      clock.advance(1);
      const heard = [];
      for (const worker of workers) heard.push((await worker.next('tickets')).tickets);
      assert.deepEqual(heard[0], heard[1]);
      assert.notEqual(bare(heard[0]), before);
      assert.deepEqual(await (await stage.join()).shareTickets(first), heard[0]);
      clock.advance(12 * HOUR_MS);
      assert.notEqual(bare((await workers[0].next('tickets')).tickets), bare(heard[0]));
    }),
  );

  it(
    'is forgotten with its address',
    onStage({ clock }, async (stage) => {
      const worker = await stage.join();
      const before = bare(await worker.shareTickets(first));
      assert.equal(clock.pending, 1);
      const unlistened = stage.next('unlistened');
      await worker.unlisten(0);
      await unlistened;
      assert.equal(clock.pending, 0);
      assert.notEqual(bare(await worker.shareTickets(first)), before);
    }),
  );

  it(
    'stays, and keeps its age, when its socket is opened anew because its file was removed',
    onStage({ clock }, async (stage) => {
      const address = { path: `${stage.directory}/web`, mode: 0o600 };
      const worker = await stage.join();
      const before = bare(await worker.shareTickets(address));
      clock.advance(7 * HOUR_MS);
      rmSync(address.path);
      const relistened = stage.next('relistened');
      const shared = await (await stage.join()).shareTickets(address);
      await relistened;
      assert.deepEqual([bare(shared), hours(shared)], [before, 7]);
      clock.advance(5 * HOUR_MS);
      assert.notEqual(bare((await worker.next('tickets')).tickets), before);
    }),
  );

  it(
    'keeps its age over a takeover, and is replaced only by the next generation',
    onStage({ clock }, async (stage) => {
      await using next = new Dispatcher({}, clock);
      const worker = await stage.join();
      const before = bare(await worker.shareTickets(first));
      clock.advance(7 * HOUR_MS);
      await succeed(stage, next);
      assert.equal(clock.pending, 1);
      const late = await stage.join();
      const shared = await late.shareTickets(first);
      assert.deepEqual([bare(shared), hours(shared)], [before, 7]);
      clock.advance(5 * HOUR_MS);
      const { tickets } = await worker.next('tickets');
      assert.notEqual(bare(tickets), before);
      assert.deepEqual((await late.next('tickets')).tickets, tickets);
    }),
  );

  it(
    'stays with the present generation when a takeover fails',
    onStage({ clock }, async (stage) => {
      const worker = await stage.join();
      const before = bare(await worker.shareTickets(first));
      const frozen = await stage.dispatcher.freeze();
      frozen[Symbol.dispose]();
      clock.advance(13 * HOUR_MS);
      stage.dispatcher.thaw();
      // The change of the secret is overdue.
      clock.advance(0);
      assert.notEqual(bare((await worker.next('tickets')).tickets), before);
    }),
  );

  it(
    'comes back with the workers of a dispatcher that was killed; the newest counts',
    onStage({ clock }, async (stage) => {
      const secretOf = (fill: number, ageHours: number): TicketSecretMessage => ({
        secret: Buffer.alloc(32, fill).toString('base64'),
        ageMs: ageHours * HOUR_MS,
      });
      const comeBack = async (id: number): Promise<FakeWorker> => {
        const worker = await stage.join({ returns: { id } });
        await worker.next('release');
        return worker;
      };
      const old = await comeBack(1);
      const brought = secretOf(1, 11);
      assert.deepEqual(await old.shareTickets(first, brought), brought);
      const newer = await comeBack(2);
      assert.deepEqual(await newer.shareTickets(first, secretOf(2, 3)), secretOf(2, 3));
      assert.deepEqual((await old.next('tickets')).tickets, secretOf(2, 3));
      const oldest = await comeBack(3);
      assert.deepEqual(await oldest.shareTickets(first, secretOf(3, 12)), secretOf(2, 3));
      clock.advance(9 * HOUR_MS);
      assert.equal((await newer.next('tickets')).tickets.ageMs, 0);
    }),
  );

  it(
    'is sent to a child, which is of the same service',
    onStage({}, async (stage) => {
      const child = stage.own(await FakeWorker.child(stage.dispatcher, 1));
      assert.ok(bare(await child.shareTickets(first)));
    }),
  );
});
