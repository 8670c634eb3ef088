// BoardCounts: the counts of the connections that this worker accepts by itself, and the board that shows them to the dispatcher.
import { PassfdError, type Descriptor } from '../fd/index.js';
import { beat, Board } from '../fd/internal.js';

/** Where the counts of place 0 begin, and how many integers a place has: docs/protocol.md ("Direct accept"). */
const FIRST_PLACE = 16;
const PLACE_SIZE = 4;

/** The connections of one listening socket that this worker has accepted by itself. */
export class Tally {
  /** How many there ever were, modulo 2^32. */
  #accepted = 0;
  #open = 0;
  /** The board that shows them; undefined while none does. */
  #words: Int32Array | undefined;
  #index = 0;

  get open(): number {
    return this.#open;
  }

  /** Whether the dispatcher sees them. */
  get isShown(): boolean {
    return this.#words !== undefined;
  }

  /** Where the counts are on the board. It means nothing while none shows them. */
  get index(): number {
    return this.#index;
  }

  /** One more connection was accepted. */
  opened(): void {
    this.#accepted = (this.#accepted + 1) | 0;
    this.#open++;
    if (this.#words === undefined) return;
    Atomics.store(this.#words, this.#index, this.#accepted);
    Atomics.store(this.#words, this.#index + 1, this.#open);
  }

  /** One of them was closed. */
  closed(): void {
    this.#open--;
    if (this.#words !== undefined) Atomics.store(this.#words, this.#index + 1, this.#open);
  }

  showAt(words: Int32Array, index: number): void {
    // Elsewhere on the same board they would count twice.
    if (this.#words === words && this.#index !== index) Atomics.store(words, this.#index + 1, 0);
    this.#words = words;
    this.#index = index;
    Atomics.store(words, index, this.#accepted);
    Atomics.store(words, index + 1, this.#open);
  }

  hide(): void {
    this.#words = undefined;
  }

  /** Counts anew: what is open now was accepted now. */
  restart(): void {
    this.#words = undefined;
    this.#accepted = this.#open;
  }
}

export class BoardCounts {
  readonly #tallies = new Set<Tally>();
  /** Tallies of sockets that are gone, whose connections may still be open. */
  readonly #retired = new Set<Tally>();
  #words: Int32Array | undefined;
  #heartbeat: Disposable | undefined;

  /** Whether the dispatcher has given this worker a board. */
  get hasBoard(): boolean {
    return this.#words !== undefined;
  }

  /** How many open connections no board shows. */
  get unseen(): number {
    let unseen = 0;
    for (const tally of this.#tallies) if (!tally.isShown) unseen += tally.open;
    return unseen;
  }

  /**
   * Shows everything on this board from now on: each count at the place that it had on the board before.
   * @param descriptor of the board, owned from here on; undefined when it did not arrive
   * @returns false when there is no board any more
   */
  receive(descriptor: Descriptor | undefined): boolean {
    using given = descriptor;
    const board = given && mapped(given);
    if (!board) {
      this.hide();
      return false;
    }
    const { words } = board;
    for (const tally of this.#tallies) if (tally.isShown) tally.showAt(words, tally.index);
    this.#words = words;
    this.#heartbeat = beat(board);
    return true;
  }

  /** The dispatcher is gone. The next one learns what is open now, and what is accepted from now on. */
  restart(): void {
    this.hide();
    for (const tally of this.#tallies) tally.restart();
  }

  /** Shows nothing any more: the dispatcher is gone, or did not get a board through. */
  hide(): void {
    for (const tally of this.#tallies) tally.hide();
    this.#words = undefined;
    this.#heartbeat?.[Symbol.dispose]();
    this.#heartbeat = undefined;
  }

  /** The tally of one more listening socket. */
  add(): Tally {
    this.#forgetEmpty();
    const tally = new Tally();
    this.#tallies.add(tally);
    return tally;
  }

  /** Shows a tally at this place, if there is a board. The dispatcher has given the place to no other socket. */
  place(tally: Tally, place: number): void {
    if (!this.#words) return;
    const index = FIRST_PLACE + PLACE_SIZE * place;
    if (tally.isShown && tally.index === index) return;
    // The place may have been that of a socket that is gone.
    for (const other of this.#tallies) if (other.isShown && other.index === index) other.hide();
    tally.showAt(this.#words, index);
  }

  /** The socket of a tally is gone. Its connections count until they are closed. */
  retire(tally: Tally): void {
    this.#retired.add(tally);
    this.#forgetEmpty();
  }

  #forgetEmpty(): void {
    for (const tally of this.#retired) {
      if (tally.open > 0) continue;
      this.#retired.delete(tally);
      this.#tallies.delete(tally);
    }
  }
}

/** @returns undefined when this process cannot use the board */
function mapped(descriptor: Descriptor): Board | undefined {
  try {
    return Board.map(descriptor);
  } catch (error) {
    if (!(error instanceof PassfdError)) throw error;
    process.emitWarning(`The dispatcher's board cannot be used: ${error.message}`, 'PassfdWarning');
    return undefined;
  }
}
