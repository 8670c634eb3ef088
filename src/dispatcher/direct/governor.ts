// Governor: looks at the boards of the workers while something happens, and tells each worker whether it watches.
import type { Descriptor } from '../../fd/index.js';
import type { Clock } from '../clock.js';
import type { Listener } from '../listener.js';
import type { Page } from '../workers/own-accepts.js';
import { PassfdWorker } from '../workers/passfd-worker.js';
import type { WorkerHandle } from '../workers/worker-handle.js';
import type { AcceptMode } from './accept-mode.js';
import { afterRest, govern, nothingSeen, type Memory, type Watcher } from './govern.js';
import { feel, firstPulse, type Pulse } from './pulse.js';

/** What the kernel does for a governor. */
export interface Kernel {
  /** @returns a page that is all zero, and a descriptor of it, which the caller owns @throws {PassfdError} */
  createPage(): { readonly page: Page; readonly descriptor: Descriptor };
  /** Connections that wait at a listening socket. */
  queueLength(fd: number): number;
  /** How many processes can run at the same time. */
  readonly cores: number;
}

export interface GovernorHost {
  readonly workers: readonly WorkerHandle[];
  /** Workers have accepted connections. @param listener undefined when it is closed by now */
  accepted(listener: Listener | undefined, count: number): void;
  /** A draining worker may have nothing open any more. */
  drained(worker: WorkerHandle): void;
  /** The dispatcher may accept there, which it could not before. */
  resume(listener: Listener): void;
  /** Nothing happens there: `wake` is to be called when the next client comes. */
  rearm(listener: Listener): void;
  /** Gives a worker the listening socket once more. */
  entrust(worker: PassfdWorker, listener: Listener): void;
  warned(error: unknown): void;
}

/** So many looks at which nothing has happened end the looking, after this time each. */
const QUIET_LOOKS = 3;
const QUIET_LOOK_MS = 10;

/** Time between two looks while nothing but a drain is under way. */
const DRAIN_LOOK_MS = 25;

/** Time between two looks while nothing happens but a worker has stalled. */
const STALLED_LOOK_MS = 250;

/** A look that comes later than twice its time, or than this, was kept from it: this process may have been stopped itself. */
const LATE_MS = 50;

/** Pause after a page could not be made. */
const PAGE_PAUSE_MS = 1_000;

/** The dispatcher among the watchers. No worker has this number. */
const DISPATCHER = 0;

/** What is known of one listener. */
interface Governed {
  memory: Memory;
  /** Connections that each watcher has accepted since the last look. */
  accepted: Map<number, number>;
  /** How many connections the dispatcher may accept until the next look. */
  allowance: number;
  /** How many of them in one turn. */
  perTurn: number;
  /** Whether somebody can watch. Otherwise clients wait until a worker comes, and nothing is to be decided. */
  isServed: boolean;
  queue: number;
  /** Time until the next look. */
  nextMs: number;
  /** Whether nothing has happened since everything was forgotten. */
  isResting: boolean;
}

interface Known {
  /** Among the watchers. The id of a worker is no name: while a worker is replaced, two have the same. */
  readonly number: number;
  pulse: Pulse;
  /** Turns of the loop that were counted at the last look. */
  turns: number;
}

/** What is seen of a worker in one look, for all listeners. */
interface Seen {
  readonly open: number;
  readonly isAble: boolean;
}

export class Governor {
  readonly #isDirect: boolean;
  readonly #clock: Clock;
  readonly #kernel: Kernel;
  readonly #host: GovernorHost;
  readonly #governed = new Map<Listener, Governed>();
  readonly #known = new Map<PassfdWorker, Known>();
  /** By worker, in the present look: to add up what one has open at all addresses takes time. */
  readonly #seen = new Map<WorkerHandle, Seen>();
  /** The next look: when, and what cancels it. */
  #next: { readonly at: number; readonly cancel: () => void } | undefined;
  #lookedAt = 0;
  /** The delay of the next look, or of the present one. */
  #delayMs = 0;
  #elapsedMs = 0;
  #nextNumber = DISPATCHER + 1;
  #quietLooks = 0;
  #isFrozen = false;
  #isLooking = false;
  /** Whether something has happened of late, so that looks follow each other. */
  #isAwake = false;
  #noPageUntil = Number.NEGATIVE_INFINITY;
  #isPageMissing = false;

