// The sending half of a stream socket: what the kernel does not take at once waits, in the order of the calls.
import { setImmediate } from 'node:timers/promises';

import { closeAll, Descriptor } from './descriptor.js';
import { MAX_DESCRIPTORS, native } from './native.js';
import { borrow, duplicateAll, type Loan, type Passable } from './passable.js';
import type { Handoff, SendOptions } from './stream-socket.js';
import { EAGAIN, EBADF, ENOBUFS, ENOMEM, systemError } from './system-error.js';
import { OPERATIONS_PER_TURN, whenAborted } from './turns.js';

/** Wait before a send is tried again that the kernel refused without a way to tell when (see `passfd_send`). */
const FIRST_RETRY_MS = 1;
const LAST_RETRY_MS = 100;

/** A message for which the kernel has no memory for so long fails. */
const MAX_WITHOUT_MEMORY_MS = 10_000;

/**
 * Too many descriptors of this user in flight: that ends when others receive, as with a full socket, so there is no limit.
 * After this time a warning says so.
 */
const UNUSUAL_WAIT_MS = 5_000;

interface Waiting {
  readonly bytes: Uint8Array;
  offset: number;
  /** Duplicates, so that the sender's own may be closed meanwhile. Empty once they are sent. */
  descriptors: Descriptor[];
  /** What stands for them where the sender's own stay open. Empty once they are sent. */
  kept: readonly Passable[];
  loans: readonly Loan[];
  readonly handoff: Handoff | undefined;
  resolve(): void;
  reject(reason: unknown): void;
  /** Takes the listener off the signal. */
  detach(): void;
}

/** One send that has not been made, or the rest of one. */
export interface Unsent {
  readonly bytes: Uint8Array;
  /** They belong to the first of the bytes. Of what is passed, these alone can be handed on. */
  readonly descriptors: readonly Descriptor[];
  /** That so many connections belong there, which whoever sends hand-offs has. They are not among the descriptors. */
  readonly handoff?: (Handoff & { readonly count: number }) | undefined;
}

// One call at a time uses it: no call into the addon returns before it is done with it.
const outgoing = new Int32Array(MAX_DESCRIPTORS);

const sentAtOnce = Promise.resolve();

/** Sends on a descriptor that is lent to it. */
export class Sender {
  readonly #fd: number;
  readonly #onWaiting: () => void;
  readonly #waiting: Waiting[] = [];
  #turnsLeft = OPERATIONS_PER_TURN;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = FIRST_RETRY_MS;
  /** Time that the first message has waited for `#retry`, as long as the kernel gave `#lastResult` each time. */
  #waitedMs = 0;
  #lastResult = 0;
  #hasWarned = false;
  /** What ended the stream for good. */
  #failure: { readonly error: unknown } | undefined;
  /** What ended hand-offs: positions count what was sent, so behind one that was not, none may be sent. */
  #handoffsEnd: { readonly error: unknown; readonly unsentPosition: number | undefined } | undefined;
  #isReferenced = true;
  #isFrozen = false;
  readonly #whenFlushed: (() => void)[] = [];

  /** @param onWaiting called when `isWaiting` may have changed other than by `continue` */
  constructor(fd: number, onWaiting: () => void) {
    this.#fd = fd;
    this.#onWaiting = onWaiting;
  }

  /** Whether anything waits for the socket to become writable. */
  get isWaiting(): boolean {
    return this.#waiting.length > 0 && !this.#retry && !this.#isFrozen;
  }

  /** Whether anything is not sent yet. */
  get isBusy(): boolean {
    return this.#waiting.length > 0;
  }

  /** Position of the first hand-off that is not sent; undefined when all are. */
  get unsentPosition(): number | undefined {
    return this.#handoffsEnd?.unsentPosition ?? this.#waiting.find(isUnsentHandoff)?.handoff?.position;
  }

