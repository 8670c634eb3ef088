// The last will of a dispatcher: whatever ends it, what it had accepted reaches a worker, each connection exactly once.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import {
  closeAll,
  connect,
  listen,
  socketPair,
  StreamSocket,
  type Acceptor,
  type Address,
  type Descriptor,
} from '../../src/fd/index.js';
import { Channel, encodeAdopted, type TakeGroup } from '../../src/handoff/index.js';
import { STUCK_AFTER_MS } from '../support/deadline.js';
import { temporaryDirectory } from '../support/files.js';
import { withPrograms, type Program, type Start } from '../support/program.js';
import { withoutWill } from '../support/will.js';
import type { Scene } from './fixtures/will.js';

const fixture = fileURLToPath(new URL('./fixtures/will.js', import.meta.url));

const ROUNDS = 50;

/** One round takes a second; on a machine that does much else it takes many. */
const LIMIT_MS = 3 * STUCK_AFTER_MS;
const CLIENTS_AT_ONCE = 64;

/** What one worker heard. */
class Heir implements Disposable {
  readonly socket: StreamSocket;
  readonly connections: Descriptor[] = [];
  /** How often a message came again, and of how many connections of them it had not heard before. */
  readonly again: { readonly count: number; readonly isNew: boolean }[] = [];
  isOrphaned = false;
  #received = 0;
  readonly #adopts: boolean;
  readonly end: Promise<void>;

  constructor(socket: StreamSocket, { adopts }: { readonly adopts: boolean }) {
    this.socket = socket;
    this.#adopts = adopts;
    this.end = new Channel(socket).read((frame, take) => {
      this.#on(frame, take);
      return undefined;
    });
  }

  #on(frame: Buffer, take: TakeGroup): void {
    switch (frame[0]) {
      case 1:
        this.#take(take, frame[3] ?? 0);
        break;
      case 5: {
        assert.ok(this.isOrphaned);
        const position = Number(frame.readBigUInt64BE(1));
        const count = frame[11] ?? 0;
        const isNew = position === this.#received + 1;
        this.again.push({ count, isNew });
        if (isNew) {
          this.#take(take, count);
        } else {
          assert.equal(position + count - 1, this.#received);
          const duplicates = take(count);
          assert.ok(duplicates !== 'lost');
          closeAll(duplicates);
        }
        break;
      }
      default:
        assert.equal(frame.toString(), '{"type":"orphaned"}');
        assert.equal(this.isOrphaned, false);
        this.isOrphaned = true;
    }
  }

  #take(take: TakeGroup, count: number): void {
    const group = take(count);
    assert.ok(group !== 'lost');
    this.connections.push(...group);
    this.#received += count;
    if (this.#adopts) this.socket.send(encodeAdopted(this.#received)).catch(() => undefined);
  }

  [Symbol.dispose](): void {
    closeAll(this.connections);
    this.socket.destroy();
  }
}

/** A client says who it is, so that whoever has its connection knows. */
async function arrive(address: Address, name: number): Promise<StreamSocket> {
  const client = await connect(address);
  await client.send(Buffer.of(name >> 8, name & 255));
  return client;
}

async function nameOf(connection: Descriptor): Promise<number> {
  using socket = new StreamSocket(connection);
  const message = await socket.receiveExactly(2);
  return message?.bytes.readUInt16BE() ?? -1;
}

/** The names of the clients of all these, sorted. */
async function namesOf(connections: Iterable<Descriptor>): Promise<number[]> {
  const names = await Promise.all([...connections].map(nameOf));
  return names.sort((a, b) => a - b);
}

interface Stage {
  readonly program: Program;
  readonly heirs: readonly Heir[];
  /** Which clients each heir got, and which clients there are. */
  readonly received: () => Promise<number[][]>;
  readonly names: readonly number[];
  /** Each client reads the end of its connection, once nobody has it any more. */
  readonly seeTheEnd: () => Promise<void>;
}

interface Wanted extends Omit<Scene, 'listeners' | 'channels' | 'accept'> {
  readonly listeners: readonly Acceptor[];
  readonly channels?: number;
  /** Where clients connect to, if not to where the listeners listen. */
  readonly addresses?: readonly Address[];
  /** Of channels whose other end is gone. */
  readonly dead?: readonly number[];
}

const CLIENTS_EACH = 10;

