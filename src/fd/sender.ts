// The sending half of a stream socket: messages that the kernel does not take at once wait in the order of the calls.
import { setImmediate } from 'node:timers/promises';

import { whenAborted } from './abort.js';
import { closeAll, Descriptor } from './descriptor.js';
import { MAX_DESCRIPTORS, native } from './native.js';
import { borrow, duplicateAll, type Loan, type Passable } from './passable.js';
import type { Handoff, SendOptions } from './stream-socket.js';
import { EAGAIN, EBADF, ENOBUFS, ENOMEM, systemError } from './system-error.js';
import { OPERATIONS_PER_TURN } from './turns.js';

/** Pauses between two tries of a send, where the kernel has no event for "now it works" (see `passfd_send`). */
const FIRST_RETRY_MS = 1;
const LAST_RETRY_MS = 100;

/** A send fails when the kernel had no memory for it for this long. */
const MAX_WITHOUT_MEMORY_MS = 10_000;

/**
 * After this time a warning reports that too many descriptors of this user are in flight. The send itself waits without a
 * limit, as with a full socket, since it can go on as soon as others receive.
 */
const UNUSUAL_WAIT_MS = 5_000;

interface Waiting {
  readonly bytes: Uint8Array;
  offset: number;
  /** Duplicates, so that the caller may close its own descriptors meanwhile. Empty once they are sent. */
  descriptors: Descriptor[];
  /** The caller's own descriptors, if it keeps them open; then there are no duplicates. Empty once they are sent. */
  kept: readonly Passable[];
  loans: readonly Loan[];
  readonly handoff: Handoff | undefined;
  resolve(): void;
  reject(reason: unknown): void;
  /** Removes the listener from the signal. */
  detach(): void;
}

/** A send that waits, or the rest of it. */
export interface Unsent {
  readonly bytes: Uint8Array;
  /** They belong to the first byte. Other passables, such as a `net.Socket`, cannot be given to another process here. */
  readonly descriptors: readonly Descriptor[];
  /** Stands for `count` connections, which the sender of hand-offs has. They are not among the descriptors. */
  readonly handoff?: (Handoff & { readonly count: number }) | undefined;
}

// One call at a time uses it: the call into the addon is done with it when it returns.
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
  /** How long the first message has waited for `#retry` while the kernel gave the same `#lastResult` each time. */
  #waitedMs = 0;
  #lastResult = 0;
  #hasWarned = false;
  /** The error that ended the stream. */
  #failure: { readonly error: unknown } | undefined;
  /** The error that ended hand-offs. Positions count what was sent, so after one unsent hand-off none may be sent. */
  #handoffsEnd: { readonly error: unknown; readonly unsentPosition: number | undefined } | undefined;
  #isReferenced = true;
  #isFrozen = false;
  readonly #whenFlushed: (() => void)[] = [];

  /** @param onWaiting called when `isWaiting` may have changed, except by `continue` */
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

  /** Position of the first hand-off that is not sent; undefined when all are sent. */
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
   * Rejects the hand-offs that wait, and every later one. A message that is sent in part is finished; other messages are sent.
   * @param failed position of a hand-off that failed without waiting
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

  /** Whether the retry timer keeps the process alive. Default: true. */
  setReferenced(on: boolean): void {
    this.#isReferenced = on;
    if (on) this.#retry?.ref();
    else this.#retry?.unref();
  }

  /** Resolves when every waiting send was sent or rejected. */
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

  /** The sends that wait, in order. */
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

  /** Sends the first `count` descriptors of `outgoing`. */
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
      // Checked once more: if the caller closed a descriptor, its number may be another descriptor's now.
      borrow(waiting.kept, outgoing);
      const count = descriptors.length + waiting.kept.length;
      sent = this.#sendNow(bytes, offset, count, waiting.handoff);
    } catch (error) {
      // The caller changed the bytes or the connection. Other messages are affected only if half of this one was sent.
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
      // The receiver has no part of this hand-off, so the stream can go on without it.
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

  /** A stream that failed once is over: no message may follow half a message or a lost one. */
  #fail(error: unknown): false {
    this.#failure = { error };
    this.close(error);
    return false;
  }

  /** Rejects a send of which no byte was sent. */
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

  /** Waits with duplicates of the first `count` descriptors of `outgoing`. */
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
        // Half a message cannot be cancelled.
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

  /** The kernel has no event for this, so it tries again, with longer and longer pauses. */
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

  /** Resolves after a turn of the event loop, for an operation that completed at once. */
  async #nextTurn(): Promise<void> {
    await setImmediate();
    this.#turnsLeft = OPERATIONS_PER_TURN;
  }

  #error(result: number, descriptors = 0): Error {
    const what = descriptors > 0 ? 'a message with descriptors, for ' : '';
    let hint;
    if (result === EBADF && descriptors > 0) hint = 'one of its descriptors is not open';
    if (result === ENOMEM) hint = 'the kernel has had no memory for it for a while';
    const subject = { descriptor: `${what}the socket with descriptor ${this.#fd}` };
    return systemError(result, 'sendmsg', subject, hint);
  }
}

/** Whether the send may work later, without an event from the kernel. */
function isForLater(result: number): boolean {
  return result === ENOBUFS || result === ENOMEM;
}

/** Whether no hand-off may be sent after this one. The connections go with the first byte of their message. */
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
