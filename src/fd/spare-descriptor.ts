// A descriptor kept in reserve: at the descriptor limit it is closed, and its number serves one connection.
import { openSync } from 'node:fs';

import { Descriptor } from './descriptor.js';
import { native } from './native.js';
import { awaitReserve, stopAwaiting } from './starvation.js';

export class SpareDescriptor {
  #kept: Descriptor | undefined;
  #isClosed = false;
  readonly #refill = (): boolean => this.refill();

  constructor() {
    if (!this.refill()) awaitReserve(this.#refill);
  }

  /** Fills the reserve again if a descriptor is free. @returns whether the reserve is full */
  refill(): boolean {
    if (!this.#kept && !this.#isClosed) this.#kept = openSpare();
    if (!this.#kept) return false;
    stopAwaiting(this.#refill);
    return true;
  }

  /** Frees one number. The reserve takes the next number that this process frees. @returns false when the reserve is empty */
  spend(): boolean {
    if (!this.#kept) return false;
    // Not by `Descriptor.close`: that would give the number to another waiting socket.
    native.close(this.#kept.release());
    this.#kept = undefined;
    return true;
  }

  /** After `spend`: waits for a number that is freed. */
  awaitRefill(): void {
    awaitReserve(this.#refill);
  }

  close(): void {
    stopAwaiting(this.#refill);
    this.#kept?.close();
    this.#kept = undefined;
    this.#isClosed = true;
  }
}

/** @returns undefined when no descriptor is free */
function openSpare(): Descriptor | undefined {
  try {
    return new Descriptor(openSync('/dev/null', 'r'));
  } catch {
    return undefined;
  }
}
