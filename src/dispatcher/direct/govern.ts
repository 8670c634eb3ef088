// Govern: decides who watches a listening socket that workers share. Pure functions of what was seen at each look.

/** One that can accept connections of a listener: a worker, or the dispatcher on behalf of workers that cannot. */
export interface Watcher {
  readonly id: number;
  /** Its share of the connections: 1 for a worker. */
  readonly weight: number;
  /** Connections that it has open. */
  readonly open: number;
  readonly isWatching: boolean;
  /** False: it takes nothing at the moment. It has stalled, or has as many connections as it may have. */
  readonly isAble: boolean;
  /** Connections of this listener that it has accepted since the last look. */
  readonly accepted: number;
  /** Turns of its event loop since the last look. */
  readonly turns: number;
  /** Whether it is the dispatcher, which does not count as one of the processes that share the cores. */
  readonly isDispatcher?: boolean;
}

/** What is seen at a listener in one look. */
export interface Look {
  readonly watchers: readonly Watcher[];
  /** Connections in the queue of the kernel. */
  readonly queue: number;
  /** How many processes can run at the same time. */
  readonly cores: number;
  /** Time since the last look. */
  readonly elapsedMs: number;
}

/** What is remembered of a listener from one look to the next. */
export interface Memory {
  /** Looks in a row at which clients waited. */
  readonly waited: number;
  /** Looks in a row at which clients waited and nobody had accepted any. */
  readonly starved: number;
  /** Looks in a row at which no client waited. */
  readonly calm: number;
  /** How many workers may watch. 0: as many as there are for the cores. */
  readonly width: number;
  /** By watcher: looks at which clients waited, it watched, and it took none, since it last took one. */
  readonly missed: ReadonlyMap<number, number>;
  /** By watcher: its open connections at the last look. */
  readonly open: ReadonlyMap<number, number>;
  /** Connections that end in a millisecond, of late. */
  readonly endings: number;
  readonly evenness: Evenness;
}

/** Whether evenness is enforced. It is given up for a while where it keeps clients waiting and does not come closer. */
interface Evenness {
  /** The smallest spread since clients began to wait. */
  readonly leastSpread: number;
  /** Looks in a row at which clients waited and the spread was not smaller than ever before. */
  readonly stuck: number;
  /** Time until it is enforced again. */
  readonly pauseMs: number;
  /** Length of the next pause. */
  readonly nextPauseMs: number;
}

export interface Decision {
  readonly memory: Memory;
  /** Ids of those that are to watch. */
  readonly watching: ReadonlySet<number>;
  /** The most connections for each unit of weight that a watcher may have before it is stopped. */
  readonly most: number;
  /** Time until the next look. */
  readonly nextMs: number;
}

/** Shortest time between two looks. */
const URGENT_MS = 5;

/** Longest time between two looks while some do not watch. */
const USUAL_MS = 10;

/** Longest time between two looks while everybody watches: nobody could be told to. */
const CALM_MS = 50;

/** A watcher with so many connections more than the emptiest one stops. Fewer than that are chance. */
const MARGIN = 16;

/** For many connections the margin is this part of what the middle one of the watchers has: a mean would believe a liar. */
const MARGIN_SHARE = 0.05;

/** Connections that end within such a time are not worth governing: a margin of those leaves them alone. */
const SHORT_MS = 40;

/** How much one look counts among those of late, when it has more endings than they had, and when it has fewer. */
const WEIGHT_OF_MORE = 0.5;
const WEIGHT_OF_FEWER = 0.05;

/** A watcher that was stopped watches again when it has so much of the margin left. So it does not change at each look. */
const MARGIN_TO_RETURN = 0.5;

/** Workers that watch for each core. With one for each, a core would idle while its worker waits for something else. */
const WATCHERS_PER_CORE = 2;

/** After so many looks without a connection while clients waited, a watcher does not count, and another takes its place. */
const LOOKS_MISSED = 2;

/** After so many looks at which clients waited, more workers may watch, if those that watch have long turns. */
const LOOKS_TO_WIDEN = 2;

/** A loop with fewer turns than this in a look is held up by the work of each turn, perhaps without using the CPU. */
const FEW_TURNS = 4;

/** After so many looks at which no client waited, fewer may watch. */
const LOOKS_TO_NARROW = 40;

