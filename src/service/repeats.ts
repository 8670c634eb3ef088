// Repeats: sums up log lines that peers can cause thousands of times a second.

/** Pause after the first line of a kind. It doubles with each summary. */
const FIRST_PAUSE_MS = 1_000;
const LAST_PAUSE_MS = 60_000;

/** Writes a line. @param more how many lines of its kind were left out since the last one */
export type Write = (more: number) => void;

interface Kind {
  pauseMs: number;
  /** How many further lines are written at once. */
  free: number;
  more: number;
  write: Write;
}

export class Repeats {
  readonly #kinds = new Map<string, Kind>();
  readonly #atOnce: number;

  /** @param atOnce how many lines of a kind are written before the first summary. Default: 1 */
  constructor(atOnce = 1) {
    this.#atOnce = atOnce;
  }

  /** Writes the first lines of a kind at once. After that, the last line of each pause is written, with the number of lines. */
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
