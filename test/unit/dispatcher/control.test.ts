// The control socket: which peers are admitted, what refused peers get, and that a bad peer affects no other peer.
import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { describe, it, mock } from 'node:test';

import { connect, socketPair, type PassfdError, type PeerCredentials } from '../../../src/fd/index.js';
import { native } from '../../../src/fd/native.js';
import { EMFILE } from '../../../src/fd/system-error.js';
import type { CommandHandler } from '../../../src/dispatcher/command-connection.js';
import { checkPeer, modeFor } from '../../../src/dispatcher/control.js';
import { Dispatcher } from '../../../src/dispatcher/index.js';
import {
  encodeFrame,
  encodeHello,
  isTrusted,
  MAX_WINDOW,
  PROTOCOL_VERSION,
} from '../../../src/handoff/index.js';
import { Client, dumps } from '../../../src/multiprocessing/index.js';
import { openDescriptors } from '../../support/descriptors.js';
import { onStage, type Stage } from '../../support/dispatcher-stage.js';
import { failsWith } from '../../support/errors.js';
import { FakeWorker } from '../../support/fake-worker.js';
import { openFile } from '../../support/files.js';
import { receivedText } from '../../support/stream.js';

const hello = { passfd: PROTOCOL_VERSION, role: 'worker', pid: 1, window: 1, capacity: null } as const;

/** A peer that has connected to the control socket and sent nothing so far. */
async function stranger(stage: Stage): Promise<FakeWorker> {
  return stage.own(new FakeWorker(await connect(stage.control)));
}

function codes({ refusedPeers }: Stage): string[] {
  return refusedPeers.map(({ code }) => code);
}

/** Shows that the dispatcher still admits and serves. */
async function servesOn(stage: Stage): Promise<void> {
  const worker = await stage.joinServing();
  await stage.client();
  await worker.handoffs(1);
}

describe('a worker that sends its hello', () => {
  it(
    'is welcomed with its id, the version and whether the dispatcher has addresses',
    onStage({}, async (stage) => {
      const first = await stranger(stage);
      assert.deepEqual(await first.sayHello(), {
        type: 'welcome',
        passfd: PROTOCOL_VERSION,
        id: 1,
        pid: process.pid,
        serves: false,
        holding: true,
      });
      await stage.address();
      const second = await stranger(stage);
      const { id, serves } = await second.sayHello();
      assert.deepEqual([id, serves], [2, true]);
      const [worker] = stage.dispatcher.workers;
      assert.deepEqual(
        [worker?.id, worker?.pid, worker?.state, worker?.dialect],
        [1, process.pid, 'starting', 'passfd'],
      );
    }),
  );

  it(
    'gets the lowest free id above those of the children',
    onStage({}, async (stage) => {
      stage.dispatcher.reserveIds(2);
      const workers = [await stage.join(), await stage.join(), await stage.join()];
      assert.deepEqual(
        workers.map(({ id }) => id),
        [3, 4, 5],
      );
      const left = stage.next('left');
      workers[1]?.die();
      await left;
      assert.equal((await stage.join()).id, 4);
      assert.equal(stage.own(await FakeWorker.child(stage.dispatcher, 2)).id, 2);
    }),
  );

  it(
    'may send it byte by byte, followed by more messages',
    onStage({}, async (stage) => {
      await stage.address();
      const worker = await stranger(stage);
      const bytes = encodeFrame(encodeHello(hello));
      for (const byte of bytes.subarray(0, -1)) await worker.say(Buffer.of(byte));
      await worker.say(
        bytes.subarray(-1),
        encodeFrame(Buffer.from('{"type":"serve","request":7}')),
        encodeFrame(Buffer.from('{"type":"ready"}')),
      );
      await worker.next('welcome');
      assert.equal((await worker.next('listening')).request, 7);
      await stage.client();
      await worker.handoffs(1);
    }),
  );

  it(
    'must know the key, if there is one',
    onStage({ control: { authkey: 'right' } }, async (stage) => {
      await assert.rejects(
        FakeWorker.join(stage.control, { authkey: 'wrong' }),
        failsWith('ERR_AUTHENTICATION'),
      );
      const worker = await stage.join({ authkey: 'right' });
      assert.equal(worker.id, 1);
      const refused = stage.next('peerRefused');
      const impatient = await stranger(stage);
      await impatient.say(encodeFrame(encodeHello(hello)));
      await refused;
      assert.deepEqual(codes(stage), ['ERR_AUTHENTICATION', 'ERR_AUTHENTICATION']);
      assert.equal(stage.dispatcher.status().peers.refused, 2);
    }),
  );
});

