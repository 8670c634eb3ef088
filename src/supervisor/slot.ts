// Slot: a numbered place for one process, which is started, replaced when it ends or in a restart, and stopped.
import type { Address } from '../fd/index.js';
import {
  Child,
  type ChildOptions,
  type ChildReport,
  type Lacks,
  type OutputLost,
  type Overdue,
} from './child.js';
import { aftermathOf, noDeaths, opensAgain, type ChildEnd, type History, type Vacancy } from './deaths.js';
import type { Exit } from './exit.js';
import type { HeldHost } from './held-host.js';
import type { Start, Timer } from './host.js';
import type { ProcessSnapshot, SlotSnapshot } from './slot-snapshot.js';
import type { WorkerPool, PoolWorker } from './worker-pool.js';
import { required } from './required.js';

type State =
  /** Has no process; the timer starts one. Before the first start there is no timer. */
  | { readonly is: 'waiting'; readonly next: NextStart | undefined }
  | { readonly is: 'occupied'; readonly child: Child }
  /** Has no process until a restart starts one. */
  | { readonly is: 'vacant'; readonly reason: Vacancy }
  | { readonly is: 'stopped' };

interface NextStart {
  readonly timer: Timer;
  readonly at: number;
}

/** A new process replaces the present one. */
type Replacement =
  /** The new one is not ready. An old one, if there is one, still has the place. */
  | {
      readonly is: 'starting';
      readonly fresh: Child;
      /** Whether the last process had finished, so that this one may finish too. */
      readonly mayFinish: boolean;
      readonly settle: (outcome: ReplacementOutcome) => void;
    }
  /** The new one has the place, and the old one is leaving. */
  | {
      readonly is: 'ending';
      readonly fresh: Child;
      readonly old: Child;
      readonly settle: (outcome: ReplacementOutcome) => void;
    };

/** How a replacement went. */
export type ReplacementOutcome =
  | { readonly is: 'replaced'; readonly fresh: Child; readonly old: Child | undefined }
  /** The new process has finished, as the last one had. */
  | { readonly is: 'finished' }
  | {
      readonly is: 'failed';
      readonly fresh: Child;
      /** Undefined when it was not ready in time. It is ended then. */
      readonly exit: Exit | undefined;
      /** Addresses that the old one serves and it does not. */
      readonly lacking: readonly Address[];
      /** What a process that never listened has started itself. */
      readonly launched: string | undefined;
      readonly lastWords: string | undefined;
    };

/** What a slot reports about one of its processes. */
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
  /** It had served and ended well. Another process follows. */
  | { readonly is: 'recycled'; readonly exit: Exit }
  /** No process follows. Without a vacancy: it was stopped, or another one has its place. */
  | { readonly is: 'exited'; readonly exit: Exit | undefined; readonly vacancy?: Vacancy };

export interface SlotOwner {
  readonly startFor: (id: number) => Start;
  readonly childOptions: ChildOptions;
  report(slot: Slot, pid: number | undefined, report: SlotReport): void;
  /** The slot has changed. Its report was made before. */
  changed(): void;
}

export class Slot {
  readonly id: number;
  readonly #owner: SlotOwner;
  readonly #pool: WorkerPool;
  readonly #host: HeldHost;
  #state: State = { is: 'waiting', next: undefined };
  #replacement: Replacement | undefined;
  /** Processes that are being ended. No process follows them. */
  readonly #leaving = new Set<Child>();
  #history: History = noDeaths;
  #lastPid: number | undefined;
  /** The last worker that was ready and has ended. */
  #lastWorker: PoolWorker | undefined;
  #wasReady = false;
  /** Whether any process of this slot was ever ready, in an earlier generation too. */
  #hasServed = false;
  /** Whether `overdue` was reported since a process was last ready. */
  #wasOverdue = false;

  constructor(id: number, owner: SlotOwner, pool: WorkerPool, host: HeldHost) {
    this.id = id;
    this.#owner = owner;
    this.#pool = pool;
    this.#host = host;
  }

  /** Whether any of its processes was ever ready in this generation. */
  get wasReady(): boolean {
    return this.#wasReady;
  }

  /** Whether its last process never listened and had no more to do. */
  get hasFinished(): boolean {
    return this.#state.is === 'vacant' && this.#state.reason === 'finished';
  }

  get isVacant(): boolean {
    return this.#state.is === 'vacant';
  }

  /** Whether it has no process and may get one. */
  get isEmpty(): boolean {
    return this.#state.is === 'waiting' || this.#state.is === 'vacant';
  }

  /** Whether nothing has happened here yet. */
  get isUnused(): boolean {
    return this.#state.is === 'waiting' && this.#state.next === undefined;
  }

