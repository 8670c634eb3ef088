// When a worker reports what it has open or closed: each report wakes the dispatcher, so none is sent before it matters.
import { encodeClosed, encodeJson } from '../handoff/index.js';

/**
 * Delay of a report of closed connections while neither room nor the end of a drain depends on it. A report for each
 * connection would cost more than everything else that is done for the connection.
 */
const CLOSED_DELAY_MS = 10;

/** Delay of the report that the last connection of a standalone server is closed. */
const HOLDING_DELAY_MS = 10;

/** Reports the total of closed connections. */
export class ClosedReports {
  readonly #send: (frame: Buffer) => void;
  #closed = 0;
  #reported = 0;
  /** Cancels the scheduled report; undefined while none is scheduled. */
  #cancel: (() => void) | undefined;
  #isLimited: boolean;
  #isDraining = false;
  readonly #report = (): void => {
    this.#flush();
  };

  /**
   * @param isLimited whether the worker has a capacity, so that its room depends on the total
   * @param send sends a frame, unless the channel is closed
   */
  constructor(isLimited: boolean, send: (frame: Buffer) => void) {
    this.#isLimited = isLimited;
    this.#send = send;
  }

  /** Counts one more closed connection. The total goes out with the next ADOPTED, or by itself after a short delay. */
  note(): void {
    this.#closed++;
    if (this.#cancel) return;
    if (this.#isLimited || this.#isDraining) {
      const immediate = setImmediate(this.#report);
      this.#cancel = () => {
        clearImmediate(immediate);
      };
    } else {
      const timer = setTimeout(this.#report, CLOSED_DELAY_MS).unref();
      this.#cancel = () => {
        clearTimeout(timer);
      };
    }
  }

  /** Whether the worker's room depends on the total from now on. */
  limit(isLimited: boolean): void {
    this.#isLimited = isLimited;
    if (isLimited) this.#flush();
  }

  /** The end of a drain depends on the total from now on. */
  drain(): void {
    this.#isDraining = true;
    this.#flush();
  }

  /** The report that is due, for a caller that sends it with another message; undefined when none is due. */
  take(): Buffer | undefined {
    if (this.#closed === this.#reported) return undefined;
    this.#reported = this.#closed;
    return encodeClosed(this.#closed);
  }

  #flush(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    const frame = this.take();
    if (frame) this.#send(frame);
  }
}

/** Reports whether standalone servers have connections open. An open one is reported at once, and their end a little later. */
export class HoldingReports {
  readonly #send: (frame: Buffer) => void;
  #isHolding = false;
  #reported = false;
  #timer: NodeJS.Timeout | undefined;
  /** Whether the dispatcher knows this message. Earlier releases do not. */
  #isEnabled = false;

  constructor(send: (frame: Buffer) => void) {
    this.#send = send;
  }

  /** Call this when the welcome says that the dispatcher knows the message. */
  enable(): void {
    this.#isEnabled = true;
  }

  set(isHolding: boolean): void {
    this.#isHolding = isHolding;
    if (!this.#isEnabled || isHolding === this.#reported) return;
    if (isHolding) this.#report();
    else {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#report();
      }, HOLDING_DELAY_MS);
    }
  }

  /** Reports nothing more. */
  close(): void {
    this.#isEnabled = false;
    clearTimeout(this.#timer);
  }

  #report(): void {
    if (this.#isHolding === this.#reported) return;
    this.#reported = this.#isHolding;
    this.#send(encodeJson({ type: 'holding', on: this.#isHolding }));
  }
}
