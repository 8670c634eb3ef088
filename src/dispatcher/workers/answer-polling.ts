// AnswerPolling: under load, reads a worker's answers whenever connections are sent to it, and not when they arrive.
//
// To be woken up for each answer costs more than everything else that is done for a connection.
import { setTimeout as startTimer } from 'node:timers';

import type { StreamSocket } from '../../fd/index.js';

/**
 * How long an answer may stay unread when no further connections come. The dispatcher has a descriptor of the connection
 * until then, so a client sees the end of a connection that its worker closes without shutdown(2) that much later.
 */
const POLLING_PAUSE_MS = 1;

export class AnswerPolling {
  readonly #socket: StreamSocket;
  /** Ends the polling. Runs while the socket is polled. */
  #timer: NodeJS.Timeout | undefined;

  constructor(socket: StreamSocket) {
    this.#socket = socket;
  }

  get isActive(): boolean {
    return this.#timer !== undefined;
  }

  /** Reads what has arrived, and waits for the next call. When none follows, answers wake this process up again. */
  poll(): void {
    this.#socket.setPolled(true);
    this.#socket.poll();
    this.#timer ??= startTimer(() => {
      this.stop();
    }, POLLING_PAUSE_MS);
    this.#timer.refresh();
  }

  /** Answers wake this process up again. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#socket.setPolled(false);
  }
}
