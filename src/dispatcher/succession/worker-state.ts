// The state of a worker as one generation of the dispatcher gives it to the next: its schema, its type, its JSON.
import * as v from 'valibot';

import type { SocketIdentity } from '../../fd/internal.js';
import { address, count, formerChild, positive } from '../../handoff/index.js';

/** Bytes are base64 in JSON. */
export const bytes = v.pipe(v.string(), v.transform(decodeBytes));

export function encodeBytes(decoded: Uint8Array): string {
  return Buffer.from(decoded).toString('base64');
}

function decodeBytes(text: string): Buffer {
  return Buffer.from(text, 'base64');
}

const identity = { id: positive, pid: positive };

const passfdWorkerState = v.object({
  dialect: v.literal('passfd'),
  ...identity,
  /** Whether it may hold listening sockets, and have the dispatcher listen. */
  isTrusted: v.boolean(),
  /** Whether it holds a duplicate of each listening socket. */
  isCustodian: v.boolean(),
  /** Whether it understands what only a last will sends. Earlier releases omit it. */
  knowsAgain: v.optional(v.boolean()),
  /** Its slot and service under a dispatcher that died. Earlier releases omit it. */
  formerChild: v.optional(formerChild),
  state: v.picklist(['starting', 'ready', 'draining']),
  /** Why the worker is being disconnected, if it is. The unsent bytes end with the farewell, unless that was sent. */
  parting: v.optional(v.string()),
  isStalled: v.optional(v.boolean()),
  /** Whether its event loop has stalled. Earlier releases omit it. */
  hasLoopStalled: v.optional(v.boolean()),
  isTakenOut: v.optional(v.boolean()),
  isHolding: v.optional(v.boolean()),
  window: positive,
  /** Connections that it wants to have open at most. Null: no limit. */
  capacity: v.nullable(count),
  /** Connections that it had open when it returned from a dispatcher that died. */
  carried: count,
  /** Listening sockets that it has not brought yet. */
  awaitedCustody: count,
  adopted: count,
  closed: count,
  /** The last position on its channel that it has adopted or refused. */
  settled: count,
  subscriptions: v.array(
    v.object({
      listener: count,
      servers: positive,
      /** Whether no server has proved to stay open yet. Earlier releases omit it. */
      isNew: v.optional(v.boolean()),
      /** Earlier releases omit it. */
      sharesTickets: v.optional(v.boolean()),
    }),
  ),
  /** Addresses that it has closed, and that are opened again when it ends. Earlier releases omit them. */
  givenBack: v.optional(v.array(v.object({ key: v.string(), address, backlog: v.optional(count) }))),
  /** Whether it can accept connections by itself. Earlier releases omit this and the next two, and ignore them. */
  direct: v.optional(v.boolean()),
  /** Connections that it has accepted by itself since it joined. */
  acceptedAlone: v.optional(count),
  /** The places on its board. */
  watches: v.optional(
    v.array(
      v.object({
        place: count,
        /** Omitted when the listener is closed. */
        listener: v.optional(count),
        /** Whether it was told to watch. */
        on: v.boolean(),
        /** What the board said: it goes on from there. */
        accepted: count,
        open: count,
      }),
    ),
  ),
  /** The part of a frame that was read from its channel. */
  partial: bytes,
});

/** Connections that a recipe worker has received and has not closed. */
const held = v.array(
  v.pipe(
    bytes,
    v.transform((decoded): SocketIdentity => ({ bytes: decoded })),
  ),
);

const recipeWorkerState = v.object({
  dialect: v.picklist(['multiprocessing', 'raw']),
  ...identity,
  state: v.picklist(['ready', 'draining']),
  adopted: count,
  /** Read by earlier releases alone: how many connections the worker can be expected to serve side by side. */
  concurrency: positive,
  held,
  /** Whether it has received connections that the kernel cannot be asked about. */
  hasOthers: v.optional(v.boolean()),
  /** The part of an answer that was read from its channel. */
  answer: v.string(),
  /** Whether the connection in flight was sent. */
  isSent: v.boolean(),
});

export const workerState = v.union([passfdWorkerState, recipeWorkerState]);

/** It is true while the worker is frozen. */
export type PassfdWorkerState = v.InferOutput<typeof passfdWorkerState>;
export type RecipeWorkerState = v.InferOutput<typeof recipeWorkerState>;
export type WorkerState = v.InferOutput<typeof workerState>;

/** The inverse of parsing by `workerState`. */
export function encodeWorkerState(state: WorkerState): v.InferInput<typeof workerState> {
  return state.dialect === 'passfd'
    ? { ...state, partial: encodeBytes(state.partial) }
    : { ...state, held: state.held.map((identity) => encodeBytes(identity.bytes)) };
}
