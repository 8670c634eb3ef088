// Child: the supervisor's view of one worker process, from its start or its takeover to its end.
import type { Address } from '../fd/index.js';
import { KILL_AFTER_MS, RETURN_TIMEOUT_MS } from '../handoff/index.js';
import type { Exit } from './exit.js';
import type { HeldHost } from './held-host.js';
import type { ProcessName, Start, Timer } from './host.js';
import type { ProcessSnapshot } from './slot-snapshot.js';
import type { ChildOutput } from './output.js';
import type { WorkerPool, PoolWorker } from './worker-pool.js';
import type { ChildEnd, Life } from './deaths.js';
import { prefixOf } from './launch.js';

/** How long to wait for the end of a channel after its process has ended: a process that it started can hold it open. */
const LAST_WORDS_MS = 1_000;

type State =
  /** It has a timer as soon as its process runs. */
  | { readonly is: 'starting'; readonly timer: Timer | undefined }
  /** Its dispatcher was killed, and it will join again. */
  | { readonly is: 'awaited'; readonly timer: Timer }
  | { readonly is: 'ready'; readonly worker: PoolWorker }
  | Draining
  /** It got SIGKILL, and has not ended yet. */
  | { readonly is: 'killed' }
  /** The process has ended. The pool still reads its last messages: whether it closed its servers, and why it died. */
  | { readonly is: 'ended'; readonly death: Death; readonly timer: Timer }
  | { readonly is: 'over' };

interface Draining {
  readonly is: 'draining';
  /** SIGTERM at its drain timeout, then SIGKILL. */
  readonly timer: Timer;
  readonly terminatedAt: number | undefined;
  /** For a process that has still to return to the pool. It is drained when it has. */
  readonly returnTimer: Timer | undefined;
}

/** What a child reports to its slot. */
export type ChildReport =
  | { readonly is: 'ready' }
  /** It was not ready in time. Nothing is done about it here. */
  | Overdue
  /** It did not return to the pool in time. It is being ended. */
  | { readonly is: 'stayedAway' }
  | { readonly is: 'killed' }
  | OutputLost
  | ({ readonly is: 'ended' } & ChildEnd);

export interface Overdue {
  readonly is: 'overdue';
  /** Whether it has joined the pool, and only does not listen yet. */
  readonly hasJoined: boolean;
  /** What it has started itself: most often the real app, when the command is only a launcher. */
  readonly launched: string | undefined;
}

/** Its output cannot be written. Reported once. The child goes on. */
export interface OutputLost {
  readonly is: 'outputLost';
  readonly error: Error;
}

type Death = Omit<ChildEnd, 'worker'>;

/** The addresses that a worker must still serve before its child is ready. Undefined while they are not known yet. */
export type Lacks = (worker: PoolWorker) => readonly Address[] | undefined;

export interface ChildOptions {
  /** Time to end when it is stopped. */
  readonly drainTimeoutMs: number;
  /** Time to become ready when it is started. */
  readonly readyTimeoutMs: number;
}

export class Child {
  readonly #slot: number;
  readonly #options: ChildOptions;
  readonly #pool: WorkerPool;
  readonly #host: HeldHost;
  readonly #report: (child: Child, report: ChildReport) => void;
  readonly #startedAt: number;
  #lacks: Lacks;
  #state: State = { is: 'starting', timer: undefined };
  #process: ProcessName | undefined;
  #output: ChildOutput | undefined;
  #readyAt: number | undefined;
  /** The last that the pool knew of it. */
  #left: PoolWorker | undefined;

  constructor(
    slot: number,
    options: ChildOptions,
    pool: WorkerPool,
    host: HeldHost,
    report: (child: Child, report: ChildReport) => void,
    lacks: Lacks = () => [],
  ) {
    this.#lacks = lacks;
    this.#slot = slot;
    this.#options = options;
    this.#pool = pool;
    this.#host = host;
    this.#report = report;
    this.#startedAt = host.now();
  }

  /** Undefined when it could not be started. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /** False as soon as the end of its process is known. */
  get isAlive(): boolean {
    return this.#state.is !== 'ended' && this.#state.is !== 'over';
  }

  /** The error that it reported before it died. */
  get lastWords(): string | undefined {
    return this.worker?.lastWords;
  }

  /** What its process has started itself, while it runs. */
  get launched(): string | undefined {
    return this.pid === undefined ? undefined : this.#host.launchedBy(this.pid);
  }

  /** What the pool knows of it, or knew when it left. */
  get worker(): PoolWorker | undefined {
    return this.#workerInPool ?? this.#left;
  }

