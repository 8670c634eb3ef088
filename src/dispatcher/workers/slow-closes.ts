// SlowCloses: how many descriptors of a worker's user are slow to close. They count as in flight to that worker.
import { setTimeout as startTimer } from 'node:timers';

import { countClosing } from '../../fd/internal.js';

/** A close takes some microseconds. A close that waits this long waits for a slow one, and its descriptor is missing elsewhere. */
const SLOW_MS = 100;

/** Time until the next look whether there are fewer. */
const LOOK_AGAIN_MS = 100;

export class SlowCloses {
  readonly #user: number;
  readonly #changed: () => void;
  #timer: NodeJS.Timeout | undefined;

  /** @param changed called some time after `count` was not 0, since it may be smaller */
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
