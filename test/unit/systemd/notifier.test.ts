// Notifier: its environment, the text of its messages, and a missing manager.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { PassfdError, type sendDatagram } from '../../../src/fd/index.js';
import { Notifier } from '../../../src/systemd/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { openFile } from '../../support/files.js';
import { turns } from '../../support/loop.js';

const PID = 4711;

/** A notifier, its messages, and its warnings. */
class Stage implements Disposable {
  readonly sent: string[] = [];
  readonly paths = new Set<string>();
  readonly warnings: PassfdError[] = [];
  /** How the next sends end: no room, or an error. Later sends succeed. */
  readonly outcomes: ('full' | Error)[] = [];
  readonly notifier: Notifier;
  #wake: (() => void) | undefined;

  constructor(env: NodeJS.ProcessEnv = { NOTIFY_SOCKET: '/run/notify' }) {
    const send: typeof sendDatagram = (path, bytes) => {
      const outcome = this.outcomes.shift();
      if (outcome instanceof Error) throw outcome;
      if (outcome === 'full') return false;
      this.paths.add(typeof path === 'string' ? path : path.path);
      this.sent.push(Buffer.from(bytes).toString());
      this.#wake?.();
      return true;
    };
    const warn = (warning: PassfdError): void => {
      this.warnings.push(warning);
    };
    this.notifier = new Notifier(env, { send, warn }, PID);
  }

  /** Waits until this many messages were sent. */
  async count(count: number): Promise<void> {
    // No timer of a notifier keeps the process alive.
    const alive = setInterval(() => undefined, 1 << 30);
    while (this.sent.length < count) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    clearInterval(alive);
  }

  [Symbol.dispose](): void {
    this.notifier.close();
  }
}

describe('a notifier and its environment', () => {
  it('removes its variables, and keeps them for the next generation', () => {
    const env = {
      NOTIFY_SOCKET: '/run/notify',
      WATCHDOG_USEC: '30000000',
      WATCHDOG_PID: String(PID),
      FDSTORE: '16',
      HOME: '/',
    };
    using stage = new Stage(env);
    assert.deepEqual(env, { HOME: '/' });
    // Without WATCHDOG_PID: the pid of the next generation is not known before it is started.
    assert.deepEqual(stage.notifier.environment(), {
      NOTIFY_SOCKET: '/run/notify',
      WATCHDOG_USEC: '30000000',
      FDSTORE: '16',
    });
    using next = new Stage({ ...stage.notifier.environment() });
    assert.deepEqual(next.notifier.environment(), stage.notifier.environment());
  });

  it('ignores a watchdog for another process', async () => {
    using stage = new Stage({ NOTIFY_SOCKET: '/n', WATCHDOG_USEC: '2000', WATCHDOG_PID: String(PID + 1) });
    assert.deepEqual(stage.notifier.environment(), { NOTIFY_SOCKET: '/n' });
    stage.notifier.startKeepAlive();
    await turns();
    assert.deepEqual(stage.sent, []);
  });

  it(
    'does nothing without a manager',
    keepsDescriptors(async () => {
      using stage = new Stage({});
      const { notifier } = stage;
      assert.equal(notifier.isActive, false);
      notifier.ready();
      notifier.store('name', [{ fd: 0 }]);
      notifier.startKeepAlive();
      assert.equal(await notifier.barrier(), true);
      assert.deepEqual([stage.sent, stage.warnings, notifier.environment()], [[], [], {}]);
    }),
  );

  it('warns once about an address that it does not support, and then does nothing', () => {
    for (const address of ['vsock:2:1234', 'vsock-stream:2:1234', 'relative/path', '@']) {
      using stage = new Stage({ NOTIFY_SOCKET: address });
      stage.notifier.ready();
      stage.notifier.stopping();
      assert.equal(stage.notifier.isActive, false);
      assert.deepEqual(stage.sent, []);
      assert.deepEqual(
        stage.warnings.map(({ code, message }) => [code, message.endsWith(` not ${address}`)]),
        [['ERR_UNSUPPORTED', true]],
      );
    }
  });

  it('reads @ at the beginning as the NUL of an abstract name', () => {
    using stage = new Stage({ NOTIFY_SOCKET: '@/org/name' });
    stage.notifier.ready();
    assert.deepEqual([...stage.paths], ['\0/org/name']);
  });
});

describe('a message of a notifier', () => {
  it('is a line for each assignment', () => {
    using stage = new Stage();
    const { notifier } = stage;
    notifier.ready();
    notifier.stopping();
    notifier.mainPid(123);
    notifier.removeStored('name');
    assert.deepEqual(stage.sent, ['READY=1', 'STOPPING=1', 'MAINPID=123', 'FDSTOREREMOVE=1\nFDNAME=name']);
  });

  it('has no invalid name', () => {
    using stage = new Stage();
    for (const name of ['', 'a:b', 'a\nb', 'ü', '\x7f', 'x'.repeat(256)]) {
      assert.throws(() => {
        stage.notifier.store(name, []);
      }, TypeError);
      assert.throws(() => {
        stage.notifier.removeStored(name);
      }, TypeError);
    }
    stage.notifier.removeStored('x'.repeat(255));
    assert.equal(stage.sent.length, 1);
  });
});

