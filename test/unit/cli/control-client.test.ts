// The answers of a dispatcher to a command, and the connection between the two.
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';

import { answerIn, ControlClient, explain } from '../../../src/cli/control-client.js';
import { PassfdError } from '../../../src/fd/index.js';
import { Listener } from '../../../src/multiprocessing/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { failsWith } from '../../support/errors.js';
import { temporaryDirectory } from '../../support/files.js';
import { isPending, turns } from '../../support/loop.js';

function answer(json: unknown): Buffer {
  return Buffer.from(JSON.stringify(json));
}

describe('the answer of a dispatcher', () => {
  it('is the result when it is done', () => {
    assert.deepEqual(answerIn(answer({ type: 'done', result: { pid: 1 } })), {
      type: 'done',
      result: { pid: 1 },
    });
    assert.deepEqual(answerIn(answer({ type: 'done', result: null })), { type: 'done', result: null });
  });

  it('is an error with its code and reason when it failed, or when the dispatcher hangs up', () => {
    for (const type of ['failed', 'farewell']) {
      assert.throws(
        () => answerIn(answer({ type, code: 'ERR_NO_WORKER', reason: 'There is no worker 3 here' })),
        failsWith('ERR_NO_WORKER', /no worker 3/),
      );
    }
  });

  it('is an error of a general code when a later release has a code that is not known here', () => {
    for (const code of ['ERR_OF_A_LATER_RELEASE', 'toString']) {
      assert.throws(
        () => answerIn(answer({ type: 'failed', code, reason: 'The moon is full' })),
        failsWith('ERR_DISPATCHER', /^The moon is full$/),
      );
    }
  });

  it('is an error that says so when the dispatcher asks for a key', () => {
    assert.throws(
      () => answerIn(Buffer.from('#CHALLENGE#{sha256}xyz')),
      failsWith('ERR_AUTHENTICATION', /--authkey-file/),
    );
  });

  it('is an error when it is not understood', () => {
    assert.throws(() => answerIn(Buffer.from('{')), failsWith('ERR_PROTOCOL', /not JSON/));
    for (const other of [
      null,
      [],
      { type: 7 },
      { type: 'progress' },
      { type: 'failed', code: 1, reason: 'x' },
    ]) {
      assert.throws(() => answerIn(answer(other)), failsWith('ERR_PROTOCOL', /not understood/));
    }
  });

  it('has no control characters, and no lines that look like those of this program', () => {
    assert.deepEqual(answerIn(answer({ type: 'progress', text: 'a\u001b]0;x\u0007\nrestarted' })), {
      type: 'progress',
      text: 'a\\u001b]0;x\\u0007\\u000arestarted',
    });
    assert.throws(
      () => answerIn(answer({ type: 'failed', code: 'ERR_DISPATCHER', reason: 'a\u009bb\npassfd: c\u202e' })),
      failsWith('ERR_DISPATCHER', /^a\\u009bb\n {2}passfd: c\\u202e$/),
    );
  });

  it('is shortened to a readable length', () => {
    const endless = 'x'.repeat(1_000_000);
    const said = answerIn(answer({ type: 'progress', text: endless }));
    assert.ok(said.type === 'progress' && said.text.length < 1000);
    assert.throws(
      () => answerIn(answer({ type: 'failed', code: 'ERR_DISPATCHER', reason: endless })),
      (error) => {
        return error instanceof PassfdError && error.message.length < 20_000;
      },
    );
  });
});