  /** Whether it has no process and gets none. */
  get isOver(): boolean {
    return (this.isVacant || this.#state.is === 'stopped') && this.#leaving.size === 0;
  }

  has(pid: number): boolean {
    return this.#all.some((child) => child.pid === pid);
  }

  /** The number of processes beyond one. */
  get extra(): number {
    return (
      this.#leaving.size +
      (this.#replacement?.is === 'starting' && !this.#hasPlace(this.#replacement.fresh) ? 1 : 0)
    );
  }

  /** Whether a process is starting, or will be started, where another one has served before. */
  get isExpecting(): boolean {
    if (!this.#hasServed) return false;
    if (this.#replacement?.is === 'starting' || this.#state.is === 'waiting') return true;
    return this.#state.is === 'occupied' && !this.#state.child.isReady;
  }

  /** False while the slot decides what follows a process that has just ended. */
  get canBeReplaced(): boolean {
    return this.isEmpty || (this.#state.is === 'occupied' && this.#state.child.isAlive);
  }

  start(): void {
    const child = this.#newChild();
    this.#state = { is: 'occupied', child };
    this.#launch(child);
  }

  /** Takes over what an earlier generation had in this slot. A second process is drained and ended. */
  takeOver(snapshot: SlotSnapshot): void {
    if (snapshot.state === 'finished') {
      const reason = snapshot.wasDrained === true ? 'drained' : 'finished';
      if (!this.isEmpty) return;
      this.#state = { is: 'vacant', reason };
      this.#hasServed = snapshot.hasServed === true;
    } else if (snapshot.state === 'waiting') {
      this.#history = snapshot.history;
      this.#hasServed = snapshot.hasServed === true;
      if (this.isEmpty) this.#startIn(snapshot.restartInMs);
    } else if (snapshot.state === 'leaving' || !this.isEmpty) {
      this.takeOverLeaving(snapshot);
    } else {
      const child = this.#newChild();
      this.#state = { is: 'occupied', child };
      this.#hasServed = snapshot.state !== 'starting' || snapshot.hasServed === true;
      this.#lastPid = snapshot.pid;
      this.#owner.report(this, snapshot.pid, { is: 'takenOver' });
      child.takeOver(snapshot);
    }
  }

  /**
   * Takes in an unexpected process of a killed dispatcher. It gets the place unless another process is ready here. A process
   * that is starting gives way.
   * @returns whether it got the place; otherwise it is drained and ended
   */
  adopt(snapshot: ProcessSnapshot): boolean {
    const state = this.#state;
    const isFree = this.isEmpty || (state.is === 'occupied' && state.child.isStarting);
    if (!isFree || this.#replacement) {
      this.takeOverLeaving(snapshot);
      return false;
    }
    if (state.is === 'waiting') state.next?.timer.clear();
    this.#state = { is: 'waiting', next: undefined };
    if (state.is === 'occupied') this.#dismiss(state.child);
    this.takeOver(snapshot);
    return true;
  }

  /** Drains a process and ends it. */
  takeOverLeaving(snapshot: ProcessSnapshot): void {
    const child = this.#newChild();
    this.#leaving.add(child);
    child.takeOver(snapshot);
    child.stop();
  }

  /** This slot has no place: every process in it is ended. */
  close(): void {
    this.#state = { is: 'stopped' };
  }

  /** Describes the slot to the next supervisor. The caller owns the descriptors. */
  snapshot(): SlotSnapshot[] {
    const place: (SlotSnapshot | undefined)[] = [];
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
      const living = this.#state.child.snapshot(false);
      place.push(living && { ...living, hasServed });
    }
    for (const child of this.#leaving) place.push(child.snapshot(true));
    return place.filter((snapshot) => snapshot !== undefined);
  }

  onReady(worker: PoolWorker): void {
    this.#all.find((child) => child.is(worker))?.onReady(worker);
    this.#reviewFresh();
  }

  /** A worker of any slot serves other addresses than before. */
  onServing(): void {
    this.#reviewFresh();
  }

  onLeft(worker: PoolWorker): void {
    this.#all.find((child) => child.is(worker))?.onLeft(worker);
  }

  /**
   * Starts a new process. When it serves every address that the old one serves, or served at its end, it gets the place, and
   * the old one is drained and ended. If it dies, or is not ready in time, the old one stays.
   * @param without addresses that it need not serve
   * @param settle called once, unless the slot is stopped or the replacement is abandoned before
   */
  replace(without: readonly string[], settle: (outcome: ReplacementOutcome) => void): void {
    const before = this.#state.is === 'occupied' ? this.#state.child : undefined;
    const fresh = this.#newChild((worker) => {
      if (before?.isAwaited === true) return undefined;
      const old = before?.worker ?? this.#lastWorker;
      return old ? required(this.#pool.missing(worker, old, this.#lastWorker), without) : [];
    });
    const { hasFinished } = this;
    if (this.#state.is === 'waiting') this.#state.next?.timer.clear();
    if (this.isEmpty) this.#state = { is: 'occupied', child: fresh };
    this.#replacement = { is: 'starting', fresh, mayFinish: hasFinished, settle };
    this.#launch(fresh);
  }

  /** Ends a new process that does not have the place yet. */
  abandonReplacement(): void {
    const replacement = this.#replacement;
    this.#replacement = undefined;
    if (replacement?.is !== 'starting') return;
    // With no old process, one that serves fewer addresses is better than none.
    if (this.#hasPlace(replacement.fresh)) replacement.fresh.accept();
    else this.#dismiss(replacement.fresh);
  }

  /** Drains its processes and ends them. None is started again. */
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

  /** Kills the processes that are being ended. */
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

  /** The new process may now serve all that the old one serves. */
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
    const { settle } = replacement;
    const old = this.#state.is === 'occupied' && !this.#hasPlace(fresh) ? this.#state.child : undefined;
    this.#state = { is: 'occupied', child: fresh };
    this.#history = noDeaths;
    if (old) {
      this.#replacement = { is: 'ending', fresh, old, settle };
      this.#dismiss(old);
    } else {
      this.#replacement = undefined;
      settle({ is: 'replaced', fresh, old });
    }
  }

  /** A process that replaces none may take any time. That is reported once. */
  #onOverdue(child: Child, report: Overdue): void {
    const replacement = this.#replacement;
    if (replacement?.is === 'starting' && replacement.fresh === child) this.#giveUp(replacement);
    else if (!this.#wasOverdue) {
      this.#wasOverdue = true;
      this.#report(child, report);
    }
  }

  #giveUp({ fresh, settle }: Replacement): void {
    const { lastWords, lacking } = fresh;
    // Read before the process is killed. A process that listens at some addresses is a worker, so what it started is no hint.
    const launched = lacking.length > 0 ? undefined : fresh.launched;
    if (lacking.length > 0) {
      this.abandonReplacement();
    } else {
      this.#replacement = undefined;
      if (!this.#hasPlace(fresh)) this.#leaving.add(fresh);
      fresh.kill();
    }
    settle({ is: 'failed', fresh, exit: undefined, lastWords, lacking, launched });
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
      replacement.settle({ is: 'replaced', fresh: replacement.fresh, old: child });
    } else if (replacement?.fresh === child) {
      this.#onFreshEnded(replacement, end);
    } else if (replacement?.is === 'starting') {
      // The old process has ended, so the new one gets the place.
      this.#state = { is: 'occupied', child: replacement.fresh };
      this.#reopenAfter(end);
      this.#report(child, { is: 'exited', exit });
    } else {
      this.#judge(child, end);
    }
  }

  #onFreshEnded(replacement: Replacement, end: ChildEnd): void {
    const { fresh, settle } = replacement;
    const { exit } = end;
    const { lastWords } = fresh;
    this.#replacement = undefined;
    if (this.#hasPlace(fresh)) this.#judge(fresh, end);
    else this.#report(fresh, { is: 'exited', exit });
    const mayFinish = replacement.is === 'starting' && replacement.mayFinish;
    if (mayFinish && this.hasFinished) settle({ is: 'finished' });
    else settle({ is: 'failed', fresh, exit, lastWords, lacking: [], launched: undefined });
  }

  #judge(child: Child, end: ChildEnd): void {
    const { exit, life, worker } = end;
    const { lastWords } = child;
    if (worker && life.readyAt !== undefined) this.#lastWorker = worker;
    const aftermath = aftermathOf(end, this.#history, this.#hasServed);
    if (aftermath.is !== 'vacant') this.#reopenAfter(end);
    switch (aftermath.is) {
      case 'vacant':
        this.#state = { is: 'vacant', reason: aftermath.vacancy };
        this.#report(child, { is: 'exited', exit, vacancy: aftermath.vacancy });
        break;
      case 'died':
        this.#startAfter(() => {
          this.#report(child, { is: 'died', exit, restartInMs: 0, crashLoopBegan: false, lastWords });
        });
        break;
      case 'recycled':
        this.#history = noDeaths;
        this.#startAfter(() => {
          this.#report(child, { is: 'recycled', exit });
        });
        break;
      case 'pause': {
        const { history, restartInMs, crashLoopBegan } = aftermath;
        this.#history = history;
        this.#startIn(restartInMs);
        this.#report(child, { is: 'died', exit, restartInMs, crashLoopBegan, lastWords });
      }
    }
  }

  #reopenAfter(end: ChildEnd): void {
    if (end.worker && opensAgain(end)) this.#pool.reopen(end.worker);
  }

  /** Starts the next process at once, unless a listener of the report stops the slot. */
  #startAfter(report: () => void): void {
    this.#state = { is: 'waiting', next: undefined };
    report();
    // A restart that runs may fill the slot.
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
