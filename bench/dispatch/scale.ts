// How much is measured: everything, what fits in two minutes, or just enough to see that everything works.
export interface Scale {
  readonly name: 'dispatch' | 'quick' | 'tiny';
  /** How often each contestant is measured at most. Works that want more precision than others get all of these rounds. */
  readonly rounds: { readonly main: number; readonly other: number };
  /** When no further trial begins. */
  readonly limitSeconds: number;
  /** How long is asked before what counts, so that code is compiled and memory is warm; and then, for the figures. */
  readonly warmUp: Span;
  readonly measured: Span;
  /** Instead of `warmUp` where there are so many workers: each of them needs as long as one would alone. */
  readonly manyWorkers: { readonly from: number; readonly warmUp: Span };
  /** An open loop: connections per second, of which no contestant should need more than 30 % of what it can do. */
  readonly open: Span & { readonly rate: number };
  /** Connections at a time. */
  readonly connections: number;
  /** Connections in a trial of latency, one behind the other. */
  readonly latencyCount: number;
  readonly bulkBytes: number;
  readonly idleConnections: number;
  /** How often they are opened and closed. */
  readonly idleTurns: number;
  /** How long they are held while it is counted what the dispatcher does meanwhile. */
  readonly idleSeconds: number;
  readonly workers: readonly number[];
  /** Connections under strace; 0: there is no time for it. */
  readonly traced: number;
}

export type Span = { readonly seconds: number } | { readonly count: number };

export function warmUpOf({ warmUp, manyWorkers }: Scale, workers: number): Span {
  return workers < manyWorkers.from ? warmUp : manyWorkers.warmUp;
}

const MEBIBYTE = 1024 * 1024;

export const scales: Readonly<Record<Scale['name'], Scale>> = {
  dispatch: {
    name: 'dispatch',
    rounds: { main: 5, other: 3 },
    limitSeconds: 54 * 60,
    warmUp: { seconds: 1 },
    measured: { seconds: 1.5 },
    manyWorkers: { from: 64, warmUp: { seconds: 60 } },
    open: { rate: 2000, seconds: 5 },
    connections: 64,
    latencyCount: 1000,
    bulkBytes: 1024 * MEBIBYTE,
    idleConnections: 10_000,
    idleTurns: 3,
    idleSeconds: 1,
    workers: [1, 2, 4, 16, 64],
    traced: 2000,
  },
  quick: {
    name: 'quick',
    rounds: { main: 2, other: 1 },
    limitSeconds: 110,
    warmUp: { seconds: 0.1 },
    measured: { seconds: 0.3 },
    manyWorkers: { from: 64, warmUp: { seconds: 1 } },
    open: { rate: 1000, seconds: 1 },
    connections: 64,
    latencyCount: 100,
    bulkBytes: 128 * MEBIBYTE,
    idleConnections: 1000,
    idleTurns: 1,
    idleSeconds: 0.2,
    workers: [4],
    traced: 0,
  },
  tiny: {
    name: 'tiny',
    rounds: { main: 1, other: 1 },
    limitSeconds: Infinity,
    warmUp: { count: 10 },
    measured: { count: 50 },
    manyWorkers: { from: 64, warmUp: { count: 100 } },
    open: { rate: 200, count: 50 },
    connections: 8,
    latencyCount: 10,
    bulkBytes: MEBIBYTE,
    idleConnections: 20,
    idleTurns: 1,
    idleSeconds: 0.1,
    workers: [3],
    traced: 20,
  },
};
