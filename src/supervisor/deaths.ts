// Deaths: what follows when a child has ended: no new process, one at once, or one after a pause; and crash loops.
import { isSuccess, type Exit } from './exit.js';
import type { PoolWorker } from './worker-pool.js';

/** Pauses before a new process is started: each is twice the one before. */
const FIRST_PAUSE_MS = 100;
const LAST_PAUSE_MS = 30_000;

/** A child that was ready for this long is stable: after it, the pauses begin with the first one again. */
const STABLE_MS = 1_000;

/** A child that dies within this time of its start, or before it is ready, has died early. */
const EARLY_MS = 10_000;

/** This many early deaths in a row are a crash loop. */
const CRASH_LOOP = 5;

/** The times of one process. */
export interface Life {
  readonly startedAt: number;
  /** Undefined when it was never ready. */
  readonly readyAt: number | undefined;
  readonly endedAt: number;
}

/** The deaths in a slot so far. */
export interface History {
  /** Since its process was last stable. */
  readonly deaths: number;
  /** In a row. */
  readonly earlyDeaths: number;
}

export const noDeaths: History = { deaths: 0, earlyDeaths: 0 };

/** How a child ended. */
export interface ChildEnd {
  readonly exit: Exit;
  readonly life: Life;
  /** Whether it had still to return to the pool after the death of its dispatcher. */
  readonly wasAwaited: boolean;
  /** The last that the pool knew of it. Undefined when it never joined. */
  readonly worker: PoolWorker | undefined;
}

/** Why a slot stays without a process: the last one had no more to do, or somebody drained it by hand. */
export type Vacancy = 'finished' | 'drained';

/** What follows. */
export type Aftermath =
  /** No process, until a restart. */
  | { readonly is: 'vacant'; readonly vacancy: Vacancy }
  /** A process at once. `recycled`: the last one had served and ended well. `died`: it did not return to the pool. */
  | { readonly is: 'recycled' | 'died' }
  /** A process after a pause. */
  | ({ readonly is: 'pause' } & Consequence);

/** @param hasServed whether any process of the slot was ever ready. If so, a process that ends well is no finished job */
export function aftermathOf(end: ChildEnd, history: History, hasServed: boolean): Aftermath {
  const { exit, life, worker, wasAwaited } = end;
  if (worker?.isTakenOut === true) return { is: 'vacant', vacancy: 'drained' };
  // An unknown exit code is no success: the next process is a child, whose exit code is known.
  if (isSuccess(exit) && !hasServed) return { is: 'vacant', vacancy: 'finished' };
  // It had served, and died while no supervisor could start another one.
  if (wasAwaited) return { is: 'died' };
  if (endedWell(end) && wasStable(life)) return { is: 'recycled' };
  return { is: 'pause', ...afterDeath(history, life) };
}

/** Whether addresses that it had closed are opened again. A worker that dies while it listens gave them up for good. */
export function opensAgain({ exit, worker }: ChildEnd): boolean {
  return worker !== undefined && (isSuccess(exit) || !worker.listens);
}

export interface Consequence {
  readonly history: History;
  readonly restartInMs: number;
  /** Whether a crash loop began with this death. It is over when a child lives long enough. */
  readonly crashLoopBegan: boolean;
}

export function afterDeath(history: History, life: Life): Consequence {
  const deaths = wasStable(life) ? 1 : history.deaths + 1;
  const earlyDeaths = diedEarly(life) ? history.earlyDeaths + 1 : 0;
  return {
    history: { deaths, earlyDeaths },
    restartInMs: Math.min(FIRST_PAUSE_MS * 2 ** (deaths - 1), LAST_PAUSE_MS),
    crashLoopBegan: earlyDeaths === CRASH_LOOP,
  };
}

function wasStable({ readyAt, endedAt }: Life): boolean {
  return readyAt !== undefined && endedAt - readyAt >= STABLE_MS;
}

function diedEarly({ startedAt, readyAt, endedAt }: Life): boolean {
  return readyAt === undefined || endedAt - startedAt < EARLY_MS;
}

/** Only a parent gets the exit code. A process of an earlier generation ended well if it had closed its servers. */
function endedWell({ exit, worker }: ChildEnd): boolean {
  return exit.is === 'unknown' ? worker?.listens === false : isSuccess(exit);
}
