// Log lines about events that peers can cause at any rate, or that have several causes.
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { describe, it } from 'node:test';

import { pino } from 'pino';

import type { Log } from '../../../src/service/log.js';
import { logDispatcher, logSupervisor } from '../../../src/service/log-events.js';
import type { Dispatcher } from '../../../src/dispatcher/index.js';
import { PassfdError } from '../../../src/fd/index.js';
import type { Supervisor } from '../../../src/supervisor/index.js';

/** A log, and the messages that are written to it. */
function collected(): [log: Log, messages: string[]] {
  const messages: string[] = [];
  const write = (line: string): void => {
    messages.push((JSON.parse(line) as { msg: string }).msg);
  };
  return [pino({}, { write }), messages];
}

describe('the log of a dispatcher', () => {
  it('has one line for warnings of one kind, even if their messages differ', () => {
    const [log, messages] = collected();
    const dispatcher = new EventEmitter();
    logDispatcher(log, dispatcher as unknown as Dispatcher);
    for (let port = 1; port <= 100; port++) {
      dispatcher.emit('warned', new PassfdError('ERR_SYSTEM', `port ${port}`));
      dispatcher.emit('warned', new Error(`port ${port}`));
    }
    assert.equal(messages.length, 2);
    dispatcher.emit('warned', new PassfdError('ERR_DESCRIPTOR_LIMIT', 'no descriptor'));
    assert.equal(messages.length, 3);
  });

  it('sums up guests that join and leave many times, but not the workers of the service', (test) => {
    test.mock.timers.enable({ apis: ['setTimeout'] });
    const [log, messages] = collected();
    const dispatcher = new EventEmitter();
    logDispatcher(log, dispatcher as unknown as Dispatcher, ({ id }) => id > 2);
    const comeAndGo = (id: number): void => {
      const worker = { id, pid: 7, dialect: 'passfd' };
      dispatcher.emit('joined', worker);
      dispatcher.emit('ready', worker);
      dispatcher.emit('left', worker, { redelivered: 0, reason: 'it has left' });
    };
    for (let times = 0; times < 1_000; times++) comeAndGo(3);
    const atOnce = messages.splice(0).length;
    assert.ok(atOnce >= 3 && atOnce <= 100, String(atOnce));
    test.mock.timers.tick(1_000);
    assert.deepEqual(messages.splice(0), ['worker joined', 'worker ready', 'worker left']);
    for (let times = 0; times < 100; times++) comeAndGo(1);
    assert.equal(messages.length, 300);
  });
});

describe('the log of a supervisor', () => {
  it('says whether a process that is not ready has joined', () => {
    const [log, messages] = collected();
    const supervisor = new EventEmitter();
    logSupervisor(log, supervisor as unknown as Supervisor);
    for (const hasJoined of [true, false]) {
      supervisor.emit('overdue', { id: 1, pid: 7 }, { hasJoined, launched: undefined });
    }
    assert.deepEqual(messages, [
      'process is not ready yet: it has not listened',
      'process is not ready yet: it has not joined the dispatcher',
    ]);
  });

  it('names what a process that is not ready has started, and says what to do', () => {
    const [log, messages] = collected();
    const supervisor = new EventEmitter();
    logSupervisor(log, supervisor as unknown as Supervisor);
    const launched = 'process 8 (node app.ts)';
    supervisor.emit('overdue', { id: 1, pid: 7 }, { hasJoined: true, launched });
    const told =
      /has not listened. It has started process 8 \(node app.ts\), which is not a worker: give passfd run/;
    assert.match(messages[0] ?? '', told);
  });
});
