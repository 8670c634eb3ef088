// Readiness: watches a descriptor for becoming readable or writable, with few system calls.
import { native, type Poll } from './native.js';

export { READABLE, WRITABLE } from './native.js';

/**
 * Watches one descriptor for the wanted events, and keeps the process alive while events are wanted. Close it before the
 * descriptor.
 *
 * When no event is wanted any more, the watch goes on but does not keep the process alive: stopping and starting again costs
 * two system calls, and usually the next wait follows soon. If an unwanted event comes first, the watch stops.
 */
export class Readiness {
  readonly #fd: number;
  readonly #onReady: () => void;
  #poll: Poll | undefined;
  #wanted = 0;
  #watched = 0;
  #isReferenced = true;
  #keepsAlive = true;

  /** @param onReady called again and again while one of the wanted events holds */
  constructor(fd: number, onReady: () => void) {
    this.#fd = fd;
    this.#onReady = onReady;
  }

  /** Sets the wanted events: a sum of `READABLE` and `WRITABLE`, or 0. */
  want(events: number): void {
    this.#wanted = events;
    if ((events & ~this.#watched) !== 0) this.#watch(events);
    this.#updateReference();
  }

  /** Whether waiting keeps the process alive. Default: true. */
  setReferenced(on: boolean): void {
    this.#isReferenced = on;
    this.#updateReference();
  }

  close(): void {
    this.#poll?.close();
    this.#poll = undefined;
    this.#wanted = 0;
    this.#watched = 0;
  }

  #watch(events: number): void {
    // Made on first use, because it sets O_NONBLOCK: a socket that is only passed on keeps its flags.
    this.#poll ??= new native.Poll(this.#fd, (status) => {
      // libuv stops watching a descriptor with a pending error, and reports a negative status (uv__poll_io).
      if (status < 0) this.#watched = 0;
      if (this.#watched !== this.#wanted) this.#watch(this.#wanted);
      if (this.#wanted !== 0) this.#onReady();
    });
    if (events === 0) this.#poll.stop();
    else this.#poll.start(events);
    this.#watched = events;
  }

  #updateReference(): void {
    const keepsAlive = this.#isReferenced && this.#wanted !== 0;
    if (!this.#poll || keepsAlive === this.#keepsAlive) return;
    this.#keepsAlive = keepsAlive;
    if (keepsAlive) this.#poll.ref();
    else this.#poll.unref();
  }
}