/** Starts a dispatcher with clients that it will accept. @returns nothing where there are no wills */
async function stage(start: Start, wanted: Wanted, body: (stage: Stage) => Promise<void>): Promise<void> {
  const { listeners, channels = 2, addresses, dead = [], ...scene } = wanted;
  const pairs = Array.from({ length: channels }, () => socketPair());
  const clients: StreamSocket[] = [];
  for (const address of addresses ?? listeners.map((listener) => listener.address)) {
    for (let index = 0; index < CLIENTS_EACH; index++) {
      clients.push(await arrive(address, clients.length));
    }
  }
  const accept = clients.length / listeners.length;
  const plan: Scene = { ...scene, listeners: listeners.length, channels, accept };
  const program = start(process.execPath, [fixture, JSON.stringify(plan)], {
    descriptors: [...listeners.map(({ fd }) => fd), ...pairs.map(([, there]) => there.fd)],
  });
  for (const listener of listeners) await listener.close();
  for (const [, there] of pairs) there.destroy();
  const heirs = pairs.map(([here]) => new Heir(here, { adopts: false }));
  for (const index of dead) heirs[index]?.[Symbol.dispose]();
  try {
    await body({
      program,
      heirs,
      names: clients.map((_, name) => name),
      received: async () => {
        await Promise.all(heirs.map(({ end }) => end.catch(() => undefined)));
        return Promise.all(heirs.map(({ connections }) => namesOf(connections.splice(0))));
      },
      seeTheEnd: async () => {
        for (const client of clients) {
          const end = await client.receive().catch(() => null);
          assert.equal(end, null);
        }
      },
    });
  } finally {
    for (const heir of heirs) heir[Symbol.dispose]();
    for (const client of clients) client.destroy();
  }
}

const without = withoutWill();

async function ready(program: Program): Promise<number> {
  const [, pid] = await program.line(/^ready (\d+)$/);
  return Number(pid);
}

const local = { host: '127.0.0.1', port: 0 };

describe('the last will of a dispatcher', { skip: without }, () => {
  for (const [ending, exit] of [
    ['kill', 'SIGKILL'],
    ['abort', 'SIGABRT'],
    ['throw', 1],
    ['exit', 3],
    ['end', 0],
  ] as const) {
    for (const handOut of [0, CLIENTS_EACH / 2, CLIENTS_EACH]) {
      it(
        `gives every connection to one worker after: ${ending}, with ${handOut} of ${CLIENTS_EACH} handed out`,
        withPrograms(async (start) => {
          const listeners = [await listen(local)];
          await stage(start, { listeners, handOut, ending }, async ({ program, received, ...then }) => {
            const shares = await received();
            assert.deepEqual(
              shares.flat().sort((a, b) => a - b),
              then.names,
            );
            const left = CLIENTS_EACH - handOut;
            assert.deepEqual(
              shares.map(({ length }) => length),
              [handOut + Math.ceil(left / 2), Math.floor(left / 2)],
            );
            for (const heir of then.heirs) assert.deepEqual([heir.isOrphaned, heir.again], [left > 0, []]);
            assert.equal(await program.exit, exit);
            await then.seeTheEnd();
          });
        }),
      );
    }
  }

  it(
    'gives connections of TCP over IPv4 and IPv6, of both at one socket, and of Unix sockets, each as its listener',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const dual = await listen({ host: '::', port: 0 });
      const { port } = dual.address as { port: number };
      const listeners = [
        await listen(local),
        await listen({ host: '::1', port: 0 }, { ipv6Only: true }),
        await listen(`${directory.path}/socket`),
        await listen(`\0${directory.path}`),
        dual,
      ];
      const addresses = [
        ...listeners.slice(0, -1).map(({ address }) => address),
        { host: '127.0.0.1', port },
      ];
      await stage(start, { listeners, addresses, ending: 'kill' }, async ({ received, names, program }) => {
        const shares = await received();
        assert.deepEqual(
          shares.flat().sort((a, b) => a - b),
          names,
        );
        assert.equal(await program.exit, 'SIGKILL');
      });
    }),
  );

  it(
    'does nothing after a cancel, and nobody waits any more',
    withPrograms(async (start) => {
      const listeners = [await listen(local)];
      await stage(start, { listeners, ending: 'cancel' }, async ({ program, received, heirs, seeTheEnd }) => {
        const pid = await ready(program);
        await program.line(/^pid undefined$/);
        assert.deepEqual(await received(), [[], []]);
        assert.equal(
          heirs.some(({ isOrphaned }) => isOrphaned),
          false,
        );
        await seeTheEnd();
        assert.equal(await program.exit, 0);
        assert.equal(existsSync(`/proc/${pid}`), false);
      });
    }),
  );

  it(
    'gives what was taken back',
    withPrograms(async (start) => {
      const listeners = [await listen(local)];
      const wanted = { listeners, handOut: 4, takeBack: 2, ending: 'kill' } as const;
      await stage(start, wanted, async ({ heirs, program }) => {
        await Promise.all(heirs.map(({ end }) => end));
        const counts = heirs.map(({ connections }) => connections.length);
        // The first had four, and six others and the two were shared out.
        assert.deepEqual(counts, [4 + 4, 4]);
        assert.equal(await program.exit, 'SIGKILL');
      });
    }),
  );

  it(
    'leaves out a channel that broke off inside a message, and one whose worker is gone',
    withPrograms(async (start) => {
      const listeners = [await listen(local)];
      const wanted = { listeners, channels: 3, dead: [1], ending: 'kill in mid frame' } as const;
      await stage(start, wanted, async ({ received, names, program }) => {
        const shares = await received();
        assert.deepEqual(shares, [[], [], names]);
        assert.equal(await program.exit, 'SIGKILL');
      });
    }),
  );

  it(
    'frees the control path at once, though it has to wait for workers',
    withPrograms(async (start) => {
      await using directory = await temporaryDirectory();
      const control = `${directory.path}/control`;
      const [here, there] = socketPair();
      const program = start(
        process.execPath,
        [
          fixture,
          JSON.stringify({ listeners: 0, channels: 1, accept: 0, control, ending: 'kill' } satisfies Scene),
        ],
        { descriptors: [there.fd] },
      );
      there.destroy();
      assert.equal(await program.exit, 'SIGKILL');
      await using successor = await listen(control);
      assert.equal(successor.closed, false);
      here.destroy();
    }),
  );

  it(
    'waits in a process of next to no memory, which is no zombie when somebody has killed it',
    withPrograms(async (start) => {
      const listeners = [await listen(local)];
      await stage(start, { listeners, ending: 'lose the will' }, async ({ program, received, names }) => {
        const pid = await ready(program);
        await program.line(/^lost$/);
        assert.equal(existsSync(`/proc/${pid}`), false);
        await program.line(/^pid another$/);
        assert.deepEqual((await received()).flat(), []);
        assert.equal(names.length, CLIENTS_EACH);
        assert.equal(await program.exit, 'SIGKILL');
      });
    }),
  );

  it(
    'ends with the thread that has opened it',
    withPrograms(async (start) => {
      const scene: Scene = { listeners: 0, channels: 0, accept: 0, ending: 'open in a thread' };
      const program = start(process.execPath, [fixture, JSON.stringify(scene)]);
      const pid = await ready(program);
      await program.line(/^pid another$/);
      assert.equal(existsSync(`/proc/${pid}`), false);
      assert.equal(await program.exit, 0);
    }),
  );
});