  send(bytes: Uint8Array, passables: readonly Passable[], options: SendOptions): Promise<void> {
    const { handoff } = options;
    if (!handoff || handoff.isLone) return this.#send(bytes, passables, options);
    if (this.#handoffsEnd) throw this.#handoffsEnd.error;
    try {
      return this.#send(bytes, passables, options);
    } catch (error) {
      this.endHandoffs(error, handoff.position);
      throw error;
    }
  }

  /**
   * Sends no hand-off any more, and rejects those that wait. What is sent in part is finished, and everything else is sent.
   * @param failed position of one that does not wait
   */
  endHandoffs(error: unknown, failed?: number): void {
    if (this.#handoffsEnd) return;
    this.#handoffsEnd = { error, unsentPosition: this.unsentPosition ?? failed };
    for (const waiting of this.#waiting.filter(isUnsentHandoff)) this.#drop(waiting, error);
    this.#noteFlushed();
    this.#onWaiting();
  }

  #send(
    bytes: Uint8Array,
    passables: readonly Passable[],
    { blocking, handoff, kept = handoff !== undefined, signal }: SendOptions,
  ): Promise<void> {
    signal?.throwIfAborted();
    if (this.#failure) throw this.#failure.error;
    const count = passables.length;
    const loans = borrow(passables, outgoing, blocking);
    const wait = (): Promise<void> =>
      kept
        ? this.#wait(bytes, 0, [], loans, signal, passables, handoff)
        : this.#waitWith(bytes, count, loans, signal);
    try {
      if (this.#waiting.length > 0 || this.#isFrozen) return wait();
      const sent = this.#sendNow(bytes, 0, count, handoff);
      if (sent < 0) {
        if (sent !== EAGAIN) {
          if (!isForLater(sent)) throw this.#error(sent, count);
          this.#retryLater();
        }
        return wait();
      }
      for (const loan of loans) loan.sent();
      if (sent < bytes.length) return this.#wait(bytes, sent, [], [], signal);
      return this.#turnsLeft-- > 0 ? sentAtOnce : this.#nextTurn();
    } catch (error) {
      for (const loan of loans) loan.failed();
      throw error;
    }
  }

  /** Whether trying again keeps the process alive; it does from the start. */
  setReferenced(on: boolean): void {
    this.#isReferenced = on;
    if (on) this.#retry?.ref();
    else this.#retry?.unref();
  }

  /** Resolves when nothing waits any more, sent or rejected. */
  flushed(): Promise<void> {
    if (!this.isBusy) return Promise.resolve();
    return new Promise((resolve) => this.#whenFlushed.push(resolve));
  }

  /** Sends nothing until `thaw`. */
  freeze(): void {
    this.#isFrozen = true;
    clearTimeout(this.#retry);
    this.#retry = undefined;
  }

  /** What waits, in its order. */
  unsent(): Unsent[] {
    return this.#waiting.map(({ bytes, offset, descriptors, kept, handoff }) => {
      const rest = bytes.subarray(offset);
      if (handoff && kept.length > 0) {
        return { bytes: rest, descriptors: [], handoff: { ...handoff, count: kept.length } };
      }
      return {
        bytes: rest,
        descriptors: [...descriptors, ...kept].filter((one) => one instanceof Descriptor),
      };
    });
  }

  thaw(): void {
    this.#isFrozen = false;
    this.continue();
  }

  /** The socket is writable, or it is time to try again. */
  continue(): void {
    if (this.#isFrozen) return;
    this.#turnsLeft = OPERATIONS_PER_TURN;
    for (let waiting = this.#waiting[0]; waiting && !this.#retry; waiting = this.#waiting[0]) {
      if (!this.#continueWith(waiting)) return;
    }
    this.#noteFlushed();
  }

  close(reason: unknown): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    for (const waiting of this.#waiting.splice(0)) settle(waiting, { error: reason });
    this.#noteFlushed();
  }

  /** With the first `count` of `outgoing`. */
  #sendNow(bytes: Uint8Array, offset: number, count: number, handoff: Handoff | undefined): number {
    const length = bytes.length - offset;
    if (!handoff) return native.send(this.#fd, bytes, offset, length, outgoing, count);
    const { position, listener } = handoff;
    return native.sendHandoff(this.#fd, bytes, offset, length, outgoing, count, position, listener);
  }

  /** @returns false when it has to wait */
  #continueWith(waiting: Waiting): boolean {
    const { bytes, offset, descriptors } = waiting;
    for (const [index, { fd }] of descriptors.entries()) outgoing[index] = fd;
    let sent;
    try {
      for (const loan of waiting.loans) loan.check?.();
      // Once more: one that was closed all the same must not be sent as whoever has its number now.
      borrow(waiting.kept, outgoing);
      const count = descriptors.length + waiting.kept.length;
      sent = this.#sendNow(bytes, offset, count, waiting.handoff);
    } catch (error) {
      // Its owner changed what was to be sent, the bytes or the connection. Only half a message concerns the others.
      if (offset > 0) return this.#fail(error);
      this.#giveUp(waiting, error);
      return true;
    }
    if (sent !== this.#lastResult) this.#waitedMs = 0;
    this.#lastResult = sent;
    if (sent === EAGAIN) return false;
    if (sent === ENOBUFS) this.#warnOfWaiting();
    if (sent === ENOBUFS || (sent === ENOMEM && this.#waitedMs < MAX_WITHOUT_MEMORY_MS)) {
      this.#retryLater();
      return false;
    }
    this.#retryMs = FIRST_RETRY_MS;
    this.#hasWarned = false;
    if (sent < 0) {
      const error = this.#error(sent);
      // Of a hand-off nothing is sent by then that its receiver could miss the rest of.
      if (!waiting.handoff || waiting.kept.length === 0) return this.#fail(error);
      this.#giveUp(waiting, error);
      return true;
    }
    waiting.offset += sent;
    for (const loan of waiting.loans) loan.sent();
    waiting.loans = [];
    waiting.kept = [];
    closeAll(waiting.descriptors.splice(0));
    if (waiting.offset === bytes.length) {
      this.#waiting.shift();
      settle(waiting);
    }
    return true;
  }

  /** A stream that failed once is over: what comes behind must not follow on half a message, or on a lost one. */
  #fail(error: unknown): false {
    this.#failure = { error };
    this.close(error);
    return false;
  }

  /** Of one of which nothing is sent. */
  #giveUp(waiting: Waiting, error: unknown): void {
    if (isUnsentHandoff(waiting)) this.endHandoffs(error);
    else this.#drop(waiting, error);
  }

  #drop(waiting: Waiting, error: unknown): void {
    const index = this.#waiting.indexOf(waiting);
    if (index === 0) this.#waitedMs = 0;
    this.#waiting.splice(index, 1);
    settle(waiting, { error });
  }

  /** With duplicates of the first `count` of `outgoing`. */
  #waitWith(
    bytes: Uint8Array,
    count: number,
    loans: readonly Loan[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const duplicates = duplicateAll(outgoing, count);
    for (const loan of loans) loan.wait?.(duplicates);
    return this.#wait(bytes, 0, duplicates, loans, signal);
  }

  #wait(
    bytes: Uint8Array,
    offset: number,
    descriptors: Descriptor[],
    loans: readonly Loan[],
    signal: AbortSignal | undefined,
    kept: readonly Passable[] = [],
    handoff?: Handoff,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const detach = whenAborted(signal, (reason) => {
        // Half a message cannot be taken back.
        if (waiting.offset > 0) return;
        this.#giveUp(waiting, reason);
        this.#noteFlushed();
        this.#onWaiting();
      });
      const waiting: Waiting = { bytes, offset, descriptors, kept, loans, handoff, resolve, reject, detach };
      this.#waiting.push(waiting);
      this.#onWaiting();
    });
  }

  /** The kernel does not tell when it takes more, so this asks again, less and less often. */
  #retryLater(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#waitedMs += this.#retryMs;
      this.#retryMs = Math.min(this.#retryMs * 2, LAST_RETRY_MS);
      this.continue();
      this.#onWaiting();
    }, this.#retryMs);
    this.setReferenced(this.#isReferenced);
  }

  #warnOfWaiting(): void {
    if (this.#hasWarned || this.#waitedMs < UNUSUAL_WAIT_MS) return;
    this.#hasWarned = true;
    process.emitWarning(
      'A send waits: too many descriptors of this user are in flight. Receive what was sent, end the processes that ' +
        'do not receive, or raise the limit (ulimit -n).',
      { type: 'PassfdWarning', code: 'ERR_IN_FLIGHT_LIMIT' },
    );
  }

  #noteFlushed(): void {
    if (this.isBusy) return;
    for (const flushed of this.#whenFlushed.splice(0)) flushed();
  }

  /** Ends an operation that was done at once, but only after the event loop had its turn. */
  async #nextTurn(): Promise<void> {
    await setImmediate();
    this.#turnsLeft = OPERATIONS_PER_TURN;
  }

  #error(result: number, descriptors = 0): Error {
    const what = descriptors > 0 ? 'a message with descriptors, for ' : '';
    let hint;
    if (result === EBADF && descriptors > 0) hint = 'one of the descriptors in it is not open';
    if (result === ENOMEM) hint = 'the kernel has no memory for it, and it was tried for a while';
    const subject = { descriptor: `${what}the socket with descriptor ${this.#fd}` };
    return systemError(result, 'sendmsg', subject, hint);
  }
}

/** Whether it is to be tried again, though the kernel does not tell when. */
function isForLater(result: number): boolean {
  return result === ENOBUFS || result === ENOMEM;
}

/** Whether none may be sent behind it. Connections go with the first byte of their message. */
function isUnsentHandoff({ handoff, kept }: Waiting): boolean {
  return handoff !== undefined && handoff.isLone !== true && kept.length > 0;
}

function settle(waiting: Waiting, failure?: { error: unknown }): void {
  waiting.detach();
  if (!failure) {
    waiting.resolve();
  } else {
    for (const loan of waiting.loans) loan.failed();
    waiting.reject(failure.error);
  }
  closeAll(waiting.descriptors);
}
