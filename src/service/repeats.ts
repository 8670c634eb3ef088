// Repeats: keeps what may happen thousands of times a second, at the will of a peer, from filling the log.

/** Pause behind the first line of a kind, doubled behind each that sums up, as long as it goes on. */
const FIRST_PAUSE_MS = 1_000;
const LAST_PAUSE_MS = 60_000;

/** Writes a line. @param more how many like it were left out since the last one, and are summed up by it; 0 for the first */
export type Write = (more: number) => void;

interface Kind {
  pauseMs: number;
  /** How many more are written at once. */
  free: number;
  more: number;
  write: Write;
}

export class Repeats {
  readonly #kinds = new Map<string, Kind>();
  readonly #atOnce: number;

  /** @param atOnce how many of a kind are written at once, before any is summed up */
  constructor(atOnce = 1) {
    this.#atOnce = atOnce;
  }

  /** The first of a kind are written at once; of those that follow in a pause the last one, with their number. */
  log(name: string, write: Write): void {
    const kind = this.#kinds.get(name);
    if (kind && kind.free > 0) {
      kind.free--;
      write(0);
      return;
    }
    if (kind) {
      kind.more++;
      kind.write = write;
      return;
    }
    this.#kinds.set(name, { pauseMs: FIRST_PAUSE_MS, free: this.#atOnce - 1, more: 0, write });
    write(0);
    this.#pause(name, FIRST_PAUSE_MS);
  }

  #pause(name: string, pauseMs: number): void {
    setTimeout(() => {
      this.#sumUp(name);
    }, pauseMs).unref();
  }

  #sumUp(name: string): void {
    const kind = this.#kinds.get(name);
    if (!kind) return;
    if (kind.more === 0) {
      this.#kinds.delete(name);
      return;
    }
    kind.write(kind.more);
    kind.more = 0;
    kind.pauseMs = Math.min(kind.pauseMs * 2, LAST_PAUSE_MS);
    this.#pause(name, kind.pauseMs);
  }
}
