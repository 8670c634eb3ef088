// A stage for a supervisor: a fake operating system and a fake dispatcher, with a manual clock.
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';

import { socketPair, type Address, type StreamSocket } from '../../../src/fd/index.js';
import {
  Supervisor,
  type Exit,
  type WorkerPool,
  type PoolWorker,
  type RestartOptions,
  type SupervisorOptions,
} from '../../../src/supervisor/index.js';
import {
  type ChildOutput,
  type Host,
  type ProcessSnapshot,
  type OutputEnds,
  type ProcessName,
  type Spawned,
  type Start,
  type Timer,
  type Watch,
} from '../../../src/supervisor/internal.js';
import { keepsDescriptors } from '../../support/descriptors.js';
import { turns } from '../../support/loop.js';

export const success: Exit = { is: 'code', code: 0 };
export const failure: Exit = { is: 'code', code: 1 };
export const killed: Exit = { is: 'signal', signal: 'SIGKILL' };

/** A process that does nothing on its own. */
export class FakeProcess {
  readonly pid: number;
  /** Undefined for a process of an earlier generation. */
  readonly start: Start | undefined;
  readonly signals: string[] = [];
  readonly exit: (exit: Exit) => void;

  constructor(pid: number, start: Start | undefined, exit: (exit: Exit) => void) {
    this.pid = pid;
    this.start = start;
    this.exit = exit;
  }
}

/** Fake output: records the calls. */
export class FakeOutput implements ChildOutput {
  readonly calls: string[] = [];
  readonly ends: OutputEnds;
  readonly prefix: string;
  readonly ended: Promise<void>;
  #onEnded: () => void = () => undefined;

  constructor(ends: OutputEnds, prefix: string) {
    this.ends = ends;
    this.prefix = prefix;
    this.ended = new Promise((resolve) => {
      this.#onEnded = resolve;
    });
  }

  freeze(): Promise<void> {
    this.calls.push('freeze');
    return Promise.resolve();
  }

  thaw(): void {
    this.calls.push('thaw');
  }

  duplicate(): OutputEnds {
    const { stdout } = this.ends;
    return stdout ? { stdout: { ...stdout, descriptor: stdout.descriptor.duplicate() } } : {};
  }

  disown(): Promise<void> {
    this.calls.push('disown');
    this.end();
    return Promise.resolve();
  }

  /** The output ends. */
  end(): void {
    this.ends.stdout?.descriptor.close();
    this.#onEnded();
  }
}

const FIRST_PID = 101;

