// The load generator of the benchmarks: what it asks, what it counts as an answer, and what it tells.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { describe, it } from 'node:test';

import { STUCK_AFTER_MS } from '../support/deadline.js';
import { turns } from '../support/loop.js';
import { withPrograms } from '../support/program.js';
import { answering, assertFailed, assertRight, LABEL, serving, startAnswer } from './answering.js';
import { programs, resultOf, startLoad, withoutPrograms } from './programs.js';

const http = (status: string, body: string, ...headers: string[]): string =>
  [`HTTP/1.1 ${status}`, ...headers, '', body].join('\r\n');

describe('the load generator', { skip: withoutPrograms }, () => {
  for (const [work, app] of [
    ['http', 'http'],
    ['keep-alive', 'http'],
    ['raw', 'raw'],
  ] as const) {
    it(
      `counts the answers to ${work} by worker`,
      withPrograms(async (start) => {
        const port = await startAnswer(start, app);
        assertRight(
          await resultOf(startLoad(start, port, work, '--count', '1000', '--connections', '20')),
          1000,
        );
      }),
    );
  }

  it(
    'asks one connection at a time for the latency',
    withPrograms(async (start) => {
      let most = 0;
      let count = 0;
      await using stage = await answering((socket) => {
        count++;
        most = Math.max(most, stage.sockets.size);
        socket.write(LABEL);
      });
      const load = startLoad(start, stage.port, 'latency', '--count', '50', '--pause-us', '100');
      assertRight(await resultOf(load), 50);
      assert.equal(count, 50);
      // The end of the one before may still be on its way.
      assert.ok(most <= 2);
    }),
  );

  it(
    'checks a long answer byte by byte',
    withPrograms(async (start) => {
      const bytes = String(10_000_019);
      const port = await startAnswer(start, 'raw', { BENCH_BULK_BYTES: bytes });
      const result = await resultOf(startLoad(start, port, 'bulk', '--bytes', bytes));
      assert.deepEqual([result.completed, result.failed, result.bytes], [1, 0, Number(bytes)]);
    }),
  );

  it(
    'asks with as many connections at a time as it is told, and no more often',
    withPrograms(async (start) => {
      const waiting: Socket[] = [];
      await using stage = await answering((socket) => {
        waiting.push(socket);
        // So many are open at once: nobody is answered before.
        if (waiting.length === 30) for (const each of waiting.splice(0)) each.write(LABEL);
      });
      assertRight(
        await resultOf(startLoad(start, stage.port, 'raw', '--count', '90', '--connections', '30')),
        90,
      );
    }),
  );

  it(
    'begins no connection before its planned moment, where it has a rate',
    withPrograms(async (start) => {
      await using stage = await answering((socket) => socket.write(LABEL));
      const result = await resultOf(startLoad(start, stage.port, 'raw', '--count', '31', '--rate', '100'));
      assertRight(result, 31);
      // From the first to the last are 30 steps of 10 ms.
      assert.ok(result.seconds >= 0.3, `${result.seconds} s`);
    }),
  );

  it(
    'begins connections at its rate while nobody is answered',
    withPrograms(async (start) => {
      const waiting: Socket[] = [];
      await using stage = await answering((socket) => {
        waiting.push(socket);
        if (waiting.length === 90) for (const each of waiting) each.write(LABEL);
      });
      const options = ['--count', '90', '--connections', '100', '--rate', '1000'];
      assertRight(await resultOf(startLoad(start, stage.port, 'raw', ...options)), 90);
    }),
  );

  it(
    'counts the latency from the planned moment, where it has a rate, also of one that had to wait for its turn',
    withPrograms(async (start) => {
      let count = 0;
      await using stage = await answering((socket) => {
        // Nobody else is asked meanwhile, since there is one connection at a time.
        if (count++ === 0) setTimeout(() => socket.write(LABEL), 300);
        else socket.write(LABEL);
      });
      const options = ['--count', '10', '--connections', '1', '--rate', '1000'];
      const result = await resultOf(startLoad(start, stage.port, 'raw', ...options));
      assertRight(result, 10);
      // The last one was planned 9 ms after the first.
      assert.ok((result.latencyUs?.p50 ?? 0) > 280_000, JSON.stringify(result.latencyUs));
    }),
  );

  it(
    'uses each connection of keep-alive again and again',
    withPrograms(async (start) => {
      let connections = 0;
      await using stage = await serving((socket) => {
        connections++;
        socket.on('data', () => socket.write(http('200 OK', LABEL, 'Content-Length: 7')));
      });
      const load = startLoad(start, stage.port, 'keep-alive', '--count', '400', '--connections', '4');
      assertRight(await resultOf(load), 400);
      assert.equal(connections, 4);
    }),
  );

  it(
    'comes from the next address with each connection',
    withPrograms(async (start) => {
      const seen: (string | undefined)[] = [];
      await using stage = await answering((socket) => {
        seen.push(socket.remoteAddress);
        socket.write(LABEL);
      });
      const options = ['--count', '4', '--connections', '1', '--from', '127.255.255.253'];
      assertRight(await resultOf(startLoad(start, stage.port, 'raw', ...options)), 4);
      assert.deepEqual(seen, ['127.255.255.253', '127.255.255.254', '127.1.0.0', '127.1.0.1']);
    }),
  );

  for (const work of ['raw', 'keep-alive', 'http']) {
    it(
      `ends each connection of ${work} normally`,
      withPrograms(async (start) => {
        let ended = 0;
        await using stage = await serving((socket) => {
          socket.on('data', (data) => {
            if (work === 'raw') socket.write(LABEL);
            else socket.write(http('200 OK', LABEL, 'Content-Length: 7'));
            if (data.toString().includes('Connection: close')) socket.end();
          });
          socket.on('end', () => ended++);
        });
        const load = startLoad(start, stage.port, work, '--count', '100', '--connections', '100');
        assertRight(await resultOf(load), 100);
        while (stage.sockets.size > 0) await turns(1);
        assert.deepEqual([ended, stage.errors], [100, []]);
      }),
    );
  }

  it(
    'takes an answer that comes byte by byte',
    withPrograms(async (start) => {
      await using stage = await answering((socket) => {
        socket.setNoDelay(true);
        writeBytes(socket, http('200 OK', LABEL, 'Content-Length: 7'));
      });
      assertRight(await resultOf(startLoad(start, stage.port, 'http', '--count', '3')), 3);
    }),
  );

  it(
    'tells the latency of each worker',
    withPrograms(async (start) => {
      let count = 0;
      await using stage = await answering((socket) => {
        socket.write(count++ % 3 === 0 ? 'w000001' : 'w999999');
      });
      const result = await resultOf(startLoad(start, stage.port, 'raw', '--count', '30'));
      assert.deepEqual(result.byWorker, { w000001: 10, w999999: 20 });
      const longest = Object.values(result.latencyByWorkerUs).map(({ max }) => max);
      assert.equal(Math.max(...longest), result.latencyUs?.max);
    }),
  );

  it(
    'holds idle connections until its input has a line, and then ends them',
    withPrograms(async (start) => {
      await using stage = await answering((socket) => socket.write(LABEL));
      const load = startLoad(start, stage.port, 'idle', '--connections', '300');
      await load.line(/^\{"type":"held","connections":300\}$/);
      assert.equal(stage.sockets.size, 300);
      load.say('');
      assertRight(await resultOf(load), 300);
      assert.deepEqual(stage.errors, []);
    }),
  );

  it(
    'ends idle connections at the end of its input, too',
    withPrograms(async (start) => {
      await using stage = await answering((socket) => socket.write(LABEL));
      const load = startLoad(start, stage.port, 'idle', '--connections', '3');
      load.endInput();
      assertRight(await resultOf(load), 3);
    }),
  );
});

