// The tables of `passfd status`.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { formatDuration, formatStatus, statusIn } from '../../../src/cli/status-table.js';
import type { Status } from '../../../src/dispatcher/index.js';

const status: Status = {
  version: '1.2.3',
  pid: 4711,
  generation: 1,
  uptimeMs: 90_061_000,
  listeners: [{ address: '127.0.0.1:8080', accepted: 12_345 }],
  connections: { accepted: 12_345, adopted: 12_340, redelivered: 1, refused: 0, waiting: 2, inFlight: 3 },
  workers: [
    {
      id: 1,
      pid: 4712,
      dialect: 'passfd',
      state: 'ready',
      adopted: 12_340,
      active: 7,
      inFlight: 3,
      watching: null,
      loopDelayMs: null,
    },
    {
      id: 12,
      pid: 999,
      dialect: 'multiprocessing',
      state: 'draining',
      adopted: 0,
      active: null,
      inFlight: 0,
      watching: null,
      loopDelayMs: null,
    },
  ],
  peers: { refused: 0 },
};

describe('the status table', () => {
  it('has aligned columns, numbers to the right, and a dash for an unknown value', () => {
    assert.equal(
      formatStatus(status),
      [
        'passfd 1.2.3, pid 4711, generation 1, up 1 d 1 h',
        '',
        'LISTENER        ACCEPTED',
        '127.0.0.1:8080     12345',
        '',
        'ACCEPTED  ADOPTED  REDELIVERED  REFUSED  WAITING  IN FLIGHT',
        '   12345    12340            1        0        2          3',
        '',
        'WORKER   PID  DIALECT          STATE     ADOPTED  ACTIVE  IN FLIGHT',
        '     1  4712  passfd           ready       12340       7          3',
        '    12   999  multiprocessing  draining        0       -          0',
      ].join('\n'),
    );
  });

  it('shows who watches, and for how long event loops are busy, where workers accept by themselves', () => {
    const [first, second] = status.workers;
    assert.ok(first && second);
    const workers = [
      { ...first, watching: true, loopDelayMs: 0 },
      { ...first, id: 2, watching: false, loopDelayMs: 215 },
      { ...second, watching: null, loopDelayMs: null },
    ];
    assert.deepEqual(
      formatStatus({ ...status, workers })
        .split('\n')
        .slice(-4),
      [
        'WORKER   PID  DIALECT          STATE     ADOPTED  ACTIVE  IN FLIGHT  WATCHING  LOOP MS',
        '     1  4712  passfd           ready       12340       7          3  yes             0',
        '     2  4712  passfd           ready       12340       7          3  no            215',
        '    12   999  multiprocessing  draining        0       -          0  -               -',
      ],
    );
  });

  it('says (none) for an empty table', () => {
    const lines = formatStatus({ ...status, listeners: [], workers: [] }).split('\n');
    assert.equal(lines.filter((line) => line === '(none)').length, 2);
  });
});

describe('a duration', () => {
  it('has its two largest units', () => {
    assert.deepEqual(
      [0, 999, 59_999, 60_000, 3_599_000, 3_600_000, 86_400_000, 2 * 86_400_000 + 5 * 3_600_000].map(
        formatDuration,
      ),
      ['0 s', '0 s', '59 s', '1 min 0 s', '59 min 59 s', '1 h 0 min', '1 d 0 h', '2 d 5 h'],
    );
  });
});

describe('an answer', () => {
  it('is a status when it has its parts', () => {
    const { peers, ...shown } = status;
    assert.deepEqual(statusIn(status), shown);
    assert.deepEqual(statusIn({ ...status, peers: undefined, ofALaterRelease: peers }), shown);
    for (const other of [
      null,
      7,
      {},
      { workers: [] },
      { ...status, connections: null },
      { ...status, workers: [{ ...status.workers[0], id: '1' }] },
    ]) {
      assert.equal(statusIn(other), undefined, JSON.stringify(other));
    }
  });

  it('shows no control characters and no additional lines', () => {
    const address = 'unix:/a\u001b[2J\u009b1m\u202eb\nWORKER';
    const shown = statusIn({ ...status, listeners: [{ address, accepted: 1 }] });
    assert.ok(shown);
    const text = formatStatus(shown);
    assert.match(text, /^unix:\/a\\u001b\[2J\\u009b1m\\u202eb\\u000aWORKER {9}1$/m);
  });
});
