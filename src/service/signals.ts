// Signals: what a service does on each of them, until its process ends; or they are passed on to its next generation.

/** They ask it to stop; a second one asks it to stop at once. */
const STOPPING = ['SIGTERM', 'SIGINT'] as const;
type Stopping = (typeof STOPPING)[number];

/**
 * Signals that come within this time of a request are the same request: npm and bash pass on what the process group has
 * got already, as another signal a moment later.
 */
export const SAME_REQUEST_MS = 500;

export interface SignalHandlers {
  stop(signal: NodeJS.Signals): void;
  /** One that changes nothing, since it is the same request. */
  repeated(signal: NodeJS.Signals): void;
  SIGHUP(): void;
  SIGUSR2(): void;
}

/** What signals need of the process. */
export interface SignalHost {
  /** In milliseconds, from a clock that nobody sets. */
  now(): number;
  /** Sends this process the signal. */
  raise(signal: NodeJS.Signals): void;
}

const realHost: SignalHost = {
  now: () => performance.now(),
  raise: (signal) => {
    process.kill(process.pid, signal);
  },
};

export class Signals implements Disposable {
  /** Resolves when it is asked a second time to stop. */
  readonly second: Promise<void>;
  readonly #handlers: SignalHandlers;
  readonly #host: SignalHost;
  readonly #listeners: readonly (readonly [NodeJS.Signals, () => void])[];
  #onSecond: () => void = () => undefined;
  #requests = 0;
  /** When the last request came. */
  #askedAt: number | undefined;
  /** When the generation before got the first one, which is still to be passed on to this process. */
  #askedBeforeAt: number | undefined;
  /** Whether this process has got that one as well. */
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

  /** Whether it was asked a second time to stop. */
  get isStoppedAtOnce(): boolean {
    return this.#requests > 1;
  }

  /** How long ago it was asked to stop, if it was. */
  get stoppingForMs(): number | undefined {
    return this.#requests > 0 && this.#askedAt !== undefined
      ? Math.round(this.#host.now() - this.#askedAt)
      : undefined;
  }

  /** The next request is the one that the generation before got so long ago. */
  expectRequest(stoppingForMs: number): void {
    // A signal to a process group comes to both generations.
    if (this.#requests > 0) this.#isCounted = true;
    else this.#askedBeforeAt = this.#host.now() - stoppingForMs;
  }

  /** From now on they are another process's business. A second call names another one. */
  passOnTo(receiver: (signal: NodeJS.Signals) => void): void {
    this.#passOn = receiver;
  }

  /** The service is over, and its process about to end. A new request, and nothing else, ends that as if nobody listened. */
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
      // The receiver has a clock of its own.
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
