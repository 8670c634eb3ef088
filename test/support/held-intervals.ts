// HeldIntervals: what happens at intervals happens when a test says so, and not with time.
import { turns } from './loop.js';

/** Longer than any test; the timer itself is real, so that it can be referenced and cleared. */
const NEVER_MS = 0x7fff_ffff;

export class HeldIntervals implements Disposable {
  readonly #setInterval = globalThis.setInterval;
  readonly #clearInterval = globalThis.clearInterval;
  readonly #held = new Map<unknown, () => void>();

  constructor() {
    globalThis.setInterval = (callback: () => void) => {
      const timer = this.#setInterval(() => undefined, NEVER_MS);
      this.#held.set(timer, callback);
      return timer;
    };
    globalThis.clearInterval = (timer) => {
      this.#held.delete(timer);
      this.#clearInterval(timer);
    };
  }

  /** Has each interval pass so often, one after the other, with everything that follows from it. */
  async pass(times: number): Promise<void> {
    for (let count = 0; count < times; count++) {
      for (const callback of [...this.#held.values()]) callback();
      await turns();
    }
  }

  [Symbol.dispose](): void {
    globalThis.setInterval = this.#setInterval;
    globalThis.clearInterval = this.#clearInterval;
  }
}
