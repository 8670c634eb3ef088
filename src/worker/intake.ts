// Intake: gives connections to a loop one by one, each when the loop asks for it.
import type { Socket } from 'node:net';

import type { Descriptor } from '../fd/index.js';
import { openSocket, type OnClosing } from './node-handles.js';
import type { Target } from './target.js';

export class Intake implements Target {
  readonly reportsRoom = true;
  readonly #changed: () => void;
  /** More than one only when the dispatcher died while it sent them: then they cannot be refused. */
  readonly #waiting: Socket[] = [];
  #wake: (() => void) | undefined;
  #isAsking = false;
  #expected = 0;
  #isOver = false;
  #isLeft = false;

  /** @param changed called when the loop asks for one more */
  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** One, while the loop waits for it. A connection taken earlier would wait while other workers are free. */
  get room(): number {
    if (!this.#isAsking || this.#isOver) return 0;
    return Math.max(0, 1 - this.#waiting.length - this.#expected);
  }

  expect(change: number): void {
    this.#expected += change;
    if (change < 0) this.#wake?.();
  }

  deliver(descriptor: Descriptor, onClosed: OnClosing): void {
    this.expect(-1);
    let socket;
    try {
      socket = openSocket(descriptor, onClosed);
    } catch (error) {
      // As when accept(2) fails: the connection is lost, and the loop goes on.
      descriptor.close();
      onClosed(undefined);
      process.emitWarning(
        `A connection could not be opened, and was closed: ${(error as Error).message}`,
        'PassfdWarning',
      );
      return;
    }
    if (this.#isLeft) {
      socket.destroy();
      return;
    }
    this.#waiting.push(socket);
    this.#wake?.();
  }

  async *sockets(): AsyncGenerator<Socket, void, undefined> {
    for (;;) {
      const socket = await this.#next();
      if (!socket) return;
      yield socket;
    }
  }

  async #next(): Promise<Socket | undefined> {
    this.#isAsking = true;
    this.#changed();
    while (this.#waiting.length === 0 && !(this.#isOver && this.#expected === 0)) {
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    this.#isAsking = false;
    return this.#waiting.shift();
  }

  /** Nothing more comes. Connections that are adopted are still given out. */
  end(): void {
    this.#isOver = true;
    this.#wake?.();
  }

  /** The loop is over, and takes nothing any more. */
  leave(): void {
    this.#isOver = true;
    this.#isLeft = true;
    for (const socket of this.#waiting.splice(0)) socket.destroy();
  }
}
