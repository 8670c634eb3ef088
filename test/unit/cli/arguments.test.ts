// How addresses and numbers are written on the command line.
import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import { describe, it } from 'node:test';

import { InvalidArgumentError } from 'commander';

import { parseAddress } from '../../../src/cli/address.js';
import {
  parseBacklog,
  parseMilliseconds,
  parseUserId,
  parseWorkerId,
  parseWorkers,
} from '../../../src/cli/numbers.js';

function refuses(parse: (text: string) => unknown, texts: readonly string[]): void {
  for (const text of texts) {
    assert.throws(() => parse(text), InvalidArgumentError, JSON.stringify(text));
  }
}

describe('an address', () => {
  const written: Readonly<Record<string, unknown>> = {
    '8080': { host: '::', port: 8080 },
    '0': { host: '::', port: 0 },
    '127.0.0.1:80': { host: '127.0.0.1', port: 80 },
    'localhost:65535': { host: 'localhost', port: 65_535 },
    '[::1]:443': { host: '::1', port: 443 },
    '[fe80::1%eth0]:443': { host: 'fe80::1%eth0', port: 443 },
    'unix:/run/app.sock': { path: '/run/app.sock' },
    'unix:a:b': { path: 'a:b' },
    'unix:@name': { path: '\0name' },
    'fd:3': { fd: 3 },
    'fd:2147483647': { fd: 2_147_483_647 },
    'fd:web': { fdName: 'web' },
    'fd:3rd': { fdName: '3rd' },
    'fd:passfd.socket': { fdName: 'passfd.socket' },
  };
  for (const [text, address] of Object.entries(written)) {
    it(`is written ${text}`, () => {
      assert.deepEqual(parseAddress(text), address);
    });
  }

  it('is refused when it is none of these', () => {
    refuses(parseAddress, [
      '',
      ':80',
      'host',
      'host:',
      'host:http',
      '65536',
      '-1',
      '1.5',
      '::1:80',
      '[::1]',
      '[]:80',
      'unix:',
      'unix:@',
      'fd:',
      'fd:2',
      'fd:2147483648',
      'fd:4294967299',
      'fd:99999999999999999999',
      '99999999999999999999',
      '0x50',
      '8e1',
      'fd:a:b',
      'fd:a\nb',
      'fd:ü',
      '/run/app.sock',
    ]);
  });
});

describe('a number', () => {
  it('of workers is "max" for one per core, or from 1 to 1024', () => {
    assert.deepEqual(
      [parseWorkers('max'), parseWorkers('1'), parseWorkers('1024')],
      [availableParallelism(), 1, 1_024],
    );
    refuses(parseWorkers, ['0', '1025', '-1', '1.5', 'all', '', ' 4', '0x4', '1e2']);
  });

  it('of milliseconds is one that a timer can take', () => {
    assert.deepEqual([parseMilliseconds('1'), parseMilliseconds('2147483647')], [1, 2_147_483_647]);
    refuses(parseMilliseconds, ['0', '2147483648', '10s', '-5', '']);
  });

  it('of a backlog is from 1', () => {
    assert.equal(parseBacklog('4096'), 4_096);
    refuses(parseBacklog, ['0', 'many', '2147483648', '1.5', '0x10', '']);
  });

  it('of a user or a group may be 0, which is root', () => {
    assert.deepEqual([parseUserId('0'), parseUserId('4294967294')], [0, 4_294_967_294]);
    refuses(parseUserId, ['root', '-1', '4294967295', '0x0', '1e3', '']);
  });

  it('of a worker is from 1', () => {
    assert.equal(parseWorkerId('3'), 3);
    refuses(parseWorkerId, ['0', 'three', '', '1.5', '0x3', '9007199254740993']);
  });
});
