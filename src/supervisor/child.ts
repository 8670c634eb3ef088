// Child: the supervisor's view of one slot, its process and what follows when that ends.
import { isSuccess, type Exit } from './exit.js';
import type { Host, Start, Timer } from './host.js';
import type { Pool, PoolWorker } from './pool.js';
import { afterDeath, noDeaths, type History, type Life } from './restart.js';

/** How long a process that has ended may go unread: what it has started itself can hold its channel open. */
const LAST_WORDS_MS = 1_000;

type State =
  /** Without a process; the timer starts one. None before the first start. */
  | { readonly is: 'waiting'; readonly timer: Timer | undefined }
  | Running<'starting'>
  | (Running<'ready'> & { readonly readyAt: number; readonly worker: PoolWorker })
  | { readonly is: 'draining'; readonly pid: number | undefined; readonly killTimer: Timer }
  /** It was ended, and its end has not been told yet. */
  | { readonly is: 'killed' }
  /** The process has ended, and the pool still reads what it said: whether it had closed its server. */
  | { readonly is: 'ended'; readonly exit: Exit; readonly life: Life; readonly timer: Timer }
  /** It had no more to do. */
  | { readonly is: 'finished' }
  /** Stopped. */
  | { readonly is: 'exited' };

interface Running<Is extends string> {
  readonly is: Is;
  /** Undefined in the moment until it is known why it could not be started. */
  readonly pid: number | undefined;
  readonly startedAt: number;
  /** How the pool knew it when it left. */
  readonly left?: PoolWorker;
}

/** What a child tells its supervisor. */
export type Report =
  | { readonly is: 'started' }
  | { readonly is: 'ready' }
  | {
      readonly is: 'died';
      readonly exit: Exit;
      readonly restartInMs: number;
      readonly crashLoopBegan: boolean;
    }
  | { readonly is: 'killed' }
  /** For good: it finished, or was stopped. */
  | { readonly is: 'exited'; readonly exit: Exit | undefined };

export interface ChildOptions {
  readonly start: Start;
  /** Time that it has to end when it is stopped. */
  readonly drainTimeoutMs: number;
}

export class Child {
  readonly id: number;
  readonly #options: ChildOptions;
  readonly #pool: Pool;
  readonly #host: Host;
  readonly #report: (child: Child, report: Report) => void;
  #state: State = { is: 'waiting', timer: undefined };
  #history: History = noDeaths;
  #pid: number | undefined;
  #wasReady = false;

  constructor(
    id: number,
    options: ChildOptions,
    pool: Pool,
    host: Host,
    report: (child: Child, report: Report) => void,
  ) {
    this.id = id;
    this.#options = options;
    this.#pool = pool;
    this.#host = host;
    this.#report = report;
  }

  /** Of its last process that could be started. */
  get pid(): number | undefined {
    return this.#pid;
  }

  /** Whether any of its processes ever was. */
  get wasReady(): boolean {
    return this.#wasReady;
  }

  get hasFinished(): boolean {
    return this.#state.is === 'finished';
  }

  /** Whether it has no process, and gets none any more. */
  get isOver(): boolean {
    return this.#state.is === 'finished' || this.#state.is === 'exited';
  }