/** One after the other, and then the end. */
function writeBytes(socket: Socket, text: string): void {
  if (text === '') {
    socket.end();
    return;
  }
  socket.write(text.slice(0, 1), () => {
    writeBytes(socket, text.slice(1));
  });
}

describe('the load generator counts as failed', { skip: withoutPrograms }, () => {
  const failures: readonly [name: string, work: string, answer: (socket: Socket) => void, reason: string][] =
    [
      ['a wrong answer', 'raw', (socket) => socket.write('w00000x'), 'wrong answer: w00000x'],
      ['an answer of another kind', 'raw', (socket) => socket.write('x000001'), 'wrong answer: x000001'],
      [
        'an answer with anything that JSON has to escape',
        'raw',
        (socket) => socket.write('"\\\n\u0001\u007fAB'),
        'wrong answer: "\\\n\u0001\u007fAB',
      ],
      ['an answer that is too long', 'raw', (socket) => socket.write(`${LABEL}!`), `wrong answer: ${LABEL}!`],
      [
        'an answer that is too short',
        'raw',
        (socket) => socket.end('w000'),
        'the end came within the answer',
      ],
      ['an end without an answer', 'raw', (socket) => socket.end(), 'the end came without an answer'],
      ['a reset', 'raw', (socket) => socket.resetAndDestroy(), 'receive: Connection reset by peer'],
      [
        'another status',
        'http',
        (socket) => socket.end(http('503 Busy', LABEL, 'Content-Length: 7')),
        `wrong answer: ${http('503 Busy', LABEL, 'Content-Length: 7')}`,
      ],
      [
        'another length',
        'http',
        (socket) => socket.end(http('200 OK', LABEL, 'Content-Length: 8')),
        `wrong answer: ${http('200 OK', LABEL, 'Content-Length: 8')}`,
      ],
      [
        'bytes behind the body',
        'keep-alive',
        (socket) => socket.end(http('200 OK', `${LABEL}!`, 'Content-Length: 7')),
        `wrong answer: ${http('200 OK', `${LABEL}!`, 'Content-Length: 7')}`,
      ],
      [
        'an answer without an end of the header',
        'http',
        (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 7\r\n'),
        'the end came within the answer',
      ],
      [
        'a connection that the server does not end',
        'http',
        (socket) => socket.write(http('200 OK', LABEL, 'Content-Length: 7')),
        'no end behind the answer in time',
      ],
      ['silence', 'raw', () => undefined, 'no answer in time'],
      [
        'a long answer that is too short',
        'bulk',
        (socket) => socket.end(bulk(999)),
        'the end came within the answer',
      ],
      [
        'a long answer that is too long',
        'bulk',
        (socket) => socket.end(bulk(1001)),
        'too long a bulk answer',
      ],
      [
        'a long answer without an end',
        'bulk',
        (socket) => socket.write(bulk(1000)),
        'no end behind the answer in time',
      ],
      [
        'a long answer with one wrong byte',
        'bulk',
        (socket) => {
          const bytes = bulk(1000);
          bytes.writeUInt8(0, 998);
          socket.end(bytes);
        },
        'wrong bytes in a bulk answer',
      ],
      [
        'a long answer of which a part is missing',
        'bulk',
        (socket) => socket.end(Buffer.concat([bulk(488), bulk(1512).subarray(1000)])),
        'wrong bytes in a bulk answer',
      ],
    ];
  for (const [name, work, answer, reason] of failures) {
    it(
      name,
      withPrograms(async (start) => {
        await using stage = await answering(answer);
        // Only what never comes may run into the time limit, also on a busy machine.
        const timeoutMs = reason.endsWith('in time') ? 2_000 : STUCK_AFTER_MS;
        const options = ['--count', '3', '--connections', '2', '--bytes', '1000'];
        options.push('--timeout-ms', String(timeoutMs));
        assertFailed(await resultOf(startLoad(start, stage.port, work, ...options)), 3, reason);
      }),
    );
  }

  it(
    'an answer that is longer than any',
    withPrograms(async (start) => {
      await using stage = await answering((socket) => socket.write('x'.repeat(5000)));
      const result = await resultOf(startLoad(start, stage.port, 'http', '--count', '3'));
      assert.deepEqual([result.completed, result.failed], [0, 3]);
      assert.match(result.reasons.join(), /^too long an answer: x+$/);
    }),
  );

  it(
    'bytes that come behind a complete answer',
    withPrograms(async (start) => {
      await using stage = await answering((socket) => {
        socket.setNoDelay(true);
        socket.write(http('200 OK', LABEL, 'Content-Length: 7'), () => socket.end('!'));
      });
      const { completed, failed, reasons } = await resultOf(
        startLoad(start, stage.port, 'http', '--count', '3'),
      );
      assert.deepEqual([completed, failed], [0, 3]);
      assert.deepEqual(reasons, [`wrong answer: ${http('200 OK', `${LABEL}!`, 'Content-Length: 7')}`]);
    }),
  );

  it(
    'a refusal',
    withPrograms(async (start) => {
      // The port is taken at another address, so nobody else listens at this one.
      await using stage = await answering(() => undefined);
      const load = startLoad(start, `127.77.0.1:${stage.port}`, 'raw', '--count', '70');
      assertFailed(await resultOf(load), 70, 'connect: Connection refused');
    }),
  );

  it(
    'a second request of keep-alive that is not answered any more',
    withPrograms(async (start) => {
      await using stage = await answering((socket) => socket.end(http('200 OK', LABEL, 'Content-Length: 7')));
      const load = startLoad(start, stage.port, 'keep-alive', '--count', '2', '--connections', '1');
      const { completed, failed } = await resultOf(load);
      assert.deepEqual([completed, failed], [1, 1]);
    }),
  );

  it(
    'a connection that ends while it is held',
    withPrograms(async (start) => {
      await using stage = await answering((socket) => socket.write(LABEL));
      const load = startLoad(start, stage.port, 'idle', '--connections', '3');
      await load.line(/^\{"type":"held","connections":3\}$/);
      const [first] = stage.sockets;
      assert.ok(first);
      first.end();
      await once(first, 'close'); // it has seen the end, since it has closed its own side
      load.say('');
      const { completed, failed, reasons } = await resultOf(load);
      assert.deepEqual([completed, failed, reasons], [3, 1, ['the end came while the connection was held']]);
    }),
  );

  it(
    'none of those that were right before',
    withPrograms(async (start) => {
      let count = 0;
      await using stage = await answering((socket) => socket.write(count++ === 5 ? 'wrong!!' : LABEL));
      const { completed, failed, byWorker } = await resultOf(
        startLoad(start, stage.port, 'raw', '--count', '9'),
      );
      assert.deepEqual([completed, failed, byWorker], [8, 1, { [LABEL]: 8 }]);
    }),
  );
});

/** The first bytes of a long answer. */
function bulk(length: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, position) => position % 251));
}