/** After so many looks at which clients waited and the spread did not shrink, evenness is given up. */
const LOOKS_STUCK = 20;

/** For such a time, and each time for twice as long, up to the last number. */
const FIRST_PAUSE_MS = 1_000;
const LAST_PAUSE_MS = 64_000;

const even: Evenness = { leastSpread: Infinity, stuck: 0, pauseMs: 0, nextPauseMs: FIRST_PAUSE_MS };

/** What is remembered when nothing was seen yet. */
export const nothingSeen: Memory = {
  waited: 0,
  starved: 0,
  calm: 0,
  width: 0,
  missed: new Map(),
  open: new Map(),
  endings: 0,
  evenness: even,
};

/** What is worth remembering when nothing has come for a while. */
export function afterRest({ endings }: Memory): Memory {
  return { ...nothingSeen, endings };
}

/**
 * Decides who watches until the next look. These rules never stop a service: when nobody may watch by them, or nobody takes
 * the clients that wait, everybody watches.
 */
export function govern(before: Memory, { watchers, queue, cores, elapsedMs }: Look): Decision {
  const isWaiting = queue > 0;
  const hasAccepted = watchers.some(({ accepted }) => accepted > 0);
  const waited = isWaiting ? before.waited + 1 : 0;
  const starved = isWaiting && !hasAccepted ? before.starved + 1 : 0;
  const calm = isWaiting ? 0 : before.calm + 1;
  const missed = missedBy(watchers, before.missed, isWaiting);
  const taking = watchers.filter(({ id, isAble }) => isAble && (missed.get(id) ?? 0) < LOOKS_MISSED);
  const endings = smoothed(before.endings, endingsIn(watchers, before.open) / Math.max(1, elapsedMs));
  const spread = spreadOf(taking, endings);
  const evenness = reviewEvenness(before.evenness, spread, isWaiting, elapsedMs);
  const most = evenness.pauseMs > 0 ? Infinity : spread.least + spread.margin;
  const inTime = taking.filter((watcher) => isEven(watcher, spread, most));
  const width = widthOf(before.width, { waited, calm, cores, taking });
  const chosen = new Set(narrowed(inTime, width).map(({ id }) => id));
  // One that does not take anything is left as it is. It takes the first connection as soon as it can.
  for (const watcher of watchers) {
    if (watcher.isWatching && !taking.includes(watcher)) chosen.add(watcher.id);
  }
  const isStuck = inTime.length === 0 || starved >= LOOKS_MISSED;
  const watching = isStuck ? new Set(watchers.map(({ id }) => id)) : chosen;
  const longestMs = watching.size === watchers.length ? CALM_MS : missed.size > 0 ? URGENT_MS : USUAL_MS;
  const nextMs = Math.max(URGENT_MS, Math.min(longestMs, evenForMs(watchers, spread, elapsedMs)));
  return {
    memory: { waited, starved, calm, width, missed, open: openOf(watchers), endings, evenness },
    watching,
    most,
    nextMs,
  };
}

/** For how long nobody gets beyond the margin: the spread grows by what is accepted, at most. */
function evenForMs(watchers: readonly Watcher[], { width, margin }: Spread, elapsedMs: number): number {
  // One alone is always even. Each look would cost as much as many connections.
  if (watchers.length === 1) return Infinity;
  const accepted = watchers.reduce((sum, watcher) => sum + watcher.accepted, 0);
  const left = width > margin ? margin : margin - width;
  return accepted === 0 ? Infinity : (left * Math.max(1, elapsedMs)) / accepted;
}

/** A watcher that has missed its turns counts again when it has accepted a connection, and not only when none waits. */
function missedBy(
  watchers: readonly Watcher[],
  before: ReadonlyMap<number, number>,
  isWaiting: boolean,
): ReadonlyMap<number, number> {
  const missed = new Map<number, number>();
  for (const { id, accepted, isWatching } of watchers) {
    if (accepted > 0) continue;
    const count = (before.get(id) ?? 0) + (isWaiting && isWatching ? 1 : 0);
    if (count > 0) missed.set(id, count);
  }
  return missed;
}

function openOf(watchers: readonly Watcher[]): ReadonlyMap<number, number> {
  return new Map(watchers.map(({ id, open }) => [id, open]));
}

