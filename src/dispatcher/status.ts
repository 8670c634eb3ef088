// Status: what `passfd status --json` prints.
import { formatAddress } from '../fd/index.js';
import type { Listener } from './listener.js';
import type { Pool } from './pool.js';
import type { Dialect, WorkerView } from './workers/worker-handle.js';

/** Counts are totals since the first generation began, since a takeover hands them on. Exceptions say so. */
export interface Status {
  readonly version: string;
  readonly pid: number;
  readonly generation: number;
  readonly uptimeMs: number;
  readonly listeners: readonly { readonly address: string; readonly accepted: number }[];
  readonly connections: {
    readonly accepted: number;
    readonly adopted: number;
    /** Came back from a worker that died or refused them, and were given to another. Each is counted once. */
    readonly redelivered: number;
    /** Closed without a worker: no worker had room under `overload: 'refuse'`, or no worker serves the address any more. */
    readonly refused: number;
    /** At present: in the dispatcher, without a worker. */
    readonly waiting: number;
    /** At present: sent, not yet adopted. */
    readonly inFlight: number;
  };
  readonly workers: readonly {
    readonly id: number;
    readonly pid: number;
    readonly dialect: Dialect;
    /** As `WorkerView.state`. `stalled`: ready, and does not answer. */
    readonly state: WorkerView['state'] | 'stalled';
    readonly adopted: number;
    readonly active: number | null;
    readonly inFlight: number;
    /** Whether the worker accepts connections by itself now. Null for a worker that only gets hand-offs. */
    readonly watching: boolean | null;
    /** For how long its event loop is in its present turn; 0 while it waits. Null for a worker that only gets hand-offs. */
    readonly loopDelayMs: number | null;
  }[];
  /** Peers of the control sockets that were not admitted, or broke the protocol. */
  readonly peers: { readonly refused: number };
}

export function describeStatus(
  identity: Pick<Status, 'version' | 'pid' | 'generation' | 'uptimeMs'>,
  listeners: Iterable<Listener>,
  pool: Pool,
  refusedPeers: number,
): Status {
  return {
    ...identity,
    listeners: Array.from(listeners, ({ address, accepted }) => ({
      address: formatAddress(address),
      accepted,
    })),
    connections: {
      ...pool.counts,
      waiting: pool.waiting.length,
      inFlight: pool.workers.reduce((sum, { inFlight }) => sum + inFlight, 0),
    },
    workers: pool.workers.map((worker) => ({
      id: worker.id,
      pid: worker.pid,
      dialect: worker.dialect,
      state: worker.isStalled && worker.state === 'ready' ? 'stalled' : worker.state,
      adopted: worker.adopted,
      active: worker.active,
      inFlight: worker.inFlight,
      watching: worker.isWatching ?? null,
      loopDelayMs: worker.loopDelayMs ?? null,
    })),
    peers: { refused: refusedPeers },
  };
}