  constructor(mode: Exclude<AcceptMode, 'auto'>, clock: Clock, kernel: Kernel, host: GovernorHost) {
    this.#isDirect = mode === 'direct';
    this.#clock = clock;
    this.#kernel = kernel;
    this.#host = host;
  }

  get isDirect(): boolean {
    return this.#isDirect;
  }

  /** A worker has joined. It gets its page before anything that it asks for. */
  admit(worker: WorkerHandle): void {
    if (!(worker instanceof PassfdWorker) || this.#isFrozen) return;
    this.#equip(worker);
  }

  /** A worker has left. What it had accepted until then is counted. */
  remove(worker: WorkerHandle): void {
    if (!(worker instanceof PassfdWorker)) return;
    this.#count(worker);
    this.#known.delete(worker);
    worker.own.close();
    this.review();
  }

  /** A listener is open. */
  open(listener: Listener): void {
    if (!this.#governed.has(listener)) this.#governed.set(listener, newlyGoverned());
    this.review();
  }

  /** A listener accepts no more, here and in the workers. */
  close(listener: Listener): void {
    this.#governed.delete(listener);
    for (const worker of this.#workers) worker.own.leave(listener);
  }

  /** Something has changed that decides who watches. */
  review(): void {
    if (this.#isDirect || this.#known.size > 0) this.#plan(0);
  }

  /** A client has come. */
  wake(): void {
    if (!this.#isDirect) return;
    this.#quietLooks = 0;
    // While something happens, looks are planned already.
    if (!this.#isLooking && !this.#isAwake) this.#plan(0);
    this.#isAwake = true;
  }

  /** Whether the dispatcher leaves connections there to a worker. */
  isLeftTo(worker: WorkerHandle, listener: Listener): boolean {
    return this.#isDirect && worker.own?.accepts(listener) === true;
  }

  /** How many connections the dispatcher may accept there in this turn of the event loop. */
  mayAccept(listener: Listener): number {
    if (!this.#isDirect) return Infinity;
    const governed = this.#governed.get(listener);
    return governed ? Math.max(0, Math.min(governed.allowance, governed.perTurn)) : 0;
  }

  /** The dispatcher has accepted connections there. */
  noteAccepted(listener: Listener, count: number): void {
    if (!this.#isDirect) return;
    const governed = this.#governed.get(listener);
    if (!governed) return;
    governed.allowance -= count;
    noteIn(governed.accepted, DISPATCHER, count);
    this.wake();
  }

  /** The worker cannot watch a listener. It gets hand-offs there. */
  noteUnwatched(worker: PassfdWorker, id: number): void {
    worker.own.noteUnwatched(id, this.#clock.now());
    this.review();
  }

  /** Reads what was accepted until now. */
  count(): void {
    for (const worker of this.#known.keys()) this.#count(worker);
  }

  /** Says and counts nothing until `thaw`. Workers go on as they were told. */
  freeze(): void {
    this.count();
    this.#isFrozen = true;
    this.#stop();
  }

  thaw(): void {
    this.#isFrozen = false;
    for (const worker of this.#workers) this.#equip(worker);
    this.review();
  }

  /** Ends the looking, and gives up all pages. */
  end(): void {
    this.#isFrozen = true;
    this.#stop();
    for (const worker of this.#workers) worker.own.close();
  }

  get #workers(): PassfdWorker[] {
    return this.#host.workers.filter((worker) => worker instanceof PassfdWorker);
  }

  #stop(): void {
    this.#isAwake = false;
    this.#next?.cancel();
    this.#next = undefined;
  }

  #plan(delayMs: number): void {
    if (this.#isFrozen) return;
    const at = this.#clock.now() + delayMs;
    if (this.#next) {
      if (this.#next.at <= at) return;
      this.#next.cancel();
    } else if (!this.#isLooking) {
      // Nothing was looked at for any time: what is still was still.
      this.#lookedAt = this.#clock.now();
    }
    this.#delayMs = delayMs;
    const cancel = this.#clock.after(delayMs, () => {
      this.#next = undefined;
      this.#look();
    });
    this.#next = { at, cancel };
  }

  #look(): void {
    this.#isLooking = true;
    this.#seen.clear();
    try {
      this.#lookAtAll();
    } catch (error) {
      // A listener of an event has thrown, for example. The workers are governed all the same.
      this.#plan(LATE_MS);
      this.#host.warned(error);
    } finally {
      this.#isLooking = false;
    }
  }

  #lookAtAll(): void {
    const now = this.#clock.now();
    this.#elapsedMs = now - this.#lookedAt;
    const elapsedMs = Math.min(this.#elapsedMs, Math.max(LATE_MS, 2 * this.#delayMs));
    this.#lookedAt = now;
    for (const worker of this.#workers) this.#equip(worker);
    this.count();
    const turns = new Map<number, number>();
    for (const [worker, known] of this.#known) {
      turns.set(known.number, Math.max(0, worker.own.turns - known.turns));
      known.turns = worker.own.turns;
      if (worker.state === 'ready') this.#feel(worker, known, elapsedMs);
      this.#askAgain(worker, now);
    }
    let hasAccepted = false;
    for (const [listener, governed] of this.#governed) {
      hasAccepted ||= governed.accepted.size > 0;
      this.#govern(listener, governed, turns);
    }
    this.#lookAtDrains();
    this.#planNext(hasAccepted);
  }

  /** Gives a worker a page, if it needs one. */
  #equip(worker: PassfdWorker): void {
    const { own } = worker;
    if (!own.isAble || own.hasPage || worker.hasLeft) return;
    if (!this.#isDirect && !own.hasPast) return;
    if (this.#clock.now() < this.#noPageUntil) return;
    try {
      const { page, descriptor } = this.#kernel.createPage();
      this.#isPageMissing = false;
      own.equip(page, descriptor);
      const pulse = { ...firstPulse, isStalled: worker.stalls.hasLoopStalled };
      this.#known.set(worker, { number: this.#nextNumber++, pulse, turns: 0 });
    } catch (error) {
      // Its connections are handed off meanwhile.
      this.#noPageUntil = this.#clock.now() + PAGE_PAUSE_MS;
      if (!this.#isPageMissing) this.#host.warned(error);
      this.#isPageMissing = true;
    }
  }

  /** Prepares a worker that could not watch to be asked again. What it had no descriptor for comes once more. */
  #askAgain(worker: PassfdWorker, now: number): void {
    const listeners = worker.own.endPauses(now);
    for (const listener of listeners) this.#host.entrust(worker, listener);
    if (listeners.length > 0 && worker.own.turns === 0) worker.own.close();
  }

  #count(worker: PassfdWorker): void {
    worker.own.count((listener, count) => {
      this.#host.accepted(listener, count);
      const governed = listener && this.#governed.get(listener);
      const number = this.#known.get(worker)?.number;
      if (governed && number !== undefined) noteIn(governed.accepted, number, count);
    });
  }

  #feel(worker: PassfdWorker, known: Known, elapsedMs: number): void {
    const { own } = worker;
    const { turns, isAsleep } = own;
    const before = known.pulse;
    // What was accepted shows life too, if a worker should not count its turns.
    const beat = { turns: turns + own.accepted, isAsleep, isWatching: own.isWatching };
    known.pulse = feel(before, beat, elapsedMs);
    if (known.pulse.isCalled && !before.isCalled) own.call();
    if (known.pulse.isStalled !== before.isStalled) worker.stalls.noteLoop(known.pulse.isStalled);
  }

  #govern(listener: Listener, governed: Governed, turns: ReadonlyMap<number, number>): void {
    if (!this.#isDirect) {
      for (const worker of this.#known.keys()) {
        if (worker.isServing(listener)) worker.own.watch(listener, false);
      }
      return;
    }
    // The dispatcher may accept while this runs: that belongs to the next look.
    const { accepted } = governed;
    governed.accepted = new Map();
    const dispatcher = this.#dispatcherAt(listener, governed, accepted);
    const watchers: Watcher[] = [];
    const workers = new Map<number, PassfdWorker>();
    for (const [worker, { number }] of this.#known) {
      if (!worker.isServing(listener) || !worker.own.accepts(listener)) continue;
      workers.set(number, worker);
      watchers.push({
        id: number,
        weight: 1,
        ...this.#see(worker),
        isWatching: worker.own.watches(listener),
        accepted: accepted.get(number) ?? 0,
        turns: turns.get(number) ?? 0,
      });
    }
    if (dispatcher) watchers.push(dispatcher);
    governed.isServed = watchers.length > 0;
    governed.isResting = false;
    governed.queue = this.#kernel.queueLength(listener.acceptor.fd);
    const { queue } = governed;
    const { cores } = this.#kernel;
    const decision = govern(governed.memory, { watchers, queue, cores, elapsedMs: this.#elapsedMs });
    governed.memory = decision.memory;
    governed.nextMs = decision.nextMs;
    for (const [number, { own }] of workers) own.watch(listener, decision.watching.has(number));
    this.#allow(listener, governed, dispatcher, { ...decision, isAlone: watchers.length === 1 });
  }

  #see(worker: WorkerHandle): Seen {
    let seen = this.#seen.get(worker);
    if (!seen) {
      seen = { open: worker.load, isAble: !worker.isStalled && !worker.isFull };
      this.#seen.set(worker, seen);
    }
    return seen;
  }

  /** The dispatcher as one of the watchers, with the share of the workers that cannot accept by themselves. */
  #dispatcherAt(
    listener: Listener,
    { allowance }: Governed,
    accepted: ReadonlyMap<number, number>,
  ): Watcher | undefined {
    const others = this.#host.workers.filter(
      (each) => each.serves(listener) && !this.isLeftTo(each, listener),
    );
    if (others.length === 0) return undefined;
    const seen = others.map((worker) => this.#see(worker));
    const able = seen.filter(({ isAble }) => isAble);
    return {
      id: DISPATCHER,
      isDispatcher: true,
      weight: Math.max(1, able.length),
      open: seen.reduce((sum, { open }) => sum + open, 0),
      isWatching: allowance > 0,
      isAble: others.some((worker) => worker.roomFor(listener) > 0),
      accepted: accepted.get(DISPATCHER) ?? 0,
      turns: 0,
    };
  }

  #allow(
    listener: Listener,
    governed: Governed,
    dispatcher: Watcher | undefined,
    {
      watching,
      most,
      isAlone,
    }: { readonly watching: ReadonlySet<number>; readonly most: number; readonly isAlone: boolean },
  ): void {
    if (!dispatcher) {
      governed.allowance = 0;
      return;
    }
    const { weight, open } = dispatcher;
    // With nobody to share with, a share would only keep clients waiting until the next look.
    if (isAlone) {
      governed.perTurn = Infinity;
      governed.allowance = Infinity;
      this.#host.resume(listener);
      return;
    }
    governed.perTurn = weight;
    // At least one: everybody may watch although it has more than the others.
    governed.allowance = watching.has(DISPATCHER) ? Math.max(1, Math.floor(weight * most - open)) : 0;
    if (governed.allowance > 0) this.#host.resume(listener);
  }

  #lookAtDrains(): void {
    for (const worker of this.#known.keys()) {
      if (worker.state !== 'draining') continue;
      worker.own.lookWhetherStopped();
      this.#host.drained(worker);
    }
  }

  #planNext(hasAccepted: boolean): void {
    const served = [...this.#governed.values()].filter(({ isServed }) => isServed);
    const isBusy = hasAccepted || served.some(({ queue }) => queue > 0);
    this.#quietLooks = isBusy ? 0 : this.#quietLooks + 1;
    if (this.#isDirect && this.#quietLooks < QUIET_LOOKS) {
      this.#isAwake = true;
      this.#plan(isBusy ? Math.min(LATE_MS, ...served.map(({ nextMs }) => nextMs)) : QUIET_LOOK_MS);
      return;
    }
    this.#isAwake = false;
    if (this.#isDirect) this.#rest();
    const known = [...this.#known];
    if (known.some(([worker]) => isStillDraining(worker))) this.#plan(DRAIN_LOOK_MS);
    else if (known.some(([, { pulse }]) => pulse.isStalled)) this.#plan(STALLED_LOOK_MS);
  }

  /** Nothing happens: forgets what was seen, and waits for the next client. */
  #rest(): void {
    for (const [listener, governed] of this.#governed) {
      if (!governed.isResting) {
        governed.memory = afterRest(governed.memory);
        this.#govern(listener, governed, new Map());
        governed.memory = afterRest(governed.memory);
        governed.isResting = true;
      }
      // A client that waits where nobody serves would be reported again at once.
      if (governed.queue === 0) this.#host.rearm(listener);
    }
  }
}

function newlyGoverned(): Governed {
  return {
    memory: nothingSeen,
    accepted: new Map(),
    allowance: 0,
    perTurn: 1,
    isServed: false,
    queue: 0,
    nextMs: 0,
    isResting: false,
  };
}

function noteIn(counts: Map<number, number>, id: number, count: number): void {
  counts.set(id, (counts.get(id) ?? 0) + count);
}

function isStillDraining({ state, own }: PassfdWorker): boolean {
  return state === 'draining' && (!own.hasStopped || own.open > 0);
}
