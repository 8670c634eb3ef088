// Clock: the time, and what happens later, as the dispatcher asks for them; a test has one of its own.
import { setTimeout as startTimer } from 'node:timers';

export interface Clock {
  /** Milliseconds since some moment. It never goes back. */
  now(): number;
  /** Runs it once, unless the process ends before. @returns what cancels it */
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
