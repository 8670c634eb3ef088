// Slot: a number with a process, and what follows when that ends, is replaced, or is to end.
import type { Address } from '../fd/index.js';
import {
  Child,
  type ChildEnd,
  type ChildOptions,
  type ChildReport,
  type Lacks,
  type OutputLost,
  type Overdue,
} from './child.js';
import { isSuccess, type Exit } from './exit.js';
import type { HeldHost } from './held-host.js';
import type { Start, Timer } from './host.js';
import type { Living, Occupant } from './occupant.js';
import type { WorkerPool, PoolWorker } from './worker-pool.js';
import { required } from './required.js';
import { afterDeath, noDeaths, wasStable, type History } from './deaths.js';

type State =
  /** Without a process; the timer starts one. None before the first start. */
  | { readonly is: 'waiting'; readonly next: NextStart | undefined }
  | { readonly is: 'occupied'; readonly child: Child }
  /** Without a process, until a restart starts one. */
  | { readonly is: 'vacant'; readonly reason: Vacancy }
  | { readonly is: 'stopped' };

/** Why no process follows: the last one had no more to do, or somebody has taken it out of service by hand. */
export type Vacancy = 'finished' | 'drained';

interface NextStart {
  readonly timer: Timer;
  readonly at: number;
}

/** A new process comes in place of the one that is there. */
type Replacement =
  /** The new one is not ready. If there was an old one, the slot is still occupied by that. */
  | {
      readonly is: 'starting';
      readonly fresh: Child;
      /** Whether the last process here had finished, so that this one may do so too. */
      readonly mayFinish: boolean;
      readonly tell: (outcome: ReplacementOutcome) => void;
    }
  /** The new one has the place, and the old one is leaving. */
  | {
      readonly is: 'ending';
      readonly fresh: Child;
      readonly old: Child;
      readonly tell: (outcome: ReplacementOutcome) => void;
    };

/** How a replacement went. */
export type ReplacementOutcome =
  | { readonly is: 'replaced'; readonly fresh: Child; readonly old: Child | undefined }
  /** The last process of the slot had finished, and so has the new one. */
  | { readonly is: 'finished' }
  | {
      readonly is: 'failed';
      readonly fresh: Child;
      /** Undefined: it was not ready in time, and is being ended. */
      readonly exit: Exit | undefined;
      /** Where clients would have been left alone: what the old one serves, and it does not. */
      readonly lacking: readonly Address[];
      /** What one that never listened has started by itself. */
      readonly launched: string | undefined;
      readonly lastWords: string | undefined;
    };

/** What a slot tells of one of its processes; of none where it waited for its next one. */
export type SlotReport =
  | { readonly is: 'started' | 'takenOver' | 'ready' | 'stayedAway' | 'killed' }
  | Overdue
  | OutputLost
  | {
      readonly is: 'died';
      readonly exit: Exit;
      readonly restartInMs: number;
      readonly crashLoopBegan: boolean;
      readonly lastWords: string | undefined;
    }
  /** It had served and ended well, and is followed by another one. */
  | { readonly is: 'recycled'; readonly exit: Exit }
  /** It is not followed by another one. Without a vacancy: it was stopped, or its place is taken. */
  | { readonly is: 'exited'; readonly exit: Exit | undefined; readonly vacancy?: Vacancy };

export interface SlotOwner {
  readonly startFor: (id: number) => Start;
  readonly childOptions: ChildOptions;
  report(slot: Slot, pid: number | undefined, report: SlotReport): void;
  /** Something has happened to the slot, and everything about it is told. */
  changed(): void;
}

