// What follows when a child dies: how long it waits for its next start, and whether it is in a crash loop.

/** Pauses before a restart: each is twice the one before. */
const FIRST_PAUSE_MS = 100;
const LAST_PAUSE_MS = 30_000;

/** A child that was ready so long works: what follows begins with the first pause again. */
const STABLE_MS = 1_000;

/** A child that dies within this time of its start, or before it is ready, has died early. */
const EARLY_MS = 10_000;

/** So many early deaths in a row are a crash loop. */
const CRASH_LOOP = 5;

/** One process from its start to its death. */
export interface Life {
  readonly startedAt: number;
  /** Undefined when it never was. */
  readonly readyAt: number | undefined;
  readonly endedAt: number;
}

/** What the deaths of a child so far come to. */
export interface History {
  /** Since it was last stable. */
  readonly deaths: number;
  /** In a row. */
  readonly earlyDeaths: number;
}

export const noDeaths: History = { deaths: 0, earlyDeaths: 0 };

export interface Consequence {
  readonly history: History;
  readonly restartInMs: number;
  /** With this death the crash loop began; it is told once, until a life ends that was no early death. */
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

/** Whether it was ready for so long that its end tells nothing about the next one. */
export function wasStable({ readyAt, endedAt }: Life): boolean {
  return readyAt !== undefined && endedAt - readyAt >= STABLE_MS;
}

function diedEarly({ startedAt, readyAt, endedAt }: Life): boolean {
  return readyAt === undefined || endedAt - startedAt < EARLY_MS;
}