describe('a notifier whose manager has no room', () => {
  it(
    'sends in the order of the calls as soon as there is room',
    keepsDescriptors(async () => {
      using stage = new Stage();
      stage.outcomes.push('full', 'full', 'full');
      using file = openFile('lent');
      stage.notifier.store('first', [file]);
      stage.notifier.ready();
      assert.deepEqual(stage.sent, []);
      await stage.count(2);
      assert.deepEqual(stage.sent, ['FDSTORE=1\nFDNAME=first', 'READY=1']);
      assert.deepEqual(stage.warnings, []);
    }),
  );

  it(
    'keeps up to 256 messages, and warns once',
    keepsDescriptors(() => {
      using stage = new Stage();
      stage.outcomes.push('full');
      for (let count = 0; count < 258; count++) stage.notifier.ready();
      assert.deepEqual(
        stage.warnings.map(({ message }) => message),
        [
          'The service manager could not be notified (READY=1): 256 messages wait for the service manager to read',
        ],
      );
    }),
  );

  it(
    'drops waiting messages when it is closed, a barrier too',
    keepsDescriptors(async () => {
      using stage = new Stage();
      stage.outcomes.push('full');
      stage.notifier.ready();
      const barrier = stage.notifier.barrier();
      stage.notifier.close();
      assert.equal(await barrier, false);
      assert.deepEqual(stage.sent, []);
    }),
  );
});

describe('a notifier whose manager cannot be reached', () => {
  const gone = new PassfdError('ERR_CONNECTION_REFUSED', 'nobody there');

  it('warns once until the manager is reachable again, and goes on', () => {
    using stage = new Stage();
    stage.outcomes.push(gone, gone);
    stage.notifier.ready();
    stage.notifier.mainPid(1);
    assert.deepEqual(
      stage.warnings.map(({ code, message }) => [code, message]),
      [['ERR_CONNECTION_REFUSED', 'The service manager could not be notified (READY=1): nobody there']],
    );
    stage.notifier.mainPid(2);
    stage.outcomes.push(gone);
    stage.notifier.mainPid(3);
    assert.deepEqual([stage.sent, stage.warnings.length], [['MAINPID=2'], 2]);
  });

  it(
    'has a barrier that resolves with false',
    keepsDescriptors(async () => {
      using stage = new Stage();
      stage.outcomes.push(gone);
      assert.equal(await stage.notifier.barrier(), false);
    }),
  );

  it('emits a process warning without a `warn` option', async () => {
    const warning = new Promise<Error & { code?: string }>((resolve) => {
      process.once('warning', resolve);
    });
    using notifier = new Notifier({ NOTIFY_SOCKET: '/nowhere/notify' });
    notifier.ready();
    const { name, code, message } = await warning;
    assert.deepEqual([name, code], ['PassfdWarning', 'ERR_ADDRESS_MISSING']);
    assert.match(message, /READY=1.*\/nowhere\/notify: ENOENT/);
  });
});

describe('the keep-alive of a notifier', () => {
  it('is sent at intervals until the notifier is closed, also when it is started twice', async () => {
    using stage = new Stage({ NOTIFY_SOCKET: '/run/notify', WATCHDOG_USEC: '4000' });
    stage.notifier.startKeepAlive();
    stage.notifier.startKeepAlive();
    await stage.count(3);
    stage.notifier.close();
    assert.deepEqual(new Set(stage.sent), new Set(['WATCHDOG=1']));
  });

  it('is not sent without a watchdog, or with an invalid interval', async () => {
    for (const WATCHDOG_USEC of [undefined, '', '0', '-1', '1e3', 'soon']) {
      using stage = new Stage({ NOTIFY_SOCKET: '/n', ...(WATCHDOG_USEC !== undefined && { WATCHDOG_USEC }) });
      stage.notifier.startKeepAlive();
      await turns();
      assert.deepEqual(stage.sent, []);
    }
  });

  it('has the longest interval of a timer when the watchdog has a longer one', (context) => {
    context.mock.timers.enable({ apis: ['setInterval'] });
    using stage = new Stage({ NOTIFY_SOCKET: '/n', WATCHDOG_USEC: String(Number.MAX_SAFE_INTEGER) });
    stage.notifier.startKeepAlive();
    context.mock.timers.tick(2_147_483_646);
    assert.deepEqual(stage.sent, []);
    context.mock.timers.tick(1);
    assert.deepEqual(stage.sent, ['WATCHDOG=1']);
  });

  it('comes at half of the watchdog interval', (context) => {
    context.mock.timers.enable({ apis: ['setInterval'] });
    using stage = new Stage({ NOTIFY_SOCKET: '/n', WATCHDOG_USEC: '30000000', WATCHDOG_PID: String(PID) });
    stage.notifier.startKeepAlive();
    context.mock.timers.tick(14_999);
    assert.deepEqual(stage.sent, []);
    context.mock.timers.tick(15_001);
    assert.deepEqual(stage.sent, ['WATCHDOG=1', 'WATCHDOG=1']);
  });
});
