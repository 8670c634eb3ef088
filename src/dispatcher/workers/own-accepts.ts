// OwnAccepts: what a worker accepts by itself: its board, the places of listeners there, and where it was told to watch.
import type { Descriptor, StreamSocket } from '../../fd/index.js';
import { encodeJson } from '../../handoff/index.js';
import type { Listener } from '../listener.js';
import type { PassfdWorkerState } from '../succession/worker-state.js';
import type { Custodian } from './custodian.js';
import type { Outlet } from './outlet.js';

/** The page of memory that the worker writes. Its words may be anything: they are read as counts, and never trusted as more. */
export interface Page extends Disposable {
  readonly words: Int32Array;
  /** The present time as the worker writes it, in milliseconds. */
  time(): number;
}

/** Words of the page: see `docs/protocol.md` ("Direct accept"). */
const WOKE = 0;
const TURNS = 1;
const FIRST_PLACE = 16;
const WORDS_PER_PLACE = 4;
const PLACES = 252;

/** Counts of 32 bits go round. */
const ROUND = 2 ** 32;

/** No worker accepts so many between two looks: the count began anew. */
const HALF_ROUND = 2 ** 31;

/** Time until a worker that could not watch is asked again. It had no free descriptor. */
const UNWATCHED_PAUSE_MS = 10_000;

interface Place {
  readonly number: number;
  /** Undefined when it is closed. Its connections may be open. */
  listener: Listener | undefined;
  /** Whether the worker watches, as far as is known. */
  isOn: boolean;
  /** Whether this dispatcher has said so. */
  isTold: boolean;
  /** The count of accepted connections that was read last. */
  seen: number;
  /** Open connections, while the page does not tell. */
  open: number;
}

type Accepted = (listener: Listener | undefined, count: number) => void;

type OwnState = Pick<PassfdWorkerState, 'direct' | 'watches' | 'acceptedAlone'>;

export class OwnAccepts {
  /** Whether the worker can accept by itself at all. */
  readonly isAble: boolean;
  readonly #outlet: Outlet;
  readonly #custodian: Custodian;
  readonly #channel: Pick<StreamSocket, 'unreadBytes'>;
  /** Whether the worker watches before it is told to: no dispatcher was there. */
  readonly #isReturning: boolean;
  readonly #places: Place[] = [];
  /** Those of open listeners. A worker can have many, and each look asks for all. */
  readonly #placeOf = new Map<Listener, Place>();
  /** Until when the worker is not asked to watch, by listener. */
  readonly #unwatched = new Map<Listener, number>();
  #page: Page | undefined;
  #accepted: number;
  /** Whether the worker may ever have watched for this or an earlier dispatcher. */
  #hasWatched: boolean;
  /** False while the message that has it drain waits for the channel. */
  #isDrainSent = true;
  /** The turns of its loop when it had read that message. */
  #readAtTurn: number | undefined;
  #hasStopped = false;

  /**
   * @param state of a new worker, or as another generation had it
   */
  constructor(
    state: OwnState & { readonly isReturning: boolean },
    outlet: Outlet,
    custodian: Custodian,
    channel: Pick<StreamSocket, 'unreadBytes'>,
  ) {
    const { direct = false, watches = [], acceptedAlone = 0, isReturning } = state;
    this.isAble = direct;
    this.#isReturning = direct && isReturning;
    this.#outlet = outlet;
    this.#custodian = custodian;
    this.#channel = channel;
    this.#accepted = acceptedAlone;
    this.#hasWatched = this.#isReturning || watches.length > 0;
    for (const { place: number, on, accepted, open } of watches) {
      this.#places.push({ number, listener: undefined, isOn: on, isTold: false, seen: accepted, open });
    }
  }

  /** Goes on where another generation was. */
  restore({ watches = [] }: OwnState, listeners: ReadonlyMap<number, Listener>): void {
    for (const { place: number, listener } of watches) {
      const place = this.#places.find((each) => each.number === number);
      if (!place || listener === undefined) continue;
      place.listener = listeners.get(listener);
      if (place.listener) this.#placeOf.set(place.listener, place);
    }
  }