export class Slot {
  readonly id: number;
  readonly #owner: SlotOwner;
  readonly #pool: WorkerPool;
  readonly #host: HeldHost;
  #state: State = { is: 'waiting', next: undefined };
  #replacement: Replacement | undefined;
  /** Those that are to end: nothing follows when they do. */
  readonly #leaving = new Set<Child>();
  #history: History = noDeaths;
  #lastPid: number | undefined;
  /** The last one that was ready, and has ended. */
  #lastWorker: PoolWorker | undefined;
  #wasReady = false;
  /** Whether any process of this slot was ever ready, also under an earlier generation. If so, none is a finished job. */
  #hasServed = false;
  /** Since one was ready. */
  #wasOverdue = false;

  constructor(id: number, owner: SlotOwner, pool: WorkerPool, host: HeldHost) {
    this.id = id;
    this.#owner = owner;
    this.#pool = pool;
    this.#host = host;
  }

  /** Whether any of its processes ever was. */
  get wasReady(): boolean {
    return this.#wasReady;
  }

  /** Whether its last process never listened, and had no more to do. */
  get hasFinished(): boolean {
    return this.#state.is === 'vacant' && this.#state.reason === 'finished';
  }

  get isVacant(): boolean {
    return this.#state.is === 'vacant';
  }

  /** Whether it has no process, and may get one. */
  get isEmpty(): boolean {
    return this.#state.is === 'waiting' || this.#state.is === 'vacant';
  }

  /** Whether nothing has happened here yet. */
  get isUnused(): boolean {
    return this.#state.is === 'waiting' && this.#state.next === undefined;
  }

