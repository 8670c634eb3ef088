// Roster: which workers the present generation has, in which slots. The journal keeps it for the start after a crash.
import type { Dispatcher, WorkerView } from '../dispatcher/index.js';
import { isSameProcess, processIdentity } from '../fd/internal.js';
import type { ChildView, Occupant, Supervisor } from '../supervisor/index.js';
import { Journal, type Check, type ServiceName, type Survivor } from './journal.js';

/**
 * How long the coming and going of workers that nobody has started here may stay unnoted: they come as fast as they like.
 * Should this process die meanwhile, the next one does not wait for them, and lets them in all the same.
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
  /** By their processes. */
  readonly #children = new Map<number, Child>();
  /** Workers that nobody has started here: to look one up costs a system call. */
  readonly #identities = new WeakMap<WorkerView, string | undefined>();
  /** Workers of a dispatcher that died which have not come back yet, by their processes. */
  readonly #expected = new Map<number, Survivor>();
  /** What `claim` has found. */
  #claimed: readonly Survivor[] | undefined;
  #isOpen = false;
  #isPaused = false;
  #isNoting = false;
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param control the path of the control socket
   * @param warned told when the workers could not be noted: after a crash, they will be started anew
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

  /** Knows from now on which processes its supervisor has. */
  follow(supervisor: Supervisor): void {
    const know = ({ id, pid }: ChildView): void => {
      if (pid === undefined) return;
      this.#children.set(pid, { slot: id, identity: processIdentity(pid) });
      this.#noteNow();
    };
    supervisor.on('started', know);
    supervisor.on('takenOver', know);
    supervisor.on('unexpected', know);
    // The number may be another process's from now on.
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
   * Takes the journal of a dispatcher that died.
   * @returns its workers, which live
   * @throws {PassfdError} `ERR_ADDRESS_IN_USE` when it lives, or was another service's
   */
  claim(): readonly Survivor[] {
    this.#claimed = this.#journal.claim();
    this.#expect(this.#claimed);
    return this.#claimed;
  }

  /** Takes part in the journal of the generation before, which goes on with it until it is over. */
  join(): void {
    this.#expect(this.#journal.join());
  }

  /** Of survivors, those that were children of their dispatcher: some are back already. */
  occupantsAmong(survivors: readonly Survivor[]): Occupant[] {
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

  /** This generation is the present one, with what is in its slots. */
  open(occupants: readonly Occupant[]): void {
    this.#isOpen = true;
    this.#journal.catchUp();
    for (const occupant of occupants) {
      if (!('pid' in occupant)) continue;
      const { id, pid, identity } = occupant;
      this.#children.set(pid, { slot: id, identity: identity ?? processIdentity(pid) });
    }
    this.#noteNow();
  }

  /** Whether the journal is still in its place: see `Journal`. */
  check(): Check {
    return this.#isOpen && !this.#isPaused ? this.#journal.check() : 'kept';
  }

  /** Writes what waits, and nothing more until `resume`: the next generation may begin to write in its place. */
  pause(): void {
    if (this.#timer || this.#isNoting) this.#write();
    this.#isPaused = true;
  }

  /** Writes what happened since `pause`: there is no next generation. */
  resume(): void {
    this.#isPaused = false;
    this.#write();
  }

  /** It is no more: another one notes them, or nobody needs to. */
  close(): void {
    this.#isOpen = false;
    clearTimeout(this.#timer);
    this.#journal.close();
  }

  /** At an orderly end: no worker is left. */
  remove(): void {
    this.#isOpen = false;
    clearTimeout(this.#timer);
    this.#journal.remove();
  }

  /** After a start that has failed. The journal stays where it is another start's, or while a worker in it lives. */
  abandon(): void {
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

  /** Once for all that happens in a turn of the event loop. */
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
    if (!this.#isOpen || this.#isPaused) return;
    try {
      this.#journal.write(this.#survivors());
    } catch (error) {
      this.#warned(error);
    }
  }

  /** Everybody who would be there if this process died now: who has joined, who was started, and who is still expected. */
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
