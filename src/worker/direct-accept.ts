// DirectAccept: which listening sockets this worker accepts connections from by itself: those that the dispatcher says, or all
// that it serves while no dispatcher is there.
import { traceStep } from '../handoff/index.js';
import type { BoardCounts } from './board-counts.js';
import type { Custody, Kept } from './custody.js';
import type { OpenConnections } from './open-connections.js';
import type { Target } from './target.js';
import { Watch } from './watch.js';

/** What accepting needs of the worker. */
export interface DirectAcceptHost {
  /** Whether the worker may have one more connection: it is ready, does not drain, and is below its capacity. */
  mayAccept(): boolean;
  /** The server or loop that takes the connections of a listener of the present dispatcher. */
  targetOf(listener: number): Target | undefined;
  /** Every server and loop, with the listeners of the present dispatcher that it has. */
  served(): Iterable<readonly [target: Target, listeners: readonly number[]]>;
  /** The worker cannot accept by itself where it was told to, or did so far. */
  unwatched(listener: number): void;
}

export class DirectAccept {
  readonly #custody: Custody;
  readonly #counts: BoardCounts;
  readonly #open: OpenConnections;
  readonly #host: DirectAcceptHost;
  /** By the keys of the sockets in custody, which are the same for each dispatcher. */
  readonly #watches = new Map<string, Watch>();
  /** Whether some watch waits for `resume`. */
  #isHeld = false;
  #isClosed = false;

  constructor(custody: Custody, counts: BoardCounts, open: OpenConnections, host: DirectAcceptHost) {
    this.#custody = custody;
    this.#counts = counts;
    this.#open = open;
    this.#host = host;
  }

  /** Whether the worker accepts anywhere by itself, as far as it has room. */
  get isOn(): boolean {
    for (const watch of this.#watches.values()) if (watch.isOn) return true;
    return false;
  }

  /**
   * The dispatcher says whether this worker accepts connections of a listener by itself.
   * @param place of the counts on the board
   */
  watch(listener: number, on: boolean, place: number): void {
    const kept = this.#custody.of(listener);
    if (!kept) {
      if (on) this.#host.unwatched(listener);
      return;
    }
    const watch = this.#watchOf(kept);
    this.#counts.place(watch.tally, place);
    watch.isWanted = on;
    const target = this.#host.targetOf(listener);
    if (!on) watch.stop();
    // Its server was closed, or a drain began, and the dispatcher does not know it yet.
    else if (target && !this.#isClosed) this.#start(watch, target, kept, listener);
  }

  /** A server or loop takes connections of these listeners from now on. What the dispatcher has said of one before holds for it. */
  serve(target: Target, listeners: readonly number[]): void {
    if (this.#isClosed) return;
    for (const listener of listeners) {
      const kept = this.#custody.of(listener);
      if (!kept) continue;
      const watch = this.#watches.get(kept.label.key);
      if (watch?.isWanted === true && !watch.isOn) this.#start(watch, target, kept, listener);
    }
  }

  /** The dispatcher has died: the worker accepts everywhere until the next dispatcher has answered. */
  accept(): void {
    if (this.#isClosed) return;
    for (const [target, listeners] of this.#host.served()) {
      for (const listener of listeners) {
        const kept = this.#custody.of(listener);
        if (kept) this.#watchOf(kept).target = target;
      }
    }
    for (const watch of this.#watches.values()) {
      watch.isWanted = watch.target !== undefined;
      const kept = this.#custody.get(watch.key);
      // Without a free descriptor, the other workers accept.
      if (watch.target && kept) watch.start(watch.target, kept.descriptor);
    }
  }

  /**
   * The next dispatcher has answered the request for these connections.
   * @param isDirect whether it says where this worker accepts by itself. If not, the worker stops at once
   */
  answered(target: Target, isDirect: boolean): void {
    if (isDirect) return;
    for (const watch of this.#watches.values()) {
      if (watch.target !== target) continue;
      watch.isWanted = false;
      watch.stop();
    }
  }

  /** The server or loop takes nothing any more. Nothing is accepted for it after this call. */
  leave(target: Target): void {
    for (const watch of this.#watches.values()) if (watch.target === target) watch.end();
  }

  /** Sockets were given, replaced or released: watches the ones that are in custody now. */
  custodyChanged(): void {
    for (const [key, watch] of this.#watches) {
      const kept = this.#custody.get(key);
      if (!kept) {
        watch.end();
        this.#watches.delete(key);
        this.#counts.retire(watch.tally);
      } else if (!watch.replace(kept.descriptor)) {
        this.#sayUnwatched(key);
      }
    }
  }

  /** A socket was given and did not arrive: what is in custody under its key may be another one. */
  custodyLost(listener: number, key: string): void {
    const watch = this.#watches.get(key);
    if (!watch?.isOn) return;
    watch.end();
    this.#host.unwatched(listener);
  }

  /** The board is gone, and with it the counts that the dispatcher governs by. */
  boardLost(): void {
    for (const [key, watch] of this.#watches) {
      if (!watch.isOn) continue;
      watch.stop();
      this.#sayUnwatched(key);
    }
  }

  /** There may be room again: a connection was closed, a loop asks for one, the capacity was raised, or the worker is ready. */
  resume(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    for (const watch of this.#watches.values()) watch.resume();
  }

  /** Accepts nothing any more, whatever the dispatcher says. Counts go on. */
  close(): void {
    this.#isClosed = true;
    for (const watch of this.#watches.values()) watch.end();
  }

  #start(watch: Watch, target: Target, { descriptor }: Kept, listener: number): void {
    const isStarted = this.#counts.hasBoard && watch.start(target, descriptor);
    if (!isStarted) this.#host.unwatched(listener);
    else traceStep('watching');
  }

  #sayUnwatched(key: string): void {
    const listener = this.#custody.get(key)?.listener;
    if (listener !== undefined) this.#host.unwatched(listener);
  }

  #watchOf({ label: { key } }: Kept): Watch {
    let watch = this.#watches.get(key);
    if (!watch) {
      watch = new Watch(key, this.#counts.add(), this.#open, {
        mayAccept: () => this.#host.mayAccept(),
        held: () => {
          this.#isHeld = true;
        },
      });
      this.#watches.set(key, watch);
    }
    return watch;
  }
}
