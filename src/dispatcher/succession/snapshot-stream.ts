// A snapshot as a stream of messages: which message carries what, and how the snapshot is put together again.
import { closeAll, PassfdError, type Descriptor } from '../../fd/index.js';
import type { Unsent } from '../../fd/internal.js';
import { MAX_BATCH } from '../../handoff/index.js';
import { version } from '../version.js';
import {
  descriptorsOf,
  type ChildSnapshot,
  type ConnectionSnapshot,
  type ListenerSnapshot,
  type OfferedSnapshot,
  type Snapshot,
  type SocketSnapshot,
  type WorkerSnapshot,
} from './snapshot.js';
import type { TakeoverChannel } from './takeover-channel.js';
import { TAKEOVER_FORMAT, type OutgoingMessage, type TakeoverMessage } from './takeover-messages.js';
import { encodeBytes, encodeWorkerState } from './worker-state.js';

/** Unsent bytes in one message. */
const UNSENT_BYTES = 32_768;

/** What the program that runs the dispatcher hands over with it. The dispatcher does not look into it. */
export interface Attachment {
  readonly data: unknown;
  /** Lent on the side that hands over. The side that takes over owns them. */
  readonly descriptors: readonly Descriptor[];
}

interface Outgoing {
  readonly message: OutgoingMessage;
  readonly descriptors: readonly Descriptor[];
}

export async function sendSnapshot(
  channel: TakeoverChannel,
  snapshot: Snapshot,
  attachments: readonly Attachment[],
): Promise<void> {
  for (const { message, descriptors } of messagesOf(snapshot, attachments)) {
    await channel.send(message, descriptors);
  }
}

/**
 * @returns the snapshot and what came with it; the caller owns the descriptors of both
 * @throws {PassfdError} `ERR_TAKEOVER` when the other generation ended or speaks a newer format; `ERR_PROTOCOL`
 */
export async function receiveSnapshot(
  channel: TakeoverChannel,
): Promise<{ readonly snapshot: Snapshot; readonly attachments: Attachment[] }> {
  const { message: from, descriptors: none } = await channel.next();
  closeAll(none);
  if (from.type !== 'from') {
    throw new PassfdError('ERR_PROTOCOL', `The first takeover message is ${from.type}`);
  }
  const { format, generation, counts } = from;
  if (format > TAKEOVER_FORMAT) {
    throw new PassfdError(
      'ERR_TAKEOVER',
      `The other generation speaks format ${format} of the takeover; this is passfd ${version} with format ${TAKEOVER_FORMAT}`,
    );
  }
  const arriving: Arriving = {
    generation,
    counts,
    control: undefined,
    rawControl: undefined,
    listeners: [],
    offered: [],
    workers: [],
    silentChildren: [],
    waiting: [],
  };
  const attachments: Attachment[] = [];
  try {
    for (;;) {
      const { message, descriptors } = await channel.next();
      if (message.type === 'all') {
        closeAll(descriptors);
        return { snapshot: arriving, attachments };
      }
      if (message.type === 'attachment') attachments.push({ data: message.data, descriptors });
      else add(arriving, message, descriptors);
    }
  } catch (error) {
    closeAll([...descriptorsOf(arriving), ...attachments.flatMap(({ descriptors }) => descriptors)]);
    throw error;
  }
}

function* messagesOf(snapshot: Snapshot, attachments: readonly Attachment[]): Generator<Outgoing> {
  const { generation, counts, control, rawControl, waiting } = snapshot;
  yield { message: { type: 'from', format: TAKEOVER_FORMAT, version, generation, counts }, descriptors: [] };
  for (const { descriptor, ...listener } of snapshot.listeners) {
    yield { message: { type: 'listener', ...listener }, descriptors: [descriptor] };
  }
  for (const { descriptor, ...offered } of snapshot.offered) {
    yield { message: { type: 'offered', ...offered }, descriptors: [descriptor] };
  }
  if (control) {
    const { descriptor, ...file } = control;
    yield { message: { type: 'control', ...file }, descriptors: [descriptor] };
  }
  if (rawControl) {
    const { descriptor, ...file } = rawControl;
    yield { message: { type: 'raw-control', ...file }, descriptors: [descriptor] };
  }
  for (const worker of snapshot.workers) yield* workerMessages(worker);
  for (const { channel, ...child } of snapshot.silentChildren) {
    yield { message: { type: 'silent-child', ...child }, descriptors: [channel] };
  }
  yield* connectionMessages('waiting', waiting);
  for (const { data, descriptors } of attachments) {
    yield { message: { type: 'attachment', data }, descriptors };
  }
  yield { message: { type: 'all' }, descriptors: [] };
}

