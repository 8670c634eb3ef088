// Readiness: waits for a descriptor to become readable or writable, with as few system calls as that takes.
import { native, type Poll } from './native.js';

export { READABLE, WRITABLE } from './native.js';

/**
 * Watches one descriptor for the events that somebody waits for, and keeps the process alive while somebody does.
 * Close it before the descriptor.
 *
 * When nobody waits any more it is not stopped at once but only does not keep the process alive: stopping and starting
 * again costs two system calls, and most often the next wait follows at once. If the event comes first, it is stopped
 * then.
 */
export class Readiness {
  readonly #fd: number;
  readonly #onReady: () => void;
  #poll: Poll | undefined;
  #wanted = 0;
  #watched = 0;
  #isReferenced = true;
  #keepsAlive = true;

  /** @param onReady called when one of the wanted events is there; again and again until it is not */
  constructor(fd: number, onReady: () => void) {
    this.#fd = fd;
    this.#onReady = onReady;
  }

  /** Says which events are awaited from now on, as a sum of `READABLE` and `WRITABLE`; 0 for none. */
  want(events: number): void {
    this.#wanted = events;
    if ((events & ~this.#watched) !== 0) this.#watch(events);
    this.#updateReference();
  }

  /** Whether waiting keeps the process alive; it does from the start. */
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
    // Made on first use, since it sets O_NONBLOCK: a socket that is only handed on stays as it is.
    this.#poll ??= new native.Poll(this.#fd, (status) => {
      // libuv stops watching when the descriptor has an error pending, and says so by a negative status (uv__poll_io).
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