  start(): void {
    const spawned = this.#host.spawn(this.#options.start, (exit) => {
      this.#onExit(exit);
    });
    this.#pid = spawned?.pid;
    this.#state = { is: 'starting', pid: spawned?.pid, startedAt: this.#host.now() };
    if (!spawned) return;
    this.#pool.addChild(spawned.channel, { id: this.id, pid: spawned.pid });
    this.#report(this, { is: 'started' });
  }

  /** Whether a worker is this child's process, joined by its channel or by the control socket. */
  is(worker: PoolWorker): boolean {
    return worker.pid === this.#pid;
  }

  onReady(worker: PoolWorker): void {
    if (this.#state.is !== 'starting') return;
    const { pid, startedAt } = this.#state;
    this.#state = { is: 'ready', pid, startedAt, readyAt: this.#host.now(), worker };
    this.#wasReady = true;
    this.#report(this, { is: 'ready' });
  }

  onLeft(worker: PoolWorker): void {
    switch (this.#state.is) {
      case 'starting':
      case 'ready':
        this.#state = { ...this.#state, left: worker };
        break;
      case 'ended':
        this.#judge(this.#state, worker);
        break;
      case 'waiting':
      case 'draining':
      case 'killed':
      case 'finished':
      case 'exited':
    }
  }

  /** Lets it finish what it has open, then ends it; it is not started again. */
  stop(): void {
    const state = this.#state;
    switch (state.is) {
      case 'waiting':
        state.timer?.clear();
        this.#end(undefined);
        break;
      case 'ended':
        state.timer.clear();
        this.#end(state.exit);
        break;
      case 'starting':
        this.#beginDraining(state.pid);
        this.#terminate();
        break;
      case 'ready':
        this.#beginDraining(state.pid);
        this.#terminateWhenDrained(state.worker);
        break;
      case 'draining':
      case 'killed':
      case 'finished':
      case 'exited':
    }
  }

  /** Ends it now, when it is being stopped. */
  kill(): void {
    if (this.#state.is !== 'draining' || this.#state.pid === undefined) return;
    const { pid, killTimer } = this.#state;
    killTimer.clear();
    this.#state = { is: 'killed' };
    this.#host.kill(pid, 'SIGKILL');
    this.#report(this, { is: 'killed' });
  }

  #beginDraining(pid: number | undefined): void {
    const killTimer = this.#host.setTimer(() => {
      this.kill();
    }, this.#options.drainTimeoutMs);
    this.#state = { is: 'draining', pid, killTimer };
  }

  #terminateWhenDrained(worker: PoolWorker): void {
    const terminate = (): void => {
      this.#terminate();
    };
    this.#pool.drain(worker).then(terminate, terminate);
  }

  #terminate(): void {
    if (this.#state.is !== 'draining' || this.#state.pid === undefined) return;
    this.#host.kill(this.#state.pid, 'SIGTERM');
  }

  #onExit(exit: Exit): void {
    const state = this.#state;
    switch (state.is) {
      case 'starting':
      case 'ready':
        this.#onUnexpectedExit(exit, state);
        break;
      case 'draining':
        state.killTimer.clear();
        this.#end(exit);
        break;
      case 'killed':
        this.#end(exit);
        break;
      case 'waiting':
      case 'ended':
      case 'finished':
      case 'exited':
    }
  }

  #onUnexpectedExit(exit: Exit, state: Extract<State, { is: 'starting' | 'ready' }>): void {
    const life: Life = {
      startedAt: state.startedAt,
      readyAt: state.is === 'ready' ? state.readyAt : undefined,
      endedAt: this.#host.now(),
    };
    const worker = this.#pool.workers.find((candidate) => this.is(candidate));
    if (!worker) {
      this.#judge({ exit, life }, state.left);
      return;
    }
    const timer = this.#host.setTimer(() => {
      this.#judge({ exit, life }, worker);
    }, LAST_WORDS_MS);
    this.#state = { is: 'ended', exit, life, timer };
  }

  /** @param worker how the pool knew it at its end; none for one that never joined */
  #judge(end: { exit: Exit; life: Life; timer?: Timer }, worker: PoolWorker | undefined): void {
    end.timer?.clear();
    if (isSuccess(end.exit) && worker?.listens !== true) {
      this.#state = { is: 'finished' };
      this.#report(this, { is: 'exited', exit: end.exit });
      return;
    }
    const { history, restartInMs, crashLoopBegan } = afterDeath(this.#history, end.life);
    this.#history = history;
    const timer = this.#host.setTimer(() => {
      this.start();
    }, restartInMs);
    this.#state = { is: 'waiting', timer };
    this.#report(this, { is: 'died', exit: end.exit, restartInMs, crashLoopBegan });
  }

  #end(exit: Exit | undefined): void {
    this.#state = { is: 'exited' };
    this.#report(this, { is: 'exited', exit });
  }
}
