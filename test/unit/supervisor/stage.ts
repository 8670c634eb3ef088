// A stage for a supervisor: an operating system and a dispatcher without a process and without a clock.
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';

import { socketPair, type StreamSocket } from '../../../src/fd/index.js';
import {
  Supervisor,
  type Exit,
  type Host,
  type Pool,
  type PoolWorker,
  type Spawned,
  type Start,
  type SupervisorOptions,
  type Timer,
} from '../../../src/supervisor/index.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { turns } from '../../support/loop.js';

export const success: Exit = { is: 'code', code: 0 };
export const failure: Exit = { is: 'code', code: 1 };
export const killed: Exit = { is: 'signal', signal: 'SIGKILL' };

/** A process that does nothing on its own. */
export class FakeProcess {
  readonly pid: number;
  readonly start: Start;
  readonly signals: string[] = [];
  readonly exit: (exit: Exit) => void;

  constructor(pid: number, start: Start, exit: (exit: Exit) => void) {
    this.pid = pid;
    this.start = start;
    this.exit = exit;
  }
}

const FIRST_PID = 101;

export class FakeHost implements Host {
  /** Every one that was started, in that order: the first has process id 101. */
  readonly processes: FakeProcess[] = [];
  /** When it is set, no process can be started. */
  spawnError: Error | undefined;
  #now = 0;
  readonly #timers = new Set<{ readonly at: number; readonly callback: () => void }>();

  spawn(start: Start, onExit: (exit: Exit) => void): Spawned | undefined {
    const error = this.spawnError;
    if (error) {
      queueMicrotask(() => {
        onExit({ is: 'not-started', error });
      });
      return undefined;
    }
    const [channel, there] = socketPair();
    there.destroy();
    const pid = FIRST_PID + this.processes.length;
    this.processes.push(new FakeProcess(pid, start, onExit));
    return { pid, channel };
  }

  kill(pid: number, signal: 'SIGTERM' | 'SIGKILL'): void {
    this.process(pid).signals.push(signal);
  }

  now(): number {
    return this.#now;
  }

  setTimer(callback: () => void, delayMs: number): Timer {
    const timer = { at: this.#now + delayMs, callback };
    this.#timers.add(timer);
    return { clear: () => this.#timers.delete(timer) };
  }

  get timers(): number {
    return this.#timers.size;
  }

  process(pid: number): FakeProcess {
    const process = this.processes[pid - FIRST_PID];
    assert.ok(process, `process ${pid} was started`);
    return process;
  }

  /** Lets time pass, in which timers fire in their order. */
  pass(milliseconds: number): void {
    const end = this.#now + milliseconds;
    for (;;) {
      const [next] = [...this.#timers].sort((a, b) => a.at - b.at);
      if (!next || next.at > end) break;
      this.#timers.delete(next);
      this.#now = next.at;
      next.callback();
    }
    this.#now = end;
  }
}

export class FakePool extends EventEmitter<{ ready: [PoolWorker]; left: [PoolWorker] }> implements Pool {
  workers: readonly PoolWorker[] = [];
  reserved = 0;
  readonly children: { readonly id: number; readonly pid: number }[] = [];
  /** What is being drained, and what to call when it is. */
  readonly drains = new Map<number, () => void>();

  reserveIds(count: number): void {
    this.reserved = count;
  }

  addChild(socket: StreamSocket, child: { readonly id: number; readonly pid: number }): void {
    socket.destroy();
    this.children.push(child);
  }

  drain(worker: PoolWorker): Promise<void> {
    if (!this.workers.some(({ pid }) => pid === worker.pid)) return Promise.resolve();
    return new Promise((resolve) => {
      this.drains.set(worker.id, resolve);
    });
  }

  /** A process joins; it listens, and is ready. */
  ready(id: number, pid: number): void {
    const worker = { id, pid, listens: true };
    this.workers = [...this.workers, worker];
    this.emit('ready', worker);
  }

  unlisten(pid: number): void {
    this.workers = this.workers.map((worker) =>
      worker.pid === pid ? { ...worker, listens: false } : worker,
    );
  }

  leave(pid: number): void {
    const worker = this.workers.find((candidate) => candidate.pid === pid);
    assert.ok(worker, `process ${pid} has joined`);
    this.workers = this.workers.filter((other) => other !== worker);
    this.emit('left', worker);
  }
}

export class Stage {
  readonly host = new FakeHost();
  readonly pool = new FakePool();
  readonly supervisor: Supervisor;
  /** Every event of the supervisor, as `died 1: code 1, again in 100 ms`. */
  readonly events: string[] = [];

  constructor(options: Partial<SupervisorOptions>) {
    this.supervisor = new Supervisor(
      this.pool,
      { command: ['app'], count: 1, drainTimeoutMs: 30_000, ...options },
      this.host,
    );
    this.#listen();
  }

  /** Starts the supervisor; whether that succeeds is for `events` to tell. */
  start(): void {
    this.supervisor.start().catch(() => undefined);
  }

  /** The process of the only child ends as if its channel had ended before, and is started again. */
  dieAndRestart(exit: Exit): void {
    const process = this.last;
    if (this.pool.workers.some(({ pid }) => pid === process.pid)) this.pool.leave(process.pid);
    process.exit(exit);
    const [, pause = ''] =
      /again in (\d+) ms/.exec(this.events.findLast((event) => event.startsWith('died')) ?? '') ?? [];
    this.host.pass(Number(pause));
  }

  /** The process that was started last. */
  get last(): FakeProcess {
    const process = this.host.processes.at(-1);
    assert.ok(process, 'a process was started');
    return process;
  }

  #listen(): void {
    const { supervisor, events } = this;
    supervisor.on('started', ({ id, pid }) => events.push(`started ${id} as ${String(pid)}`));
    supervisor.on('ready', ({ id }) => events.push(`ready ${id}`));
    supervisor.on('died', ({ id }, { exit, restartInMs }) =>
      events.push(`died ${id}: ${textOf(exit)}, again in ${restartInMs} ms`),
    );
    supervisor.on('crashLooped', ({ id }) => events.push(`crashLooped ${id}`));
    supervisor.on('killed', ({ id }) => events.push(`killed ${id}`));
    supervisor.on('exited', ({ id }, { exit }) => events.push(`exited ${id}: ${textOf(exit)}`));
    supervisor.on('finished', () => events.push('finished'));
  }
}

/** The body of a test on a stage; no descriptor and no timer is left behind it. */
export function onStage(
  options: Partial<SupervisorOptions>,
  body: (stage: Stage) => Promise<void> | void,
): () => Promise<void> {
  return keepsDescriptors(async () => {
    const stage = new Stage(options);
    await body(stage);
    for (const process of stage.host.processes) process.exit(killed);
    const stopped = stage.supervisor.stop();
    await turns();
    for (const process of stage.host.processes) process.exit(killed);
    await stopped;
    assert.equal(stage.host.timers, 0, 'no timer is left');
    assert.equal(stage.pool.listenerCount('ready') + stage.pool.listenerCount('left'), 0);
  });
}

function textOf(exit: Exit | undefined): string {
  switch (exit?.is) {
    case 'code':
      return `code ${exit.code}`;
    case 'signal':
      return exit.signal;
    case 'not-started':
      return exit.error.message;
    case undefined:
      return 'no process';
  }
}