  /** Whether it was started here and was never ready. */
  get isStarting(): boolean {
    return this.#state.is === 'starting';
  }

  /** Whether it is ready and in the pool. */
  get isReady(): boolean {
    return this.#state.is === 'ready' && this.#workerInPool !== undefined;
  }

  /** Whether it has still to return to the pool. Until then its addresses are not known. */
  get isAwaited(): boolean {
    return this.#state.is === 'awaited';
  }

  /** The addresses that a ready worker must still serve. */
  get lacking(): readonly Address[] {
    const worker = this.#workerInPool;
    return (worker?.state === 'ready' ? this.#lacks(worker) : undefined) ?? [];
  }

  /** Starts its process. If that fails, its end is reported after this call has returned. */
  start(describe: () => Start): void {
    const spawned = this.#host.spawn(
      describe,
      (exit) => {
        this.#onExit(exit);
      },
      this.#onLost,
    );
    if (!spawned) return;
    this.#process = { pid: spawned.pid, identity: spawned.identity };
    this.#output = spawned.output;
    this.#awaitReady();
    this.#pool.addChild(spawned.channel, { id: this.#slot, pid: spawned.pid });
  }

  /** Takes over a process that is no child of this process. */
  takeOver({ pid, identity, state, stdout, stderr }: ProcessSnapshot): void {
    this.#process = { pid, identity };
    if (stdout || stderr) {
      const ends = { ...(stdout && { stdout }), ...(stderr && { stderr }) };
      this.#output = this.#host.forward(ends, prefixOf(this.#slot), this.#onLost);
    }
    this.#host.watch({ pid, identity }, () => {
      this.#onExit({ is: 'unknown' });
    });
    const worker = this.#workerInPool;
    if (worker && worker.state !== 'starting') this.#becomeReady(worker);
    else if (state === 'leaving') this.#beginDraining();
    else if (state === 'awaited' || (!worker && state !== 'starting')) this.#awaitReturn();
    else this.#awaitReady();
  }

  /** Whether a worker is this process. It may have joined by its channel or by the control socket. */
  is(worker: PoolWorker): boolean {
    return worker.pid === this.pid;
  }

  onReady(worker: PoolWorker): void {
    const state = this.#state;
    switch (state.is) {
      case 'awaited':
        state.timer.clear();
        this.#becomeReady(worker);
        break;
      case 'starting':
        this.review();
        break;
      case 'ready':
        // It had left and has joined again.
        this.#state = { is: 'ready', worker };
        break;
      case 'draining':
        state.returnTimer?.clear();
        this.#state = { ...state, returnTimer: undefined };
        this.#terminateWhenDrained(worker);
        break;
      case 'killed':
      case 'ended':
      case 'over':
    }
  }

  /** Becomes ready if it serves what it must. */
  review(): void {
    const state = this.#state;
    const worker = this.#workerInPool;
    if (state.is !== 'starting' || worker?.state !== 'ready') return;
    if (this.#lacks(worker)?.length !== 0) return;
    state.timer?.clear();
    this.#becomeReady(worker);
  }

  /** Becomes ready with the addresses that it serves. */
  accept(): void {
    this.#lacks = () => [];
    this.review();
  }

  onLeft(worker: PoolWorker): void {
    this.#left = worker;
    if (this.#state.is !== 'ended') return;
    this.#state.timer.clear();
    this.#end(this.#state.death);
  }

  /** Drains it, then ends it. */
  stop(): void {
    const state = this.#state;
    switch (state.is) {
      case 'starting': {
        const worker = this.#workerInPool;
        state.timer?.clear();
        this.#beginDraining();
        // It may have connections already.
        if (worker?.state === 'ready') this.#terminateWhenDrained(worker);
        else this.#terminate();
        break;
      }
      case 'awaited':
        this.#beginDraining(state.timer);
        break;
      case 'ready':
        this.#beginDraining();
        this.#terminateWhenDrained(state.worker);
        break;
      case 'ended':
        state.timer.clear();
        this.#end(state.death);
        break;
      case 'draining':
      case 'killed':
      case 'over':
    }
  }

  /** Sends SIGKILL. */
  kill(): void {
    if (!this.#process) return;
    const state = this.#state;
    switch (state.is) {
      case 'ready':
        break;
      case 'starting':
      case 'awaited':
        state.timer?.clear();
        break;
      case 'draining':
        state.timer.clear();
        state.returnTimer?.clear();
        break;
      case 'killed':
      case 'ended':
      case 'over':
        return;
    }
    this.#state = { is: 'killed' };
    this.#host.kill(this.#process, 'SIGKILL');
    this.#report(this, { is: 'killed' });
  }

  /**
   * Describes it to the next supervisor. Undefined when there is no process. The caller owns the descriptors.
   * @param isLeaving whether another one has its place
   */
  snapshot(isLeaving: boolean): ProcessSnapshot | undefined {
    if (!this.#process || !this.isAlive) return undefined;
    const { pid, identity } = this.#process;
    const output = this.#output?.duplicate();
    return { id: this.#slot, pid, identity, state: isLeaving ? 'leaving' : this.#stateForOthers, ...output };
  }

  get #stateForOthers(): ProcessSnapshot['state'] {
    switch (this.#state.is) {
      case 'starting':
      case 'awaited':
      case 'ready':
        return this.#state.is;
      case 'draining':
      case 'killed':
      case 'ended':
      case 'over':
        return 'leaving';
    }
  }

  get #workerInPool(): PoolWorker | undefined {
    return this.#pool.workers.find((worker) => this.is(worker));
  }

  #becomeReady(worker: PoolWorker): void {
    this.#readyAt = this.#host.now();
    this.#state = { is: 'ready', worker };
    this.#report(this, { is: 'ready' });
  }

  #awaitReady(): void {
    const timer = this.#host.setTimer(() => {
      this.#state = { is: 'starting', timer: undefined };
      const { launched } = this;
      this.#report(this, { is: 'overdue', hasJoined: this.#workerInPool !== undefined, launched });
    }, this.#options.readyTimeoutMs);
    this.#state = { is: 'starting', timer };
  }

  #awaitReturn(): void {
    const timer = this.#host.setTimer(() => {
      this.#onReturnTimeout();
    }, RETURN_TIMEOUT_MS);
    this.#state = { is: 'awaited', timer };
  }

  #onReturnTimeout(): void {
    if (this.#state.is === 'awaited') {
      this.#beginDraining();
      this.#terminate();
      this.#report(this, { is: 'stayedAway' });
    } else {
      this.#terminate();
    }
  }

  #beginDraining(returnTimer?: Timer): void {
    const timer = this.#host.setTimer(() => {
      this.#onDrainTimeout();
    }, this.#options.drainTimeoutMs);
    this.#state = { is: 'draining', timer, terminatedAt: undefined, returnTimer };
  }

  #terminateWhenDrained(worker: PoolWorker): void {
    const terminate = (): void => {
      this.#terminate();
    };
    this.#pool.drain(worker).then(terminate, terminate);
  }

  #terminate(): void {
    if (this.#state.is !== 'draining' || this.#state.terminatedAt !== undefined || !this.#process) return;
    this.#state = { ...this.#state, terminatedAt: this.#host.now() };
    this.#host.kill(this.#process, 'SIGTERM');
  }

  /** Some connections, such as WebSockets, never end by themselves. SIGTERM lets the app end them. */
  #onDrainTimeout(): void {
    this.#terminate();
    if (this.#state.is !== 'draining' || this.#state.terminatedAt === undefined) return;
    const restMs = this.#state.terminatedAt + KILL_AFTER_MS - this.#host.now();
    if (restMs <= 0) {
      this.kill();
      return;
    }
    const timer = this.#host.setTimer(() => {
      this.kill();
    }, restMs);
    this.#state = { ...this.#state, timer };
  }

  readonly #onLost = (error: Error): void => {
    this.#report(this, { is: 'outputLost', error });
  };

  #onExit(exit: Exit): void {
    const state = this.#state;
    const life: Life = { startedAt: this.#startedAt, readyAt: this.#readyAt, endedAt: this.#host.now() };
    const death: Death = { exit, life, wasAwaited: state.is === 'awaited' };
    switch (state.is) {
      case 'starting':
      case 'awaited':
        state.timer?.clear();
        this.#hearLastWords(death);
        break;
      case 'ready':
        this.#hearLastWords(death);
        break;
      case 'draining':
        state.timer.clear();
        state.returnTimer?.clear();
        this.#end(death);
        break;
      case 'killed':
        this.#end(death);
        break;
      case 'ended':
      case 'over':
    }
  }

  #hearLastWords(death: Death): void {
    const worker = this.#workerInPool;
    if (!worker) {
      this.#end(death);
      return;
    }
    const timer = this.#host.setTimer(() => {
      this.#left = worker;
      this.#end(death);
    }, LAST_WORDS_MS);
    this.#state = { is: 'ended', death, timer };
  }

  #end(death: Death): void {
    this.#state = { is: 'over' };
    this.#report(this, { is: 'ended', ...death, worker: this.#left });
  }
}