  /** Whether it has no process, and gets none any more. */
  get isOver(): boolean {
    return (this.isVacant || this.#state.is === 'stopped') && this.#leaving.size === 0;
  }

  has(pid: number): boolean {
    return this.#all.some((child) => child.pid === pid);
  }

  /** Processes that run beside the one that is wanted. */
  get extra(): number {
    return (
      this.#leaving.size +
      (this.#replacement?.is === 'starting' && !this.#hasPlace(this.#replacement.fresh) ? 1 : 0)
    );
  }

  /** Whether a process is to be started here, or to be ready, where another one has served before. */
  get isExpecting(): boolean {
    if (!this.#hasServed) return false;
    if (this.#replacement?.is === 'starting' || this.#state.is === 'waiting') return true;
    return this.#state.is === 'occupied' && !this.#state.child.isReady;
  }

  /** Not while it is unknown yet what follows the process that has just ended. */
  get canBeReplaced(): boolean {
    return this.isEmpty || (this.#state.is === 'occupied' && this.#state.child.isAlive);
  }

  start(): void {
    const child = this.#newChild();
    this.#state = { is: 'occupied', child };
    this.#launch(child);
  }

  /** Has this occupant, which an earlier generation had here. A second one can only leave. */
  takeOver(occupant: Occupant): void {
    if (occupant.state === 'finished') {
      const reason = occupant.wasDrained === true ? 'drained' : 'finished';
      if (!this.isEmpty) return;
      this.#state = { is: 'vacant', reason };
      this.#hasServed = occupant.hasServed === true;
    } else if (occupant.state === 'waiting') {
      this.#history = occupant.history;
      this.#hasServed = occupant.hasServed === true;
      if (this.isEmpty) this.#startIn(occupant.restartInMs);
    } else if (occupant.state === 'leaving' || !this.isEmpty) {
      this.takeOverLeaving(occupant);
    } else {
      const child = this.#newChild();
      this.#state = { is: 'occupied', child };
      this.#hasServed = occupant.state !== 'starting' || occupant.hasServed === true;
      this.#lastPid = occupant.pid;
      this.#owner.report(this, occupant.pid, { is: 'takenOver' });
      child.takeOver(occupant);
    }
  }

  /**
   * Has a process that nobody expected, of a dispatcher that died, unless another one is ready here; one that is starting
   * gives way to it.
   * @returns whether it has the place; else it leaves
   */
  adopt(occupant: Living): boolean {
    const state = this.#state;
    const isFree = this.isEmpty || (state.is === 'occupied' && state.child.isStarting);
    if (!isFree || this.#replacement) {
      this.takeOverLeaving(occupant);
      return false;
    }
    if (state.is === 'waiting') state.next?.timer.clear();
    this.#state = { is: 'waiting', next: undefined };
    if (state.is === 'occupied') this.#dismiss(state.child);
    this.takeOver(occupant);
    return true;
  }

  /** Drains a process and ends it. */
  takeOverLeaving(occupant: Living): void {
    const child = this.#newChild();
    this.#leaving.add(child);
    child.takeOver(occupant);
    child.stop();
  }

  /** There is no place here: whoever is here, leaves. */
  close(): void {
    this.#state = { is: 'stopped' };
  }

  /** Everything that lives here, for the next supervisor. The caller owns the descriptors. */
  describe(): Occupant[] {
    const place: (Occupant | undefined)[] = [];
    const { id } = this;
    const hasServed = this.#hasServed;
    if (this.#state.is === 'vacant') {
      place.push({ id, state: 'finished', wasDrained: this.#state.reason === 'drained', hasServed });
    }
    if (this.#state.is === 'waiting' && this.#state.next) {
      const restartInMs = Math.max(0, Math.round(this.#state.next.at - this.#host.now()));
      place.push({ id, state: 'waiting', restartInMs, history: this.#history, hasServed });
    }
    if (this.#state.is === 'occupied') {
      const living = this.#state.child.describe(false);
      place.push(living && { ...living, hasServed });
    }
    for (const child of this.#leaving) place.push(child.describe(true));
    return place.filter((occupant) => occupant !== undefined);
  }

  onReady(worker: PoolWorker): void {
    this.#all.find((child) => child.is(worker))?.onReady(worker);
    this.#reviewFresh();
  }

  /** Some worker serves other addresses than before. */
  onServing(): void {
    this.#reviewFresh();
  }

  onLeft(worker: PoolWorker): void {
    this.#all.find((child) => child.is(worker))?.onLeft(worker);
  }

  /**
   * Starts a new process. When it serves every address that the old one serves, or had served at its end, it takes the
   * place, and the old one is drained and ended. When it dies, or is not ready in time, the old one stays.
   * @param without addresses that it need not serve
   * @param tell called once, unless the slot is stopped or the replacement is abandoned before
   */
  replace(without: readonly string[], tell: (outcome: ReplacementOutcome) => void): void {
    const before = this.#state.is === 'occupied' ? this.#state.child : undefined;
    const fresh = this.#newChild((worker) => {
      if (before?.isAwaited === true) return undefined;
      const old = before?.worker ?? this.#lastWorker;
      return old ? required(this.#pool.missing(worker, old, this.#lastWorker), without) : [];
    });
    const { hasFinished } = this;
    if (this.#state.is === 'waiting') this.#state.next?.timer.clear();
    if (this.isEmpty) this.#state = { is: 'occupied', child: fresh };
    this.#replacement = { is: 'starting', fresh, mayFinish: hasFinished, tell };
    this.#launch(fresh);
  }

  /** A new process that does not have the place yet, is ended. */
  abandonReplacement(): void {
    const replacement = this.#replacement;
    this.#replacement = undefined;
    if (replacement?.is !== 'starting') return;
    // Where there is no other, less than before is better than nothing.
    if (this.#hasPlace(replacement.fresh)) replacement.fresh.accept();
    else this.#dismiss(replacement.fresh);
  }

  /** Lets what is here finish what it has open, and ends it; nothing is started again. */
  stop(): void {
    const state = this.#state;
    this.abandonReplacement();
    switch (state.is) {
      case 'waiting':
        state.next?.timer.clear();
        this.#state = { is: 'stopped' };
        this.#owner.report(this, this.#lastPid, { is: 'exited', exit: undefined });
        break;
      case 'occupied':
        this.#state = { is: 'stopped' };
        this.#dismiss(state.child);
        break;
      case 'vacant':
      case 'stopped':
    }
  }

  /** Ends now what is to end. */
  kill(): void {
    for (const child of [...this.#leaving]) child.kill();
  }

  get #all(): Child[] {
    return [
      ...(this.#state.is === 'occupied' ? [this.#state.child] : []),
      ...(this.#replacement ? [this.#replacement.fresh] : []),
      ...this.#leaving,
    ];
  }

  #hasPlace(child: Child): boolean {
    return this.#state.is === 'occupied' && this.#state.child === child;
  }

  /** A new process may serve by now what the old one serves. */
  #reviewFresh(): void {
    if (this.#replacement?.is === 'starting') this.#replacement.fresh.review();
  }

  #newChild(lacks?: Lacks): Child {
    const report = (child: Child, report: ChildReport): void => {
      this.#onReport(child, report);
      this.#owner.changed();
    };
    return new Child(this.id, this.#owner.childOptions, this.#pool, this.#host, report, lacks);
  }

  #launch(child: Child): void {
    child.start(() => this.#owner.startFor(this.id));
    this.#lastPid = child.pid;
    if (child.pid !== undefined) this.#report(child, { is: 'started' });
  }

  #dismiss(child: Child): void {
    this.#leaving.add(child);
    child.stop();
  }

  #report(child: Child, report: SlotReport): void {
    this.#owner.report(this, child.pid, report);
  }

  #onReport(child: Child, report: ChildReport): void {
    switch (report.is) {
      case 'ready':
        if (this.#leaving.has(child)) return;
        this.#wasReady = true;
        this.#hasServed = true;
        this.#wasOverdue = false;
        this.#report(child, report);
        this.#onFreshReady(child);
        break;
      case 'overdue':
        this.#onOverdue(child, report);
        break;
      case 'killed':
      case 'outputLost':
        this.#report(child, report);
        break;
      case 'stayedAway':
        this.#report(child, report);
        this.#onStayedAway(child);
        break;
      case 'ended':
        this.#onEnded(child, report);
    }
  }

  #onFreshReady(fresh: Child): void {
    const replacement = this.#replacement;
    if (replacement?.is !== 'starting' || replacement.fresh !== fresh) return;
    const { tell } = replacement;
    const old = this.#state.is === 'occupied' && !this.#hasPlace(fresh) ? this.#state.child : undefined;
    this.#state = { is: 'occupied', child: fresh };
    this.#history = noDeaths;
    if (old) {
      this.#replacement = { is: 'ending', fresh, old, tell };
      this.#dismiss(old);
    } else {
      this.#replacement = undefined;
      tell({ is: 'replaced', fresh, old });
    }
  }

  /** One that replaces nobody may take as long as it likes, but that is told once. */
  #onOverdue(child: Child, report: Overdue): void {
    const replacement = this.#replacement;
    if (replacement?.is === 'starting' && replacement.fresh === child) this.#giveUp(replacement);
    else if (!this.#wasOverdue) {
      this.#wasOverdue = true;
      this.#report(child, report);
    }
  }

  #giveUp({ fresh, tell }: Replacement): void {
    const { lastWords, lacking } = fresh;
    // Before it is killed. A worker may start whatever it likes.
    const launched = lacking.length > 0 ? undefined : fresh.launched;
    if (lacking.length > 0) {
      this.abandonReplacement();
    } else {
      this.#replacement = undefined;
      if (!this.#hasPlace(fresh)) this.#leaving.add(fresh);
      fresh.kill();
    }
    tell({ is: 'failed', fresh, exit: undefined, lastWords, lacking, launched });
  }

  #onStayedAway(child: Child): void {
    if (!this.#hasPlace(child)) return;
    this.#leaving.add(child);
    if (this.#replacement?.is === 'starting') {
      this.#state = { is: 'occupied', child: this.#replacement.fresh };
      this.#reviewFresh();
    } else this.start();
  }

  #onEnded(child: Child, end: ChildEnd): void {
    const { exit } = end;
    const replacement = this.#replacement;
    if (this.#leaving.delete(child)) {
      this.#report(child, { is: 'exited', exit });
      if (replacement?.is !== 'ending' || replacement.old !== child) return;
      this.#replacement = undefined;
      replacement.tell({ is: 'replaced', fresh: replacement.fresh, old: child });
    } else if (replacement?.fresh === child) {
      this.#onFreshEnded(replacement, end);
    } else if (replacement?.is === 'starting') {
      // The old one: the new one has the place from now on.
      this.#state = { is: 'occupied', child: replacement.fresh };
      this.#reopenAfter(end);
      this.#report(child, { is: 'exited', exit });
    } else {
      this.#judge(child, end);
    }
  }

  #onFreshEnded(replacement: Replacement, end: ChildEnd): void {
    const { fresh, tell } = replacement;
    const { exit } = end;
    const { lastWords } = fresh;
    this.#replacement = undefined;
    if (this.#hasPlace(fresh)) this.#judge(fresh, end);
    else this.#report(fresh, { is: 'exited', exit });
    const mayFinish = replacement.is === 'starting' && replacement.mayFinish;
    if (mayFinish && this.hasFinished) tell({ is: 'finished' });
    else tell({ is: 'failed', fresh, exit, lastWords, lacking: [], launched: undefined });
  }

  #judge(child: Child, end: ChildEnd): void {
    const { exit, life, worker, wasAwaited } = end;
    if (worker && life.readyAt !== undefined) this.#lastWorker = worker;
    const vacancy = this.#vacancyAfter(end);
    if (vacancy) {
      this.#state = { is: 'vacant', reason: vacancy };
      this.#report(child, { is: 'exited', exit, vacancy });
      return;
    }
    this.#reopenAfter(end);
    const { lastWords } = child;
    if (wasAwaited) {
      // It had worked, and died without a supervisor to start it again.
      this.#startAfter(() => {
        this.#report(child, { is: 'died', exit, restartInMs: 0, crashLoopBegan: false, lastWords });
      });
      return;
    }
    if (endedWell(end) && wasStable(life)) {
      this.#history = noDeaths;
      this.#startAfter(() => {
        this.#report(child, { is: 'recycled', exit });
      });
      return;
    }
    const { history, restartInMs, crashLoopBegan } = afterDeath(this.#history, life);
    this.#history = history;
    this.#startIn(restartInMs);
    this.#report(child, { is: 'died', exit, restartInMs, crashLoopBegan, lastWords });
  }

  /** Of one that died while it served, what it had closed before was given up for good. */
  #reopenAfter({ exit, worker }: ChildEnd): void {
    if (worker && (isSuccess(exit) || !worker.listens)) this.#pool.reopen(worker);
  }

  /** A process whose exit code nobody knows is no finished job: the next one is a child, which tells how it ends. */
  #vacancyAfter({ exit, worker }: ChildEnd): Vacancy | undefined {
    if (worker?.isTakenOut === true) return 'drained';
    return isSuccess(exit) && !this.#hasServed ? 'finished' : undefined;
  }

  /** Starts the next process at once, unless a listener of the last one's end stops everything. */
  #startAfter(tell: () => void): void {
    this.#state = { is: 'waiting', next: undefined };
    tell();
    // A restart that is under way has it for its own turn.
    if (this.isEmpty) this.#owner.changed();
    if (this.isEmpty) this.start();
  }

  #startIn(delayMs: number): void {
    const timer = this.#host.setTimer(() => {
      this.start();
    }, delayMs);
    this.#state = { is: 'waiting', next: { timer, at: this.#host.now() + delayMs } };
  }
}

/** Of a process of an earlier generation nobody knows the exit code: then it ended well if it had closed its servers. */
function endedWell({ exit, worker }: ChildEnd): boolean {
  return exit.is === 'unknown' ? worker?.listens === false : isSuccess(exit);
}