describe('a peer with an invalid hello', () => {
  const json = (message: unknown): Buffer => Buffer.from(JSON.stringify(message));
  for (const [name, frame, reason] of [
    [
      'another version',
      json({ ...hello, passfd: 2 }),
      /version 1, and the peer speaks 2; run the same release/,
    ],
    ['no version', json({ role: 'worker' }), /version 1, and the peer speaks none/],
    ['another role', json({ ...hello, role: 'observer' }), /not understood: /],
    ['no role', json({ passfd: 1 }), /not understood: /],
    ['a window of none', json({ ...hello, window: 0 }), /not understood: .*window/s],
    ['a window beyond all measure', json({ ...hello, window: MAX_WINDOW + 1 }), /not understood: .*window/s],
    ['a capacity below none', json({ ...hello, capacity: -1 }), /not understood: .*capacity/s],
    ['what is no JSON', Buffer.from('{hello}'), /not JSON/],
    ['what is no object', Buffer.from('[]'), /neither a hello of passfd nor a pickle/],
    ['nothing', Buffer.alloc(0), /neither a hello of passfd nor a pickle/],
  ] as const) {
    it(
      `is refused with a reason: ${name}`,
      onStage({}, async (stage) => {
        const peer = await stranger(stage);
        await peer.say(encodeFrame(frame));
        const farewell = await peer.next('farewell');
        assert.equal(farewell.code, 'ERR_HELLO');
        assert.match(farewell.reason, reason);
        assert.equal(await peer.message(), null);
        assert.deepEqual(codes(stage), ['ERR_HELLO']);
        assert.equal(stage.dispatcher.status().peers.refused, 1);
        await servesOn(stage);
      }),
    );
  }

  for (const [name, bytes, code] of [
    ['a frame that is too long', Buffer.from('00001001', 'hex'), 'ERR_FRAME_TOO_LARGE'],
    ['a frame of negative length', Buffer.from('GET / HTTP/1.1\r\n').fill(0xfe, 0, 4), 'ERR_FRAME'],
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n'), 'ERR_FRAME_TOO_LARGE'],
  ] as const) {
    it(
      `is disconnected: ${name}`,
      onStage({}, async (stage) => {
        const refused = stage.next('peerRefused');
        const peer = await stranger(stage);
        await peer.say(bytes);
        await refused;
        assert.deepEqual(codes(stage), [code]);
        await servesOn(stage);
      }),
    );
  }

  it(
    'is disconnected when it passes a descriptor, which is closed',
    onStage({}, async (stage) => {
      const refused = stage.next('peerRefused');
      const peer = await stranger(stage);
      using file = openFile('unwanted');
      await peer.socket.send(encodeFrame(encodeHello(hello)), [file]);
      await refused;
      assert.deepEqual(codes(stage), ['ERR_UNEXPECTED_DESCRIPTORS']);
      await servesOn(stage);
    }),
  );

  it(
    'is refused with a reason on the channel of a child, too',
    onStage({}, async (stage) => {
      const [here, there] = socketPair();
      stage.dispatcher.addChild(here, { id: 1, pid: process.pid });
      const child = stage.own(new FakeWorker(there));
      await child.say(encodeFrame(json({ ...hello, passfd: 2 })));
      const farewell = await child.next('farewell');
      assert.equal(farewell.code, 'ERR_HELLO');
      assert.match(farewell.reason, /the peer speaks 2/);
      assert.equal(await child.message(), null);
      assert.deepEqual(codes(stage), ['ERR_HELLO']);
    }),
  );
});