describe('a dispatcher that is killed in the middle of accepting and handing out', { skip: without }, () => {
  it(
    `loses no connection and gives none twice, in ${ROUNDS} rounds`,
    withPrograms(async (start) => {
      let again = 0;
      let given = 0;
      for (let round = 0; round < ROUNDS; round++) {
        const heirs = await storm(start);
        again += heirs.flatMap((heir) => heir.again).length;
        given += heirs.filter(({ isOrphaned }) => isOrphaned).length;
      }
      console.log(`${given} workers got something by the will, ${again} of them a message again`);
    }, LIMIT_MS),
  );
});

/** One round: clients come without a pause, until the dispatcher is dead. */
async function storm(start: Start): Promise<Heir[]> {
  // It stays open here, so that those who were not accepted can be counted.
  await using listener = await listen(local, { backlog: 4096 });
  const pairs = Array.from({ length: 3 }, () => socketPair());
  const scene: Scene = { listeners: 1, channels: pairs.length, accept: 0, ending: 'storm' };
  const program = start(process.execPath, [fixture, JSON.stringify(scene)], {
    descriptors: [listener.fd, ...pairs.map(([, there]) => there.fd)],
  });
  for (const [, there] of pairs) there.destroy();
  const heirs = pairs.map(([here]) => new Heir(here, { adopts: true }));
  await program.line(/^ready$/);
  const clients: StreamSocket[] = [];
  const until = 200 + Math.floor(Math.random() * 600);
  let isOver = false;
  let next = 0;
  const crowd = Array.from({ length: CLIENTS_AT_ONCE }, async () => {
    for (let name = 0; !isOver; clients.push(await arrive(listener.address, name))) {
      name = next++;
      if (clients.length === until) {
        isOver = true;
        program.kill();
      }
    }
  });
  await Promise.all(crowd);
  assert.equal(await program.exit, 'SIGKILL');
  await Promise.all(heirs.map(({ end }) => end));
  const all = [...heirs.flatMap(({ connections }) => connections.splice(0)), ...listener.acceptNow()];
  assert.deepEqual(
    await namesOf(all),
    clients.map((_, name) => name),
  );
  for (const client of clients) client.destroy();
  for (const heir of heirs) heir[Symbol.dispose]();
  return heirs;
}