describe('the end of a load generator', { skip: withoutPrograms }, () => {
  it(
    'comes when its time is over',
    withPrograms(async (start) => {
      const port = await startAnswer(start, 'raw');
      const result = await resultOf(startLoad(start, port, 'raw', '--seconds', '0.05'));
      assertRight(result, result.completed);
      assert.ok(result.completed > 0);
    }),
  );

  it(
    'lets everyone finish at a signal, and tells the result so far',
    withPrograms(async (start) => {
      let count = 0;
      await using stage = await answering((socket) => {
        if (++count === 20) load.signal('SIGTERM');
        socket.write(LABEL);
      });
      const load = startLoad(start, stage.port, 'raw', '--seconds', '3600');
      const result = await resultOf(load);
      assertRight(result, count);
      assert.deepEqual(stage.errors, []);
    }),
  );

  it(
    'does not wait any more at another signal',
    withPrograms(async (start) => {
      let count = 0;
      await using stage = await answering((socket) => {
        if (++count < 5) {
          socket.write(LABEL);
          return;
        }
        load.signal('SIGTERM');
        load.signal('SIGINT');
      });
      const load = startLoad(start, stage.port, 'raw', '--seconds', '3600', '--connections', '1');
      assertRight(await resultOf(load), 4);
    }),
  );

  it(
    'lets go of what it holds at a signal',
    withPrograms(async (start) => {
      await using stage = await answering((socket) => socket.write(LABEL));
      const load = startLoad(start, stage.port, 'idle', '--connections', '3');
      await load.line(/"held"/);
      load.signal('SIGTERM');
      assertRight(await resultOf(load), 3);
    }),
  );

  const calls: readonly (readonly [args: readonly string[], says: RegExp])[] = [
    [[], /it takes --to, with a port, and --work\nUsage: load/],
    [['--to', '127.0.0.1:80'], /it takes --to, with a port, and --work/],
    [['--to', '127.0.0.1:0', '--work', 'raw'], /it takes --to, with a port, and --work/],
    [['--to', '10.0.0.1:80', '--work', 'raw'], /--to takes an address in 127\.0\.0\.0\/8, not '10\.0\.0\.1'/],
    [['--to', '127.0.0.1', '--work', 'raw'], /--to takes HOST:PORT, not '127\.0\.0\.1'/],
    [['--to', '127.0.0.1:80', '--work', 'sleep'], /there is no work 'sleep'/],
    [['--to', '127.0.0.1:80', '--work', 'raw'], /it takes --seconds or --count/],
    [['--to', '127.0.0.1:80', '--work', 'raw', '--count', '-1'], /--count takes a whole number from 1/],
    [['--to', '127.0.0.1:80', '--work', 'raw', '--count', '1x'], /not '1x'/],
    [['--to', '127.0.0.1:80', '--work', 'raw', '--seconds', 'nan'], /--seconds takes seconds from 0\.001/],
    [['--to', '127.0.0.1:80', '--work', 'idle', '--seconds', '1'], /idle holds its connections/],
    [['--to', '127.0.0.1:80', '--work', 'latency', '--count', '1', '--connections', '2'], /one connection/],
    [
      ['--to', '127.0.0.1:80', '--work', 'idle', '--rate', '9'],
      /a rate is that of new connections: it goes with/,
    ],
    [
      ['--to', '127.0.0.1:80', '--work', 'raw', '--count', '1', '--rate', '0'],
      /--rate takes a whole number from 1/,
    ],
    [['--to', '127.0.0.1:80', '--work', 'raw', '--count', '1', 'more'], /options only, not 'more'/],
    [['--speed', '9'], /unrecognized option '--speed'\n[^]*Usage: load/],
  ];
  for (const [args, says] of calls) {
    it(
      `says what is wrong with: load ${args.join(' ')}`,
      withPrograms(async (start) => {
        const load = start(programs.load, args);
        assert.equal(await load.exit, 2);
        assert.match(await load.stderr, says);
        assert.deepEqual(load.lines, []);
      }),
    );
  }
});