describe('a child whose first message is not hello', () => {
  for (const [name, bytes, code] of [
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n'), 'ERR_FRAME_TOO_LARGE'],
    ['a frame of negative length', Buffer.from('fefefefe', 'hex'), 'ERR_FRAME'],
    [
      'the hello of a control connection',
      encodeFrame(Buffer.from('{"passfd":1,"role":"control"}')),
      'ERR_HELLO',
    ],
  ] as const) {
    it(
      `is disconnected, counted and reported: ${name}`,
      onStage({}, async (stage) => {
        const [here, there] = socketPair();
        const refused = stage.next('peerRefused');
        stage.dispatcher.addChild(here, { id: 1, pid: process.pid });
        const child = stage.own(new FakeWorker(there));
        await child.say(bytes);
        await refused;
        assert.deepEqual(codes(stage), [code]);
        assert.equal(stage.dispatcher.status().peers.refused, 1);
      }),
    );
  }
});

describe('a peer that sends nothing', () => {
  it(
    'is disconnected when its time is over; peers that have said hello are not',
    onStage({ control: { handshakeTimeoutMs: 1000 } }, async (stage) => {
      const worker = await stage.joinServing();
      const refused = stage.next('peerRefused');
      const silent = await stranger(stage);
      await refused;
      assert.equal(await silent.message(), null);
      assert.deepEqual(codes(stage), ['ERR_HANDSHAKE_TIMEOUT']);
      assert.match(stage.refusedPeers[0]?.message ?? '', /within 1000 ms/);
      await stage.client();
      await worker.handoffs(1);
    }),
  );

  it(
    'is disconnected even when it has sent a part of a message',
    onStage({ control: { handshakeTimeoutMs: 20 } }, async (stage) => {
      const refused = stage.next('peerRefused');
      const slow = await stranger(stage);
      await slow.say(Buffer.from('0000', 'hex'));
      await refused;
      assert.deepEqual(codes(stage), ['ERR_HANDSHAKE_TIMEOUT']);
    }),
  );

  it(
    'gives way to others when too many peers are silent',
    onStage({}, async (stage) => {
      const silent: FakeWorker[] = [];
      while (silent.length < 70) silent.push(await stranger(stage));
      await servesOn(stage);
      // Before its hello, the worker itself counted as one more silent peer.
      assert.deepEqual(codes(stage), Array<string>(7).fill('ERR_HANDSHAKE_TIMEOUT'));
      for (const oldest of silent.slice(0, 7)) assert.equal(await oldest.message(), null);
      assert.equal((await silent[7]?.sayHello())?.type, 'welcome');
    }),
  );

  it(
    'does not count as refused when it hangs up',
    onStage({}, async (stage) => {
      for (let count = 0; count < 3; count++) (await stranger(stage)).die();
      await servesOn(stage);
      assert.deepEqual(codes(stage), []);
    }),
  );

  it(
    'does not keep the dispatcher from closing',
    onStage({}, async (stage) => {
      const silent = await stranger(stage);
      await servesOn(stage);
      await stage.dispatcher.close();
      assert.equal(await silent.message(), null);
      assert.deepEqual(codes(stage), []);
    }),
  );
});