export class FakeHost implements Host {
  /** Started processes, in their order. The first has pid 101. */
  readonly processes: FakeProcess[] = [];
  /** Living processes of an earlier generation. */
  readonly #earlier = new Map<number, FakeProcess>();
  readonly #watches = new Map<number, () => void>();
  /** Output of every process that has one. */
  readonly outputs: FakeOutput[] = [];
  /** Processes that do not keep this one alive any more. */
  readonly forgotten: number[] = [];
  /** What a process has started itself. */
  readonly launched = new Map<number, string>();
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
    const descriptor = there.release();
    const pid = FIRST_PID + this.processes.length;
    this.processes.push(new FakeProcess(pid, start, onExit));
    if (start.prefix === undefined) descriptor.close();
    const output =
      start.prefix === undefined
        ? undefined
        : this.forward({ stdout: { descriptor, partial: Buffer.from('part') } }, start.prefix);
    const forget = (): void => {
      this.forgotten.push(pid);
    };
    return { pid, identity: `born ${pid}`, channel, output, forget };
  }

  /** Adds a living process of an earlier generation. */
  earlier(id: number, pid: number, state: ProcessSnapshot['state'] = 'ready'): ProcessSnapshot {
    const exit = (): void => {
      this.#earlier.delete(pid);
      const onEnded = this.#watches.get(pid);
      this.#watches.delete(pid);
      onEnded?.();
    };
    this.#earlier.set(pid, new FakeProcess(pid, undefined, exit));
    return { id, pid, identity: `born ${pid}`, state };
  }

  watch({ pid, identity }: ProcessName, onEnded: () => void): Watch {
    assert.equal(identity, `born ${pid}`);
    this.#watches.set(pid, onEnded);
    const close = (): void => {
      this.#watches.delete(pid);
    };
    if (!this.#earlier.has(pid)) {
      queueMicrotask(() => {
        if (this.#watches.delete(pid)) onEnded();
      });
    }
    return { close };
  }

  forward(ends: OutputEnds, prefix: string): FakeOutput {
    const output = new FakeOutput(ends, prefix);
    this.outputs.push(output);
    return output;
  }

  kill({ pid }: ProcessName, signal: 'SIGTERM' | 'SIGKILL'): void {
    this.process(pid).signals.push(signal);
  }

  launchedBy(pid: number): string | undefined {
    return this.launched.get(pid);
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

  get watches(): number {
    return this.#watches.size;
  }

  process(pid: number): FakeProcess {
    const process = this.#earlier.get(pid) ?? this.processes[pid - FIRST_PID];
    assert.ok(process, `process ${pid} was started`);
    return process;
  }

  /** Ends every process that has not ended. */
  endAll(): void {
    for (const process of [...this.#earlier.values(), ...this.processes]) process.exit(killed);
  }

  /** Lets time pass. Timers fire in their order. */
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

export class FakePool
  extends EventEmitter<{ ready: [PoolWorker]; serving: [PoolWorker]; left: [PoolWorker] }>
  implements WorkerPool
{
  workers: readonly PoolWorker[] = [];
  /** Ports that a process serves, or served at its end. */
  readonly #ports = new Map<number, readonly number[]>();
  reserved = 0;
  expected = 0;
  /** Processes whose addresses were opened again. */
  readonly reopened: number[] = [];
  readonly children: { readonly id: number; readonly pid: number }[] = [];
  /** Call one to finish the drain of that process. */
  readonly drains = new Map<number, () => void>();

  reserveIds(count: number): void {
    this.reserved = count;
  }

  expectChildren(count: number): void {
    this.expected = count;
  }

  reopen({ pid }: PoolWorker): void {
    this.reopened.push(pid);
  }

  addChild(socket: StreamSocket, child: { readonly id: number; readonly pid: number }): void {
    socket.destroy();
    this.children.push(child);
  }

  missing(other: PoolWorker, worker: PoolWorker, last?: PoolWorker): Address[] {
    const portsOf = ({ pid }: PoolWorker): readonly number[] => this.#ports.get(pid) ?? [];
    const living = this.workers.flatMap(portsOf);
    const kept = last ? portsOf(last).filter((port) => !living.includes(port)) : [];
    const needed = new Set([...portsOf(worker), ...kept]);
    const ports = [...needed].filter((port) => !portsOf(other).includes(port));
    return ports.map((port) => ({ host: '127.0.0.1', port }));
  }

  drain(worker: PoolWorker): Promise<void> {
    if (!this.workers.some(({ pid }) => pid === worker.pid)) return Promise.resolve();
    return new Promise((resolve) => {
      this.drains.set(worker.pid, resolve);
    });
  }

  /** A process joins, and does not listen yet. */
  join(id: number, pid: number): void {
    this.workers = [...this.workers, { id, pid, state: 'starting', listens: false }];
  }

  /** A process joins, listens, and is ready. */
  ready(id: number, pid: number, ...ports: number[]): void {
    this.#ports.set(pid, ports);
    const worker: PoolWorker = { id, pid, state: 'ready', listens: true };
    this.workers = [...this.workers.filter((other) => other.pid !== pid), worker];
    this.emit('ready', worker);
  }

  /** A process that is ready serves these ports, and no others. */
  serve(pid: number, ...ports: number[]): void {
    this.#ports.set(pid, ports);
    const worker = this.workers.find((candidate) => candidate.pid === pid);
    assert.ok(worker, `process ${pid} has joined`);
    this.emit('serving', worker);
  }

  /** The worker reports why it is about to die. */
  say(pid: number, lastWords: string): void {
    this.workers = this.workers.map((worker) => (worker.pid === pid ? { ...worker, lastWords } : worker));
  }

  unlisten(pid: number): void {
    this.workers = this.workers.map((worker) =>
      worker.pid === pid ? { ...worker, listens: false } : worker,
    );
  }

  /** The worker was drained by hand. */
  takeOut(pid: number): void {
    this.workers = this.workers.map((worker) =>
      worker.pid === pid ? { ...worker, state: 'draining', listens: false, isTakenOut: true } : worker,
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

  /** Starts the supervisor. `events` has the result. */
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

  /** Finishes the drain of a process, and waits for the reaction. */
  async drained(pid: number): Promise<void> {
    const done = this.pool.drains.get(pid);
    assert.ok(done, `process ${pid} is being drained`);
    done();
    await turns();
  }

  /** The signals that a process got. */
  signals(pid: number): string[] {
    return this.host.process(pid).signals;
  }

  /** Restarts. `events` has the result after a turn of the event loop. */
  restart(options: RestartOptions = {}): void {
    this.supervisor.restart(options).catch(() => undefined);
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
    supervisor.on('overdue', ({ id, pid }, { hasJoined }) =>
      events.push(`overdue ${id} as ${String(pid)}${hasJoined ? ', joined' : ''}`),
    );
    supervisor.on('died', ({ id }, { exit, restartInMs }) =>
      events.push(`died ${id}: ${textOf(exit)}, again in ${restartInMs} ms`),
    );
    supervisor.on('crashLooped', ({ id }) => events.push(`crashLooped ${id}`));
    supervisor.on('killed', ({ id }) => events.push(`killed ${id}`));
    supervisor.on('recycled', ({ id }, { exit }) => events.push(`recycled ${id}: ${textOf(exit)}`));
    supervisor.on('exited', ({ id }, { exit, vacancy }) =>
      events.push(`exited ${id}: ${textOf(exit)}${vacancy ? `, ${vacancy}` : ''}`),
    );
    supervisor.on('takenOver', ({ id, pid }) => events.push(`takenOver ${id} as ${String(pid)}`));
    supervisor.on('unexpected', ({ id, pid }, { isOurs }) =>
      events.push(`unexpected ${id} as ${String(pid)}${isOurs ? '' : ', of another service'}`),
    );
    supervisor.on('stayedAway', ({ id, pid }) => events.push(`stayedAway ${id} as ${String(pid)}`));
    supervisor.on('restartBegan', ({ of }) => events.push(`restartBegan of ${of}`));
    supervisor.on('replaced', ({ id, pid }, { old, done, of }) =>
      events.push(`replaced ${id}: ${String(pid)} for ${old ?? 'none'}, ${done} of ${of}`),
    );
    supervisor.on('restarted', ({ replaced }) => events.push(`restarted ${replaced}`));
    supervisor.on('restartFailed', ({ code }) => events.push(`restartFailed ${code}`));
    supervisor.on('finished', () => events.push('finished'));
  }
}

/** Runs a test on a stage, and checks that no descriptor and no timer is left. */
export function onStage(
  options: Partial<SupervisorOptions>,
  body: (stage: Stage) => Promise<void> | void,
): () => Promise<void> {
  return keepsDescriptors(async () => {
    const stage = new Stage(options);
    await body(stage);
    stage.host.endAll();
    const stopped = stage.supervisor.stop();
    await turns();
    stage.host.endAll();
    for (const output of stage.host.outputs) output.end();
    await stopped;
    assert.equal(stage.host.timers, 0, 'no timer is left');
    assert.equal(stage.host.watches, 0, 'no watch is left');
    for (const event of ['ready', 'serving', 'left'] as const) {
      assert.equal(stage.pool.listenerCount(event), 0);
    }
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
    case 'unknown':
      return 'unknown';
    case undefined:
      return 'no process';
  }
}
