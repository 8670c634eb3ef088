// SlotSnapshot: what a slot holds, as one supervisor describes it to the next one in a takeover.
import type { History } from './deaths.js';
import type { OutputEnds } from './output.js';

/** A process in a slot. */
export interface ProcessSnapshot extends OutputEnds {
  /** The number of its slot. */
  readonly id: number;
  readonly pid: number;
  /** From `processIdentity`: tells the process from a later one with the same number. */
  readonly identity: string | undefined;
  /**
   * - `starting`: it has never been ready.
   * - `ready`: it is a worker in the pool, or was one and will be again.
   * - `awaited`: its dispatcher was killed, and it will join the pool by the control socket.
   * - `leaving`: another process has its place, or its slot is gone. It is drained and ended.
   */
  readonly state: 'starting' | 'ready' | 'awaited' | 'leaving';
  /** Whether a process of this slot was ever ready. Earlier releases do not say. */
  readonly hasServed?: boolean | undefined;
}

export type SlotSnapshot =
  | ProcessSnapshot
  /** The slot has no process. It gets one after this time. */
  | {
      readonly id: number;
      readonly state: 'waiting';
      readonly restartInMs: number;
      readonly history: History;
      readonly hasServed?: boolean | undefined;
    }
  /** The slot has no process. A restart starts one: the last one had no more to do, or was drained by hand. */
  | {
      readonly id: number;
      readonly state: 'finished';
      readonly wasDrained?: boolean | undefined;
      readonly hasServed?: boolean | undefined;
    };