  state(): OwnState {
    return {
      direct: this.isAble,
      acceptedAlone: this.#accepted,
      watches: this.#places.map((place) => ({
        place: place.number,
        listener: place.listener?.id,
        on: place.isOn,
        accepted: place.seen,
        open: this.#openAt(place),
      })),
    };
  }

  /** Whether the worker has connections, or accepts, from before this dispatcher. */
  get hasPast(): boolean {
    return this.#hasWatched;
  }

  get hasPage(): boolean {
    return this.#page !== undefined;
  }

  /** Connections that the worker has ever accepted by itself, as far as was read. */
  get accepted(): number {
    return this.#accepted;
  }

  /** Connections of these that are open. */
  get open(): number {
    const isShown = this.turns > 0;
    let open = 0;
    for (const place of this.#places) open += isShown ? this.#shownAt(place) : place.open;
    return open;
  }

  /** Counts the turns of the worker's event loop. 0: the worker has not taken the page yet. */
  get turns(): number {
    return this.#read(TURNS);
  }

  /** Whether the worker's event loop waits for events. */
  get isAsleep(): boolean {
    return this.#read(WOKE) === 0;
  }

  /** For how long the event loop is in its present turn, in milliseconds. Undefined without a page. */
  get loopDelayMs(): number | undefined {
    if (!this.#page) return undefined;
    const woke = this.#read(WOKE);
    const time = (this.#page.time() - woke) & (HALF_ROUND - 1);
    // The worker may have woken up after the time was read.
    return woke === 0 || time > HALF_ROUND / 2 ? 0 : time;
  }

  /** Whether the worker watches anywhere. */
  get isWatching(): boolean {
    return this.#places.some(({ isOn, listener }) => isOn && listener !== undefined);
  }

  watches(listener: Listener): boolean {
    return this.#placeOf.get(listener)?.isOn ?? this.#isReturning;
  }

  /** Whether the worker can be told to watch there. Otherwise its connections are handed off. */
  accepts(listener: Listener): boolean {
    return (
      this.#page !== undefined &&
      this.#custodian.keeps(listener) &&
      !this.#unwatched.has(listener) &&
      (this.#placeOf.get(listener) !== undefined || this.#freePlace() !== undefined)
    );
  }

  /** Gives the worker a page. It copies its counts there. @param descriptor owned from now on */
  equip(page: Page, descriptor: Descriptor): void {
    this.#page?.[Symbol.dispose]();
    this.#page = page;
    const close = (): void => {
      descriptor.close();
    };
    this.#outlet.send(encodeJson({ type: 'board' }), [descriptor]).then(close, close);
  }

  /** Tells the worker whether to watch, unless it was told. */
  watch(listener: Listener, on: boolean): void {
    const place = this.#placeOf.get(listener) ?? this.#takePlace(listener);
    if (!place || (place.isOn === on && place.isTold)) return;
    place.isOn = on;
    place.isTold = true;
    if (on) this.#hasWatched = true;
    this.#say(place);
  }

  /** Repeats what the worker was told, so that its event loop wakes up if it can. */
  call(): void {
    const place = this.#places.find(({ isOn, listener }) => isOn && listener);
    if (place) this.#say(place);
  }

  /** The listener is being closed. */
  leave(listener: Listener): void {
    this.#unwatched.delete(listener);
    const place = this.#placeOf.get(listener);
    if (!place) return;
    this.watch(listener, false);
    place.listener = undefined;
    this.#placeOf.delete(listener);
  }

  /** The worker cannot watch there. */
  noteUnwatched(id: number, now: number): void {
    const place = this.#places.find(({ listener }) => listener?.id === id);
    if (!place?.listener || !place.isOn) return;
    place.isOn = false;
    this.#unwatched.set(place.listener, now + UNWATCHED_PAUSE_MS);
  }

  /** @returns listeners that the worker may be asked to watch again. It needs their sockets anew */
  endPauses(now: number): Listener[] {
    if (this.#unwatched.size === 0) return [];
    const over = [...this.#unwatched].filter(([, until]) => until <= now).map(([listener]) => listener);
    for (const listener of over) this.#unwatched.delete(listener);
    return over;
  }

  /** Reads how many connections were accepted. @param accepted gets those that were not read before */
  count(accepted: Accepted): void {
    // Until the worker has taken the page, the counts there say nothing.
    if (this.turns === 0) return;
    for (const place of this.#places) {
      const seen = this.#read(firstWord(place));
      if (seen === place.seen) continue;
      const more = (seen - place.seen + ROUND) % ROUND;
      const count = more < HALF_ROUND ? more : seen;
      place.seen = seen;
      this.#accepted += count;
      accepted(place.listener, count);
    }
  }

  /** The worker is told to drain. @param sent resolves when the channel has the message */
  noteDrain(sent: Promise<unknown>): void {
    this.#isDrainSent = false;
    const noteSent = (): void => {
      this.#isDrainSent = true;
    };
    sent.then(noteSent, noteSent);
  }

  /** The worker has said itself that it takes nothing more. */
  noteStopped(): void {
    this.#hasStopped = true;
  }

  /**
   * Whether a worker that was told to drain may still accept a connection, since it has not read that. Nothing answers a
   * drain, so this looks at the channel first, and at a later look whether the loop has gone round since, or sleeps.
   */
  lookWhetherStopped(): boolean {
    if (this.#hasStopped || !this.#hasWatched) return true;
    if (this.#readAtTurn === undefined) {
      if (this.#isDrainSent && this.#channel.unreadBytes === 0) this.#readAtTurn = this.turns;
    } else if (this.turns !== this.#readAtTurn || this.isAsleep) {
      this.#hasStopped = true;
    }
    return this.#hasStopped;
  }

  /** Whether a draining worker is known to accept nothing more. */
  get hasStopped(): boolean {
    return this.#hasStopped || !this.#hasWatched;
  }

  close(): void {
    this.#page?.[Symbol.dispose]();
    this.#page = undefined;
  }

  #say({ number: place, listener, isOn: on }: Place): void {
    if (listener) this.#outlet.post(encodeJson({ type: 'watch', listener: listener.id, on, place }));
  }

  #takePlace(listener: Listener): Place | undefined {
    const number = this.#freePlace();
    if (number === undefined) return undefined;
    const former = this.#places.findIndex((place) => place.number === number);
    if (former >= 0) this.#places.splice(former, 1);
    const seen = this.turns === 0 ? 0 : this.#read(FIRST_PLACE + WORDS_PER_PLACE * number);
    const place = { number, listener, isOn: this.#isReturning, isTold: !this.#isReturning, seen, open: 0 };
    this.#places.push(place);
    this.#placeOf.set(listener, place);
    return place;
  }

  /** A number that was never used; when there is none, that of a closed listener without open connections. */
  #freePlace(): number | undefined {
    for (let number = this.#places.length; number < PLACES; number++) {
      if (!this.#places.some((place) => place.number === number)) return number;
    }
    return this.#places.find((place) => !place.listener && this.#openAt(place) === 0)?.number;
  }

  #openAt(place: Place): number {
    return this.turns > 0 ? this.#shownAt(place) : place.open;
  }

  /** What the page shows as open. A page that the worker has not taken shows nothing. */
  #shownAt(place: Place): number {
    place.open = Math.max(0, this.#read(firstWord(place) + 1) | 0);
    return place.open;
  }

  /** A word as a number from 0. */
  #read(word: number): number {
    return this.#page ? Atomics.load(this.#page.words, word) >>> 0 : 0;
  }
}

function firstWord({ number }: Place): number {
  return FIRST_PLACE + WORDS_PER_PLACE * number;
}
