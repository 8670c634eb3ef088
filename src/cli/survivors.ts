// Survivors: a file beside the control socket that says which workers there are, for the next dispatcher should this one die.
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';

import * as v from 'valibot';

import { isSameProcess, processIdentity } from '../fd/index.js';

/** A worker process. */
export interface Survivor {
  readonly id: number;
  readonly pid: number;
  /** See `processIdentity`. */
  readonly identity?: string | undefined;
  /** Whether the supervisor has started it, in the slot with this number. */
  readonly isChild: boolean;
  /** Whether it takes nothing new, and ends when it has finished what it has open: it does not come back. */
  readonly isLeaving: boolean;
}

const PRIVATE_MODE = 0o600;

/** Longest file that is believed: some ten thousand workers. */
const MAX_BYTES = 1024 * 1024;

const positive = v.pipe(v.number(), v.safeInteger(), v.minValue(1));

const contents = v.object({
  workers: v.array(
    v.object({
      id: positive,
      pid: positive,
      identity: v.optional(v.string()),
      isChild: v.boolean(),
      isLeaving: v.boolean(),
    }),
  ),
});

export class Survivors {
  readonly #path: string;

  /** @param control the path of the control socket */
  constructor(control: string) {
    this.#path = `${control}.workers`;
  }

  /** Those that live of the ones that the last dispatcher had. None after one that ended in good order, or for a file of another user's. */
  read(): Survivor[] {
    try {
      const { uid, size } = statSync(this.#path);
      if (uid !== process.getuid?.() || size > MAX_BYTES) return [];
      const { workers } = v.parse(contents, JSON.parse(readFileSync(this.#path, 'utf8')));
      return workers.filter(({ pid, identity }) => isSameProcess(pid, identity));
    } catch {
      return []; // there is none, or it is no use: then whoever comes back is a surprise, and welcome
    }
  }

  /** @throws a system error where it cannot be written */
  write(workers: readonly Omit<Survivor, 'identity'>[]): void {
    const known = workers.map((worker) => ({ ...worker, identity: processIdentity(worker.pid) }));
    // Whole or not at all: this process can be killed at any moment.
    const draft = `${this.#path}.new`;
    // One that was left over, or that somebody has put there: as a link it would lead elsewhere.
    rmSync(draft, { force: true });
    writeFileSync(draft, JSON.stringify({ workers: known }), { mode: PRIVATE_MODE, flag: 'wx' });
    renameSync(draft, this.#path);
  }

  /** At an end in good order: nobody is left behind. */
  remove(): void {
    rmSync(this.#path, { force: true });
  }
}
