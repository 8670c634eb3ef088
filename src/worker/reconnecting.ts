// Reconnecting: when a worker whose dispatcher died tries to reach the next one, and when it gives up.
import { PassfdError, type ErrorCode } from '../fd/index.js';

export interface ReconnectOptions {
  /** How long the worker looks for the next dispatcher, in milliseconds. */
  readonly timeoutMs: number;
  /** Resolves when something suggests that a dispatcher is there, so that the pause may end early. Never rejects. */
  readonly untilChanged: (signal: AbortSignal) => Promise<void>;
  /** Called when the worker looks for no dispatcher any more. */
  readonly close: () => void;
}

/** Pauses between attempts. Each is twice as long as the one before. */
const FIRST_PAUSE_MS = 20;
const LAST_PAUSE_MS = 1_000;

/** The usual failures while no dispatcher is there, or while one dies. */
const expectedCodes: ReadonlySet<ErrorCode> = new Set([
  'ERR_ADDRESS_MISSING',
  'ERR_CONNECTION_REFUSED',
  'ERR_PEER_GONE',
  'ERR_EOF',
]);

export class Reconnecting {
  readonly #options: ReconnectOptions;
  #pauseTimer: NodeJS.Timeout | undefined;
  #isReferenced = false;
  /** The last reason of a dispatcher that did not take this worker back. */
  #lastRefusal: string | undefined;

  constructor(options: ReconnectOptions) {
    this.#options = options;
  }

  /**
   * Attempts again and again to reach a dispatcher.
   * @param attempt a `PassfdError` that it rejects with means: try again later
   * @param isWanted whether to go on; asked before and after each pause
   * @param signal ends a pause
   * @returns what `attempt` resolved to; undefined when the time is over, or `isWanted` says no
   * @throws any other error of `attempt`
   */
  async run<T>(
    attempt: () => Promise<T>,
    isWanted: () => boolean,
    signal: AbortSignal,
  ): Promise<T | undefined> {
    const giveUpAt = performance.now() + this.#options.timeoutMs;
    let pauseMs = FIRST_PAUSE_MS;
    while (isWanted() && performance.now() < giveUpAt) {
      const isChanged = await this.#pause(Math.min(pauseMs, giveUpAt - performance.now()), signal);
      pauseMs = isChanged ? FIRST_PAUSE_MS : Math.min(pauseMs * 2, LAST_PAUSE_MS);
      if (!isWanted()) break;
      try {
        const result = await attempt();
        this.#lastRefusal = undefined;
        return result;
      } catch (error) {
        // A dispatcher that refuses this worker now may accept it later, for example when its key is set.
        if (!(error instanceof PassfdError)) throw error;
        this.#warn(error);
      }
    }
    return undefined;
  }

  /** Whether a pause keeps the process alive. Default: false. */
  setReferenced(on: boolean): void {
    this.#isReferenced = on;
    if (on) this.#pauseTimer?.ref();
    else this.#pauseTimer?.unref();
  }

  close(): void {
    this.#options.close();
  }

  /** Warns of each reason once, since the same attempt fails again and again. */
  #warn({ code, message }: PassfdError): void {
    if (expectedCodes.has(code) || message === this.#lastRefusal) return;
    this.#lastRefusal = message;
    process.emitWarning(`The dispatcher does not take this worker back yet: ${message}`, 'PassfdWarning');
  }

  /** @returns whether a change ended the pause early */
  async #pause(pauseMs: number, signal: AbortSignal): Promise<boolean> {
    const over = new AbortController();
    const isOver = AbortSignal.any([signal, over.signal]);
    const pause = new Promise<boolean>((resolve) => {
      this.#pauseTimer = setTimeout(resolve, pauseMs, false);
      if (!this.#isReferenced) this.#pauseTimer.unref();
      isOver.addEventListener('abort', () => {
        resolve(false);
      });
    });
    const isChanged = await Promise.race([pause, this.#options.untilChanged(isOver).then(() => true)]);
    clearTimeout(this.#pauseTimer);
    over.abort();
    return isChanged;
  }
}
