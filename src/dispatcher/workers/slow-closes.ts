// SlowCloses: how many descriptors of a worker's user are slow to close here. They count as in flight to that worker.
import { setTimeout as startTimer } from 'node:timers';

import { countClosing } from '../../fd/internal.js';

/** A close takes some microseconds. Closes that wait for so long wait for a slow one, and their descriptors are missing elsewhere. */
const SLOW_MS = 100;

/** Pause before it is asked again whether there are fewer. */
const LOOK_AGAIN_MS = 100;

export class SlowCloses {
  readonly #user: number;
  readonly #changed: () => void;
  #timer: NodeJS.Timeout | undefined;

  /** @param changed called a while after there were some, when there may be fewer */
  constructor(user: number, changed: () => void) {
    this.#user = user;
    this.#changed = changed;
  }

  get count(): number {
    const count = countClosing(this.#user, SLOW_MS);
    if (count > 0) this.#timer ??= startTimer(this.#onTimer, LOOK_AGAIN_MS);
    return count;
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  readonly #onTimer = (): void => {
    this.#timer = undefined;
    this.#changed();
  };
}
