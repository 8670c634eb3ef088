// Occupant: who is in a slot, as one supervisor tells the next one when that takes over.
import type { OutputEnds } from './output.js';
import type { History } from './deaths.js';

/** A process that lives. */
export interface Living extends OutputEnds {
  /** Its slot. */
  readonly id: number;
  readonly pid: number;
  /** What `processIdentity` said of it, so that no later process with the number is taken for it. */
  readonly identity: string | undefined;
  /**
   * `starting`: it has never been ready. `ready`: it is a worker in the pool, or was and will be again. `awaited`: it has
   * lost its dispatcher, and is going to join the pool again by the control socket. `leaving`: another process has its
   * place, or its slot is gone; it is drained and ended. One that is no worker any more finishes what it has open by itself.
   */
  readonly state: 'starting' | 'ready' | 'awaited' | 'leaving';
  /** Whether a process of this slot ever was ready. Unknown of what an older release hands over. */
  readonly hasServed?: boolean | undefined;
}

export type Occupant =
  | Living
  /** The slot has no process, and gets its next one then. */
  | {
      readonly id: number;
      readonly state: 'waiting';
      readonly restartInMs: number;
      readonly history: History;
      readonly hasServed?: boolean | undefined;
    }
  /** The slot has no process, and gets none before a restart: the last one had no more to do, or was drained by hand. */
  | {
      readonly id: number;
      readonly state: 'finished';
      readonly wasDrained?: boolean | undefined;
      readonly hasServed?: boolean | undefined;
    };
