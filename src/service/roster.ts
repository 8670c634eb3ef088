// Roster: the workers of this generation and their slots, written to the journal for the start after a crash.
import type { Dispatcher, WorkerView } from '../dispatcher/index.js';
import { isSameProcess, processIdentity } from '../fd/internal.js';
import type { ChildView, Supervisor } from '../supervisor/index.js';
import type { SlotSnapshot } from '../supervisor/internal.js';
import { Journal, type Check } from './journal.js';
import type { Survivor } from './journal-records.js';
import type { ServiceName } from './service-name.js';

/**
 * Workers that this service did not start can come and go at any rate, so their changes are written after this time. If this
 * process dies before, the next dispatcher does not wait for them, and lets them in when they return.
 */
const GUESTS_DELAY_MS = 250;

/** A process that a supervisor has started, here or in an earlier generation. */
interface Child {
  readonly slot: number;
  readonly identity: string | undefined;
}

export class Roster {
  readonly #dispatcher: Dispatcher;
  readonly #journal: Journal;
  readonly #warned: (error: unknown) => void;
  /** By pid. */
  readonly #children = new Map<number, Child>();
  /** Of workers that this service did not start. A lookup costs a system call. */
  readonly #identities = new WeakMap<WorkerView, string | undefined>();
  /** Workers of a killed dispatcher that have not returned yet, by pid. */
  readonly #expected = new Map<number, Survivor>();
  /** The result of `claim`. */
  #claimed: readonly Survivor[] | undefined;
  #isOpen = false;
  #isFrozen = false;
  #isNoting = false;
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param control the path of the control socket
   * @param warned called when the journal cannot be written. Workers are then started anew after a crash
   */
  constructor(
    control: string,
    service: ServiceName,
    dispatcher: Dispatcher,
    warned: (error: unknown) => void,
  ) {
    this.#dispatcher = dispatcher;
    this.#journal = new Journal(control, service, warned);
    this.#warned = warned;
    dispatcher.on('joined', (worker) => {
      this.#expected.delete(worker.pid);
    });
    const note = ({ pid }: WorkerView): void => {
      if (this.#children.has(pid)) this.#noteNow();
      else this.#noteSoon();
    };
    dispatcher.on('joined', note);
    dispatcher.on('draining', note);
    dispatcher.on('left', note);
  }

  /** Follows the processes of the supervisor from now on. */
  follow(supervisor: Supervisor): void {
    const know = ({ id, pid }: ChildView): void => {
      if (pid === undefined) return;
      this.#children.set(pid, { slot: id, identity: processIdentity(pid) });
      this.#noteNow();
    };
    supervisor.on('started', know);
    supervisor.on('takenOver', know);
    supervisor.on('unexpected', know);
    // The pid may be reused from now on.
    const forget = ({ pid }: ChildView): void => {
      if (pid === undefined) return;
      this.#children.delete(pid);
      this.#expected.delete(pid);
      this.#noteNow();
    };
    supervisor.on('died', forget);
    supervisor.on('recycled', forget);
    supervisor.on('exited', forget);
  }

  /**
   * Takes the journal of a killed dispatcher.
   * @returns its workers that are alive
   * @throws {PassfdError} `ERR_ADDRESS_IN_USE` when the dispatcher is alive, or was that of another service
   */
  claim(): readonly Survivor[] {
    this.#claimed = this.#journal.claim();
    this.#expect(this.#claimed);
    return this.#claimed;
  }

  /** Joins the journal of the generation before, which writes it until it has handed over. */
  join(): void {
    this.#expect(this.#journal.join());
  }

  /** For the supervisor: the survivors that were children of the killed dispatcher. Some may have returned already. */
  snapshotsOf(survivors: readonly Survivor[]): SlotSnapshot[] {
    const ready = new Set(
      this.#dispatcher.workers.filter(({ state }) => state === 'ready').map(({ pid }) => pid),
    );
    return survivors
      .filter(({ isChild }) => isChild)
      .map(({ id, pid, identity, hasJoined, isLeaving }) => ({
        id,
        pid,
        identity,
        state: isLeaving ? 'leaving' : ready.has(pid) ? 'ready' : hasJoined ? 'awaited' : 'starting',
      }));
  }

  /** Whether this generation is the present one. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Makes this generation the present one, with these processes in its slots. */
  open(snapshots: readonly SlotSnapshot[]): void {
    this.#isOpen = true;
    this.#journal.catchUp();
    for (const snapshot of snapshots) {
      if (!('pid' in snapshot)) continue;
      const { id, pid, identity } = snapshot;
      this.#children.set(pid, { slot: id, identity: identity ?? processIdentity(pid) });
    }
    this.#noteNow();
  }

  /** Whether the journal is still in its place: see `Journal`. */
  check(): Check {
    return this.#isOpen && !this.#isFrozen ? this.#journal.check() : 'kept';
  }

  /** Writes what waits, and then nothing until `thaw`: the next generation may begin to write. */
  freeze(): void {
    if (this.#timer || this.#isNoting) this.#write();
    this.#isFrozen = true;
  }

  /** After a takeover that failed: writes what happened since `freeze`. */
  thaw(): void {
    this.#isFrozen = false;
    this.#write();
  }

  /** Writes no more. The journal stays. */
  close(): void {
    this.#isOpen = false;
    clearTimeout(this.#timer);
    this.#journal.close();
  }

  /** Removes the journal: no worker is left. */
  remove(): void {
    this.#isOpen = false;
    clearTimeout(this.#timer);
    this.#journal.remove();
  }

  /** After a start that failed. The journal stays if it was not claimed, or if a worker in it is alive. */
  giveUp(): void {
    const isNeeded = this.#claimed?.some(({ pid, identity }) => isSameProcess(pid, identity)) ?? true;
    if (isNeeded) this.close();
    else this.remove();
  }

  #expect(survivors: readonly Survivor[]): void {
    for (const survivor of survivors) this.#expected.set(survivor.pid, survivor);
  }

  #noteSoon(): void {
    if (this.#timer || this.#isNoting || !this.#isOpen) return;
    this.#timer = setTimeout(() => {
      this.#write();
    }, GUESTS_DELAY_MS).unref();
  }

  /** Writes once for all changes in a turn of the event loop. */
  #noteNow(): void {
    if (this.#isNoting) return;
    this.#isNoting = true;
    queueMicrotask(() => {
      this.#write();
    });
  }

  #write(): void {
    this.#isNoting = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (!this.#isOpen || this.#isFrozen) return;
    try {
      this.#journal.write(this.#survivors());
    } catch (error) {
      this.#warned(error);
    }
  }

  /** The processes that would survive this one: workers that joined, children, and workers that have not returned yet. */
  #survivors(): Survivor[] {
    const all = new Map<number, Survivor>();
    for (const [pid, survivor] of this.#expected) {
      if (isSameProcess(pid, survivor.identity)) all.set(pid, survivor);
      else this.#expected.delete(pid);
    }
    for (const [pid, { slot, identity }] of this.#children) {
      if (all.has(pid)) continue;
      all.set(pid, { id: slot, pid, identity, isChild: true, hasJoined: false, isLeaving: false });
    }
    for (const worker of this.#dispatcher.workers) {
      const { id, pid, dialect, state } = worker;
      if (dialect !== 'passfd') continue;
      const child = this.#children.get(pid);
      all.set(pid, {
        id: child?.slot ?? id,
        pid,
        identity: child ? child.identity : this.#identityOf(worker),
        isChild: child !== undefined,
        hasJoined: true,
        isLeaving: state === 'draining',
      });
    }
    return [...all.values()];
  }

  #identityOf(worker: WorkerView): string | undefined {
    if (!this.#identities.has(worker)) this.#identities.set(worker, processIdentity(worker.pid));
    return this.#identities.get(worker);
  }
}
