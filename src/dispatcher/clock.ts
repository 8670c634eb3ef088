// Clock: the time and timers, so that a test can use its own.
import { setTimeout as startTimer } from 'node:timers';

export interface Clock {
  /** Monotonic milliseconds. */
  now(): number;
  /** Calls `run` once, after a delay. Does not keep the process alive. @returns a function that cancels it */
  after(delayMs: number, run: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after: (delayMs, run) => {
    const timer = startTimer(run, delayMs).unref();
    return () => {
      clearTimeout(timer);
    };
  },
};
