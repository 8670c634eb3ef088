// Signals: handles the signals of a service, or passes them on to its next generation, until the process exits.

/** A first one stops the service. A second one stops it at once. */
const STOPPING = ['SIGTERM', 'SIGINT'] as const;
type Stopping = (typeof STOPPING)[number];

/**
 * Signals that come within this time after a request are the same request: npm and bash pass on signals that the process
 * group has got already, as a second signal a moment later.
 */
export const SAME_REQUEST_MS = 500;

export interface SignalHandlers {
  stop(signal: NodeJS.Signals): void;
  /** A signal that is the same request, and changes nothing. */
  repeated(signal: NodeJS.Signals): void;
  SIGHUP(): void;
  SIGUSR2(): void;
}

/** The process as `Signals` uses it. */
export interface SignalHost {
  /** Milliseconds of a monotonic clock. */
  now(): number;
  /** Sends the signal to this process. */
  raise(signal: NodeJS.Signals): void;
}

const realHost: SignalHost = {
  now: () => performance.now(),
  raise: (signal) => {
    process.kill(process.pid, signal);
  },
};

export class Signals implements Disposable {
  /** Resolves at the second request to stop. */
  readonly second: Promise<void>;
  readonly #handlers: SignalHandlers;
  readonly #host: SignalHost;
  readonly #listeners: readonly (readonly [NodeJS.Signals, () => void])[];
  #onSecond: () => void = () => undefined;
  #requests = 0;
  /** When the last request came. */
  #askedAt: number | undefined;
  /** When the generation before got the first request, which it will still pass on to this process. */
  #askedBeforeAt: number | undefined;
  /** Whether this process has got that request already. */
  #isCounted = false;
  #passOn: ((signal: NodeJS.Signals) => void) | undefined;
  #isOver = false;

  constructor(handlers: SignalHandlers, host = realHost) {
    this.#handlers = handlers;
    this.#host = host;
    this.second = new Promise((resolve) => {
      this.#onSecond = resolve;
    });
    this.#listeners = [
      ...STOPPING.map(
        (signal) =>
          [
            signal,
            () => {
              this.#askToStop(signal);
            },
          ] as const,
      ),
      ...(['SIGHUP', 'SIGUSR2'] as const).map(
        (signal) =>
          [
            signal,
            () => {
              this.#handle(signal);
            },
          ] as const,
      ),
    ];
    for (const [signal, listener] of this.#listeners) process.on(signal, listener);
  }

  /** Whether there was a second request to stop. */
  get isStoppedAtOnce(): boolean {
    return this.#requests > 1;
  }

  /** Milliseconds since the first request to stop, if there was one. */
  get stoppingForMs(): number | undefined {
    return this.#requests > 0 && this.#askedAt !== undefined
      ? Math.round(this.#host.now() - this.#askedAt)
      : undefined;
  }

  /** Announces the request that the generation before got this long ago. */
  expectRequest(stoppingForMs: number): void {
    // Both generations get a signal to their process group.
    if (this.#requests > 0) this.#isCounted = true;
    else this.#askedBeforeAt = this.#host.now() - stoppingForMs;
  }

  /** Passes signals on to another process from now on. A second call replaces the receiver. */
  passOnTo(receiver: (signal: NodeJS.Signals) => void): void {
    this.#passOn = receiver;
  }

  /** The process is about to exit. A new request ends it as if the signal had no handler. Other signals are ignored. */
  end(): void {
    this.#isOver = true;
  }

  [Symbol.dispose](): void {
    for (const [signal, listener] of this.#listeners) process.off(signal, listener);
  }

  #askToStop(signal: Stopping): void {
    const now = this.#host.now();
    const isSame = this.#isCounted || (this.#askedAt !== undefined && now - this.#askedAt < SAME_REQUEST_MS);
    this.#isCounted = false;
    if (!isSame) {
      this.#askedAt = this.#askedBeforeAt ?? now;
      this.#askedBeforeAt = undefined;
    }
    if (this.#isOver) {
      if (isSame) return;
      this[Symbol.dispose]();
      this.#host.raise(signal);
    } else if (this.#passOn) {
      // The receiver finds out itself whether it is the same request.
      this.#passOn(signal);
    } else if (isSame) {
      this.#handlers.repeated(signal);
    } else if (++this.#requests === 1) {
      this.#handlers.stop(signal);
    } else {
      this.#onSecond();
    }
  }

  #handle(signal: 'SIGHUP' | 'SIGUSR2'): void {
    if (this.#isOver) return;
    if (this.#passOn) this.#passOn(signal);
    else this.#handlers[signal]();
  }
}