describe('a control socket', () => {
  it(
    'is not opened at the path of another dispatcher, and the error names that process',
    onStage({}, async (stage) => {
      await using second = new Dispatcher();
      await assert.rejects(
        second.openControl(stage.control),
        failsWith('ERR_ADDRESS_IN_USE', new RegExp(`\\b${process.pid}\\b`)),
      );
      await servesOn(stage);
      assert.deepEqual(codes(stage), []);
    }),
  );

  it(
    'is opened once by each dispatcher, and so is the raw control socket',
    onStage({}, async (stage) => {
      const { dispatcher, directory } = stage;
      await assert.rejects(
        dispatcher.openControl(`${directory}/second`),
        failsWith('ERR_ALREADY_OPEN', /a control socket already/),
      );
      // A socket that could not be opened does not count.
      await assert.rejects(dispatcher.openRawControl(`${directory}/nowhere/raw`), {
        code: 'ERR_ADDRESS_MISSING',
      });
      const opening = dispatcher.openRawControl(`${directory}/raw`);
      await assert.rejects(
        dispatcher.openRawControl(`${directory}/other`),
        failsWith('ERR_ALREADY_OPEN', /a raw control socket already/),
      );
      await opening;
      assert.deepEqual(readdirSync(directory).sort(), ['control', 'raw']);
    }),
  );

  it(
    'admits only its own user, unless others are allowed',
    onStage({}, async (stage) => {
      assert.equal(statSync(stage.control).mode & 0o777, 0o600);
      await using open = new Dispatcher();
      const path = `${stage.directory}/open`;
      await open.openControl(path, { allowUids: [12_345] });
      assert.equal(statSync(path).mode & 0o777, 0o666);
      assert.deepEqual(
        [modeFor({}), modeFor({ allowGids: [] }), modeFor({ allowGids: [1] })],
        [0o600, 0o600, 0o666],
      );
    }),
  );

  it(
    'answers commands one after the other, including those that fail',
    onStage(
      { control: { commands: { double: ({ number }) => Promise.resolve(Number(number) * 2) } } },
      async (stage) => {
        await stage.joinServing();
        using connection = await Client(stage.control);
        const ask = async (message: unknown): Promise<unknown> => {
          await connection.sendBytes(
            typeof message === 'string' ? Buffer.from(message) : Buffer.from(JSON.stringify(message)),
          );
          return JSON.parse((await connection.recvBytes()).toString());
        };
        await connection.sendBytes(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' }));
        assert.deepEqual(await ask({ type: 'double', number: 21 }), { type: 'done', result: 42 });
        const { result } = (await ask({ type: 'status' })) as { result: unknown };
        assert.deepEqual(Object.keys(result as object), Object.keys(stage.dispatcher.status()));
        for (const [message, code, reason] of [
          [
            { type: 'toString' },
            'ERR_PROTOCOL',
            /Unknown command "toString"\. Commands: status, drain, double/,
          ],
          [{ type: 7 }, 'ERR_PROTOCOL', /JSON object with a type/],
          [[], 'ERR_PROTOCOL', /JSON object with a type/],
          [{ type: 'x'.repeat(2000) }, 'ERR_PROTOCOL', /^.{0,504}$/],
          [null, 'ERR_PROTOCOL', /JSON object with a type/],
          ['{', 'ERR_PROTOCOL', /JSON/],
          [{ type: 'drain', worker: 9 }, 'ERR_NO_WORKER', /no worker 9\. Workers: 1/],
        ] as const) {
          const failed = (await ask(message)) as { type: string; code: string; reason: string };
          assert.deepEqual([failed.type, failed.code], ['failed', code]);
          assert.match(failed.reason, reason);
        }
        assert.deepEqual(await ask({ type: 'drain', worker: 1 }), { type: 'done', result: null });
      },
    ),
  );
});

describe('commands that arrive before the last one is answered', () => {
  // The number of microtask turns that a command takes decides what runs when it ends.
  const takes: CommandHandler = async ({ turns }) => {
    for (let turn = 0; turn < Number(turns); turn++) await Promise.resolve();
  };

  it(
    'are answered too, however long that takes',
    onStage({ control: { commands: { takes } } }, async (stage) => {
      for (let count = 0; count < 20; count++) {
        using connection = await Client(stage.control);
        await connection.sendBytes(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' }));
        const command = encodeFrame(Buffer.from(JSON.stringify({ type: 'takes', turns: count })));
        await connection.socket.send(Buffer.concat([command, command]));
        for (let answer = 0; answer < 2; answer++) await connection.recvBytes();
      }
    }),
  );
});

describe('the command drain', () => {
  it(
    'takes a worker number, and no other value',
    onStage({}, async (stage) => {
      await stage.joinServing();
      using connection = await Client(stage.control);
      await connection.sendBytes(encodeHello({ passfd: PROTOCOL_VERSION, role: 'control' }));
      const drain = async (worker: unknown, more: object = {}): Promise<string> => {
        await connection.sendBytes(Buffer.from(JSON.stringify({ type: 'drain', worker, ...more })));
        return (await connection.recvBytes()).toString();
      };
      for (const worker of [undefined, true, [1], '1', '0x1', null, 0, -1, 1.5, 2 ** 53, {}]) {
        assert.match(
          await drain(worker),
          /"code":"ERR_PROTOCOL","reason":"The command drain is not understood/,
        );
        assert.equal(stage.dispatcher.workers[0]?.state, 'ready');
      }
      // A later release may add fields.
      assert.deepEqual(JSON.parse(await drain(1, { gently: true })), { type: 'done', result: null });
    }),
  );
});

describe('a control socket at which accepting fails', () => {
  for (const [name, result, code] of [
    ['for want of memory', -constants.errno.ENOMEM, 'ERR_SYSTEM'],
    ['for want of a descriptor', EMFILE, 'ERR_DESCRIPTOR_LIMIT'],
  ] as const) {
    it(
      `admits waiting peers as soon as it works again, and the dispatcher goes on: ${name}`,
      onStage({}, async (stage) => {
        const warned: unknown[] = [];
        const note = (warning: unknown): void => void warned.push(warning);
        process.on('warning', note);
        const failing = mock.method(native, 'accept', () => result, { times: 2 });
        await stage.join();
        failing.mock.restore();
        await servesOn(stage);
        process.off('warning', note);
        assert.deepEqual(warned, []);
        const warnings = stage.warnings.splice(0) as PassfdError[];
        assert.deepEqual(
          warnings.map((warning) => warning.code),
          [code],
        );
      }),
    );
  }
});

describe('a peer', () => {
  const own: PeerCredentials = { pid: 1, uid: process.getuid?.() ?? 0, gid: 4242 };
  const other: PeerCredentials = { pid: 2, uid: own.uid + 4711, gid: 4243 };

  it('is admitted if it has the same user, is root, or is of an allowed user or group', () => {
    for (const [peer, options] of [
      [own, {}],
      [{ ...other, uid: 0 }, {}],
      [other, { allowUids: [1, other.uid] }],
      [other, { allowGids: [other.gid] }],
    ] as const) {
      checkPeer(peer, options);
    }
    for (const options of [{}, { allowUids: [other.uid + 1] }, { allowGids: [other.uid] }]) {
      assert.throws(
        () => {
          checkPeer(other, options);
        },
        failsWith('ERR_PEER_DENIED', /Process 2 of user \d+, group 4243, .*--allow-uid or --allow-gid/),
      );
    }
  });

  it('may have the dispatcher listen only if it has the same user or is root', () => {
    assert.deepEqual([own, { ...other, uid: 0 }, other, { ...other, gid: own.gid }].map(isTrusted), [
      true,
      true,
      false,
      false,
    ]);
  });
});

describe('a worker of the recipe', () => {
  it(
    'is recognized by its pickle, and its process id comes from the kernel',
    onStage({}, async (stage) => {
      for (const [said, pid] of [
        [4711, process.pid],
        ['a name', process.pid],
        [-1, process.pid],
      ] as const) {
        const joined = stage.next('joined');
        const worker = await stranger(stage);
        await worker.say(encodeFrame(dumps(said)));
        const [view] = await joined;
        assert.deepEqual([view.pid, view.dialect, view.state], [pid, 'multiprocessing', 'ready']);
      }
    }),
  );

  it(
    'cannot make the dispatcher run code: a pickle with code is no process id',
    onStage({}, async (stage) => {
      const joined = stage.next('joined');
      const worker = await stranger(stage);
      await worker.say(encodeFrame(Buffer.from('\x80\x04cos\nsystem\n(S"false"\ntR.', 'latin1')));
      const [view] = await joined;
      assert.equal(view.pid, process.pid);
      await stage.address();
      await stage.client();
      assert.equal(await receivedText(worker.socket), '\x01');
    }),
  );
});

describe('the descriptor in reserve', () => {
  it(
    'is restored when the peer that took it does not know the key',
    onStage({ control: { authkey: 'right' } }, async (stage) => {
      const reserve = (): string[] => openDescriptors().filter((each) => each.endsWith(' /dev/null'));
      const before = reserve();
      const full = mock.method(native, 'accept', () => EMFILE, { times: 1 }).mock;
      const refused = stage.next('peerRefused');
      await assert.rejects(
        FakeWorker.join(stage.control, { authkey: 'wrong' }),
        failsWith('ERR_AUTHENTICATION'),
      );
      await refused;
      assert.equal(full.callCount(), 1);
      assert.equal(reserve().length, before.length);
    }),
  );
});