describe('a control client', () => {
  it(
    'introduces itself, and sends its request',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/control`;
      await using listener = await Listener(path, { authkey: 'key' });
      const [dispatcher, client] = await Promise.all([listener.accept(), ControlClient.connect(path, 'key')]);
      using here = client;
      using there = dispatcher;
      const asking = here.ask({ type: 'drain', worker: 3 });
      assert.deepEqual(JSON.parse((await there.recvBytes()).toString()), { passfd: 1, role: 'control' });
      assert.deepEqual(JSON.parse((await there.recvBytes()).toString()), { type: 'status' });
      await there.sendBytes(answer({ type: 'done', result: {} }));
      assert.deepEqual(JSON.parse((await there.recvBytes()).toString()), { type: 'drain', worker: 3 });
      await there.sendBytes(answer({ type: 'done', result: null }));
      assert.equal(await asking, null);
    }),
  );

  it(
    'that stops a dispatcher waits until it hangs up, and stops a generation that takes over meanwhile',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/control`;
      await using listener = await Listener(path);
      const [first, client] = await Promise.all([listener.accept(), ControlClient.connect(path, undefined)]);
      using here = client;
      using there = first;
      const stopped = here.stop();
      await there.recvBytes();
      assert.deepEqual(JSON.parse((await there.recvBytes()).toString()), { type: 'stop' });
      await there.sendBytes(answer({ type: 'done', result: null }));
      await there.sendBytes(answer({ type: 'again' }));
      using second = await listener.accept();
      await second.recvBytes();
      assert.deepEqual(JSON.parse((await second.recvBytes()).toString()), { type: 'stop' });
      await second.sendBytes(answer({ type: 'done', result: null }));
      assert.equal(await isPending(stopped), true);
      second.close();
      await stopped;
    }),
  );

  for (const request of [{ type: 'status' }, { type: 'drain', worker: 1 }, { type: 'stop' }] as const) {
    it(
      `gives up on a dispatcher that does not answer: ${request.type}`,
      keepsDescriptors(async () => {
        await using directory = await temporaryDirectory();
        const path = `${directory.path}/control`;
        await using listener = await Listener(path);
        const [dispatcher, client] = await Promise.all([
          listener.accept(),
          ControlClient.connect(path, undefined),
        ]);
        using here = client;
        using there = dispatcher;
        mock.timers.enable({ apis: ['setTimeout'] });
        try {
          const asking = here.ask(request);
          await turns();
          mock.timers.tick(30_000);
          await assert.rejects(
            asking,
            failsWith('ERR_NO_ANSWER', new RegExp(`within 30000 ms.*ps .* -p ${process.pid}$`)),
          );
        } finally {
          mock.timers.reset();
        }
        await there.recvBytes();
        assert.match((await there.recvBytes()).toString(), /"status"|"stop"/);
      }),
    );
  }

  it(
    'reports what to do when there is no dispatcher',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      await assert.rejects(
        ControlClient.connect(`${directory.path}/control`, undefined),
        failsWith('ERR_CONNECTION_REFUSED', /No dispatcher at .*\/control; start one/),
      );
    }),
  );

  it(
    'reports what to do when the dispatcher does not admit it',
    keepsDescriptors(async () => {
      await using directory = await temporaryDirectory();
      const path = `${directory.path}/control`;
      await using listener = await Listener(path);
      const [dispatcher, client] = await Promise.all([
        listener.accept(),
        ControlClient.connect(path, undefined),
      ]);
      using here = client;
      dispatcher.close();
      await assert.rejects(
        here.ask({ type: 'status' }),
        failsWith('ERR_PEER_GONE', new RegExp(`--allow-uid ${process.getuid?.() ?? 0}$`)),
      );
    }),
  );
});

describe('a connection to a dispatcher that failed', () => {
  for (const [code, hasKey, advice] of [
    ['ERR_ADDRESS_DENIED', false, /^User \d+ may not connect to \/path; .*--allow-uid \d+$/],
    [
      'ERR_HANDSHAKE_TIMEOUT',
      true,
      /^why If the dispatcher was started without --authkey-file, give no key here$/,
    ],
    ['ERR_HANDSHAKE_TIMEOUT', false, /^why$/],
    ['ERR_AUTHENTICATION', true, /^why$/],
  ] as const) {
    it(`is told with what to do: ${code} ${hasKey ? 'with' : 'without'} a key`, () => {
      const explained = explain(new PassfdError(code, 'why'), '/path', hasKey);
      assert.ok(failsWith(code, advice)(explained));
    });
  }
});