/** Connections that have ended since the last look. */
function endingsIn(watchers: readonly Watcher[], before: ReadonlyMap<number, number>): number {
  let endings = 0;
  for (const { id, open, accepted } of watchers) {
    endings += Math.max(0, (before.get(id) ?? open - accepted) + accepted - open);
  }
  return endings;
}

function smoothed(before: number, now: number): number {
  return before + (now - before) * (now > before ? WEIGHT_OF_MORE : WEIGHT_OF_FEWER);
}

interface Spread {
  /** Connections of the emptiest watcher, for each unit of weight. */
  readonly least: number;
  /** How many more the fullest one has. */
  readonly width: number;
  /** How many more one may have. */
  readonly margin: number;
}

function spreadOf(watchers: readonly Watcher[], endings: number): Spread {
  if (watchers.length === 0) return { least: 0, width: 0, margin: MARGIN };
  const loads = watchers.map(loadOf).sort((a, b) => a - b);
  const [least = 0] = loads;
  const middle = loads[Math.floor((loads.length - 1) / 2)] ?? least;
  const margin = Math.max(MARGIN, middle * MARGIN_SHARE, endings * SHORT_MS);
  return { least, width: (loads.at(-1) ?? least) - least, margin };
}

function isEven(watcher: Watcher, { least, margin }: Spread, most: number): boolean {
  if (most === Infinity) return true;
  return loadOf(watcher) <= (watcher.isWatching ? most : least + margin * MARGIN_TO_RETURN);
}

function loadOf({ open, weight }: Watcher): number {
  return open / weight;
}

/**
 * Where connections are long-lived, the spread shrinks while the emptiest workers take all. Where those workers are busy with
 * short connections, it does not, and clients would wait for them while the other workers idle.
 */
function reviewEvenness(
  before: Evenness,
  { width, margin }: Spread,
  isWaiting: boolean,
  elapsedMs: number,
): Evenness {
  if (before.pauseMs > 0) return { ...before, pauseMs: Math.max(0, before.pauseMs - elapsedMs) };
  if (!isWaiting || width <= margin) return { ...before, leastSpread: width, stuck: 0 };
  if (width < before.leastSpread) return { ...before, leastSpread: width, stuck: 0 };
  const stuck = before.stuck + 1;
  if (stuck < LOOKS_STUCK) return { ...before, stuck };
  const { nextPauseMs: pauseMs } = before;
  return { leastSpread: Infinity, stuck: 0, pauseMs, nextPauseMs: Math.min(2 * pauseMs, LAST_PAUSE_MS) };
}

/**
 * More processes than cores only take the cores from each other: 64 that accept on two cores answer a third less than 4 do.
 * But where each turn of a loop waits for something else than a core, more workers serve more.
 */
function widthOf(
  before: number,
  seen: Pick<Memory, 'waited' | 'calm'> & { readonly cores: number; readonly taking: readonly Watcher[] },
): number {
  const { waited, calm, cores, taking } = seen;
  const least = cores * WATCHERS_PER_CORE;
  const width = Math.max(before, least);
  const watching = taking.filter(({ isWatching, isDispatcher }) => isWatching && isDispatcher !== true);
  const turns = watching.reduce((sum, watcher) => sum + watcher.turns, 0);
  const isHeldUp = watching.length > 0 && turns < FEW_TURNS * watching.length;
  if (isHeldUp && waited >= LOOKS_TO_WIDEN) return Math.min(2 * width, Math.max(least, taking.length));
  if (calm > 0 && calm % LOOKS_TO_NARROW === 0) return Math.max(least, Math.floor(width / 2));
  return width;
}

/** Those that watch go on, so that few messages are needed. Then the emptiest come. */
function narrowed(watchers: readonly Watcher[], width: number): readonly Watcher[] {
  const workers = watchers.filter(({ isDispatcher }) => isDispatcher !== true);
  if (workers.length <= width) return watchers;
  const sorted = workers.sort(
    (a, b) => Number(b.isWatching) - Number(a.isWatching) || loadOf(a) - loadOf(b) || a.id - b.id,
  );
  const dispatcher = watchers.filter(({ isDispatcher }) => isDispatcher === true);
  return [...sorted.slice(0, width), ...dispatcher];
}
