// PassedOn: connections that the app gave to other processes. Each counts as open until the kernel finds no process that holds it.
import { Descriptor } from '../fd/index.js';
import { SocketDiagnostics, type SocketIdentity } from '../fd/internal.js';

/**
 * The pause between rounds of questions to the kernel: when only the load depends on the answers, and in a drain. Rounds
 * that take long have longer pauses, so that questions take at most this share of the time.
 */
const AT_LEISURE = { pauseMs: 500, share: 0.01 };
const IN_A_DRAIN = { pauseMs: 50, share: 0.1 };

/** Most questions in a turn of the event loop. Each is a system call. */
const MAX_QUESTIONS = 64;

interface Held {
  readonly identity: SocketIdentity;
  readonly onClosed: () => void;
}

export class PassedOn {
  readonly #held = new Set<Held>();
  /** Open while something is held. */
  #diagnostics: SocketDiagnostics | undefined;
  #pace = AT_LEISURE;
  #timer: NodeJS.Timeout | undefined;
  /** Whether a round of questions is running. */
  #isAsking = false;

  /**
   * Waits until no process has a connection open any more.
   * @param identity from before this process closed its own descriptor
   * @param onClosed called once. At once when no other process holds it, and when the kernel cannot be asked
   */
  watch(identity: SocketIdentity, onClosed: () => void): void {
    this.#diagnostics ??= SocketDiagnostics.open();
    if (this.#diagnostics?.isHeld(identity) === true) {
      this.#held.add({ identity, onClosed });
      this.#schedule(this.#pace.pauseMs);
    } else {
      this.#closeIfEmpty();
      onClosed();
    }
  }

  /** A drain waits for the answers from now on. A second call does nothing. */
  hurry(): void {
    if (this.#pace === IN_A_DRAIN) return;
    this.#pace = IN_A_DRAIN;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#schedule(0);
  }

  #schedule(pauseMs: number): void {
    if (this.#held.size === 0 || this.#isAsking) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#isAsking = true;
      this.#ask(this.#held.values(), this.#held.size, 0);
    }, pauseMs).unref();
  }

  /**
   * Asks about the connections that were held when the round began, a part of them in each turn of the event loop.
   * @param count the number of questions that are left
   * @param tookMs the time that the round has taken so far
   */
  #ask(round: IterableIterator<Held>, count: number, tookMs: number): void {
    const begin = performance.now();
    const questions = Math.min(count, MAX_QUESTIONS);
    const closed: Held[] = [];
    for (let asked = 0; asked < questions; asked++) {
      const { value, done } = round.next() as IteratorResult<Held, undefined>;
      if (done === true) break;
      // Also when the kernel cannot be asked any more: otherwise the connection would count as open for ever.
      if (this.#diagnostics?.isHeld(value.identity) !== true) closed.push(value);
    }
    for (const held of closed) this.#held.delete(held);
    const spentMs = tookMs + performance.now() - begin;
    if (count > questions) {
      setImmediate(() => {
        this.#ask(round, count - questions, spentMs);
      }).unref();
    } else {
      this.#isAsking = false;
      this.#closeIfEmpty();
      this.#schedule(Math.max(this.#pace.pauseMs, spentMs / this.#pace.share));
    }
    for (const { onClosed } of closed) onClosed();
  }

  #closeIfEmpty(): void {
    if (this.#held.size > 0 || this.#isAsking) return;
    this.#diagnostics?.close();
    this.#diagnostics = undefined;
  }
}

/** The kernel's identity of a connection; undefined when it is of a kind that the kernel cannot be asked about. */
export function identify(fd: number): SocketIdentity | undefined {
  const lent = new Descriptor(fd);
  try {
    return SocketDiagnostics.identityOf(lent);
  } finally {
    lent.release();
  }
}
