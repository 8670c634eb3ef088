// Intake: connections that wait to be taken one by one, for programs without a server.
import type { Socket } from 'node:net';

import type { Descriptor } from '../fd/index.js';
import type { Target } from './target.js';

/** Connections that may wait here; the dispatcher gives what is beyond to other workers. */
const MAX_WAITING = 64;

export class Intake implements Target {
  readonly #waiting: Socket[] = [];
  #wake: (() => void) | undefined;
  #expected = 0;
  #isOver = false;

  get room(): number {
    return this.#isOver ? 0 : Math.max(0, MAX_WAITING - this.#waiting.length - this.#expected);
  }

  expect(change: number): void {
    this.#expected += change;
  }

  deliver(descriptor: Descriptor, onClosed: () => void): void {
    this.#expected--;
    let socket;
    try {
      socket = descriptor.toSocket({ pauseOnCreate: true });
    } catch (error) {
      descriptor.close();
      onClosed();
      throw error;
    }
    socket.once('close', onClosed);
    this.#waiting.push(socket);
    this.#wake?.();
  }

  async *sockets(): AsyncGenerator<Socket, void, undefined> {
    for (;;) {
      const socket = this.#waiting.shift();
      if (socket) {
        yield socket;
      } else if (this.#isOver) {
        return;
      } else {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        this.#wake = undefined;
      }
    }
  }

  /** Nothing more comes; what waits is still given out. */
  end(): void {
    this.#isOver = true;
    this.#wake?.();
  }

  /** Nobody takes anything any more: what waits was adopted, and is closed. */
  destroy(): void {
    this.end();
    for (const socket of this.#waiting.splice(0)) socket.destroy();
  }
}