function* workerMessages({ worker, channel, inFlight, unsent }: WorkerSnapshot): Generator<Outgoing> {
  yield { message: { type: 'worker', worker: encodeWorkerState(worker) }, descriptors: [channel] };
  yield* connectionMessages('in-flight', inFlight);
  for (const { bytes, descriptors, handoff } of unsent) {
    for (let start = 0; start < bytes.length; start += UNSENT_BYTES) {
      const part = encodeBytes(bytes.subarray(start, start + UNSENT_BYTES));
      yield start === 0
        ? { message: { type: 'unsent', bytes: part, handoff }, descriptors }
        : { message: { type: 'unsent', bytes: part }, descriptors: [] };
    }
  }
}

/** One message carries a run of connections that one listener accepted. */
function* connectionMessages(
  type: 'waiting' | 'in-flight',
  connections: readonly ConnectionSnapshot[],
): Generator<Outgoing> {
  for (let start = 0; start < connections.length;) {
    const listener = connections[start]?.listener ?? 0;
    let end = start;
    while (end < start + MAX_BATCH && connections[end]?.listener === listener) end++;
    const descriptors = connections.slice(start, end).map(({ descriptor }) => descriptor);
    yield { message: { type, listener }, descriptors };
    start = end;
  }
}

/** A snapshot while it arrives. */
interface Arriving extends Snapshot {
  control: SocketSnapshot | undefined;
  rawControl: SocketSnapshot | undefined;
  readonly listeners: ListenerSnapshot[];
  readonly offered: OfferedSnapshot[];
  readonly workers: (WorkerSnapshot & {
    readonly inFlight: ConnectionSnapshot[];
    readonly unsent: Unsent[];
  })[];
  readonly silentChildren: ChildSnapshot[];
  readonly waiting: ConnectionSnapshot[];
}

/** @throws {PassfdError} `ERR_PROTOCOL`; then the descriptors are closed */
function add(arriving: Arriving, message: TakeoverMessage, descriptors: Descriptor[]): void {
  const worker = arriving.workers.at(-1);
  const [descriptor] = descriptors;
  switch (message.type) {
    case 'waiting':
      arriving.waiting.push(...connectionsIn(message, descriptors));
      return;
    case 'in-flight':
      worker?.inFlight.push(...connectionsIn(message, descriptors));
      if (worker) return;
      break;
    case 'unsent': {
      const { bytes, handoff } = message;
      // The connections of a hand-off are in flight already.
      if (!worker || (handoff && descriptors.length > 0)) break;
      worker.unsent.push({ bytes, descriptors, handoff });
      return;
    }
    default:
      if (descriptor && descriptors.length === 1 && addOne(arriving, message, descriptor)) return;
  }
  closeAll(descriptors);
  throw new PassfdError(
    'ERR_PROTOCOL',
    `Takeover message ${message.type} is at the wrong place, or has ${descriptors.length} descriptors`,
  );
}

/** @returns whether it is a message with one descriptor */
function addOne(arriving: Arriving, message: TakeoverMessage, descriptor: Descriptor): boolean {
  switch (message.type) {
    case 'listener':
      arriving.listeners.push({ ...message, descriptor });
      return true;
    case 'offered':
      arriving.offered.push({ ...message, descriptor });
      return true;
    case 'control':
      if (arriving.control) return false;
      arriving.control = { ...message, descriptor };
      return true;
    case 'raw-control':
      if (arriving.rawControl) return false;
      arriving.rawControl = { ...message, descriptor };
      return true;
    case 'worker':
      arriving.workers.push({ worker: message.worker, channel: descriptor, inFlight: [], unsent: [] });
      return true;
    case 'silent-child':
      arriving.silentChildren.push({ id: message.id, pid: message.pid, channel: descriptor });
      return true;
    default:
      return false;
  }
}

function connectionsIn(
  { listener }: { readonly listener: number },
  descriptors: readonly Descriptor[],
): ConnectionSnapshot[] {
  return descriptors.map((descriptor) => ({ descriptor, listener }));
}
