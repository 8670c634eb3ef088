// Takeover: how one generation of the dispatcher hands everything to the next, and goes on itself if that fails.
import { closeAll, PassfdError, type Descriptor } from '../../fd/index.js';
import { type Unsent } from '../../fd/internal.js';
import { MAX_BATCH, traceStep } from '../../handoff/index.js';
import { TAKEOVER_FORMAT, type TakeoverChannel, type TakeoverMessage } from '../../dispatcher/internal.js';
import type { ControlOptions } from '../control.js';
import type { Dispatcher } from '../dispatcher.js';
import type { OfferedSocket } from '../listeners.js';
import type { PassfdWorkerSnapshot } from '../workers/passfd-worker.js';
import type { RecipeWorkerSnapshot } from '../workers/recipe-worker.js';
import {
  descriptorsOf,
  type ChildSnapshot,
  type ConnectionSnapshot,
  type ListenerSnapshot,
  type Snapshot,
  type SocketSnapshot,
  type WorkerSnapshot,
} from './snapshot.js';
import { version } from '../version.js';

/** Time for each answer of the other generation; clients wait meanwhile. */
const ANSWER_TIMEOUT_MS = 5_000;

/** Bytes in one message; in base64 they become a third more, and a message has 64 KiB. */
const UNSENT_BYTES = 32_768;

/** Something that travels with a takeover and is no business of the dispatcher's. */
export interface Attachment {
  readonly data: unknown;
  /** Lent on the side that hands over, and the receiver's own. */
  readonly descriptors: readonly Descriptor[];
}

interface Successor {
  readonly channel: TakeoverChannel;
  /** Ends its process at once: it does not answer any more. Its end of the channel is closed by that. */
  readonly kill: () => void;
  /** How long ago this process was asked to stop, if it was. */
  readonly stoppingForMs?: () => number | undefined;
}

/**
 * Hands everything to a process that has said hello. When this rejects, the dispatcher goes on as if nothing had
 * happened; when it resolves, the other one is the dispatcher, and this one is to be `disown`ed.
 * @throws {PassfdError} `ERR_TAKEOVER` says why
 */
export async function handOver(
  dispatcher: Dispatcher,
  { channel, kill, stoppingForMs }: Successor,
  attachments: readonly Attachment[],
): Promise<void> {
  const { snapshot, release } = await dispatcher.freeze();
  traceStep('frozen');
  let hasGone = false;
  try {
    await inTime(kill, async () => {
      for (const { message, descriptors } of messagesOf(snapshot, attachments)) {
        await channel.send(message, descriptors);
      }
      traceStep('handed-over');
      await expect(channel, 'ready');
    });
    dispatcher.renounce();
    hasGone = true;
    await inTime(kill, async () => {
      await channel.send({ type: 'go', stoppingForMs: stoppingForMs?.() });
      traceStep('go-sent');
      await expect(channel, 'started');
    });
  } catch (error) {
    kill();
    // It may have started before it ended: then this one has nothing more to say to the workers.
    if (!hasGone || !(await hasStarted(channel))) {
      dispatcher.thaw();
      throw takeoverError(error);
    }
  } finally {
    release();
  }
}

/**
 * Takes in everything that the other generation has, and does nothing with it. `awaitGo` and the dispatcher's `thaw`
 * follow.
 * @returns what came with it; the caller owns the descriptors
 * @throws {PassfdError} `ERR_TAKEOVER`; the other one was told, and goes on
 */
export async function takeOver(
  dispatcher: Dispatcher,
  channel: TakeoverChannel,
  options: ControlOptions,
): Promise<Attachment[]> {
  try {
    const { snapshot, attachments } = await receive(channel);
    await dispatcher.restore(snapshot, options);
    traceStep('taken-over');
    return attachments;
  } catch (error) {
    const reason = takeoverError(error);
    await refuseTakeover(channel, reason);
    throw reason;
  }
}

/** Tells the other generation that this one cannot take over, and why. */
async function refuseTakeover(channel: TakeoverChannel, { code, message }: PassfdError): Promise<void> {
  await channel.send({ type: 'failed', code, reason: message }).catch(() => undefined);
}

/**
 * Resolves when this generation is the dispatcher.
 * @returns how long ago the other one was asked to stop, if it was
 * @throws {PassfdError} `ERR_TAKEOVER` when the other one still is
 */
export async function awaitGo(
  channel: TakeoverChannel,
): Promise<{ readonly stoppingForMs: number | undefined }> {
  await channel.send({ type: 'ready' });
  traceStep('ready-said');
  // No limit here: the other one has one, and ends this process then.
  const { stoppingForMs } = await expect(channel, 'go');
  // Before anything is touched: when this one dies with it unsaid, the other one goes on.
  await channel.send({ type: 'started' });
  traceStep('started');
  return { stoppingForMs };
}

/** When the time is over, the other process is ended, by which whatever waits for it fails. */
async function inTime(kill: () => void, body: () => Promise<void>): Promise<void> {
  const late = new AbortController();
  const timer = setTimeout(() => {
    late.abort();
    kill();
  }, ANSWER_TIMEOUT_MS);
  try {
    await body();
  } catch (cause) {
    if (!late.signal.aborted) throw cause;
    const reason = `The new generation did not answer within ${ANSWER_TIMEOUT_MS} ms`;
    throw new PassfdError('ERR_TAKEOVER', reason, { cause });
  } finally {
    clearTimeout(timer);
  }
}

/** Waits for one message and nothing else. @throws {PassfdError} `ERR_TAKEOVER` */
async function expect<Type extends TakeoverMessage['type']>(
  channel: TakeoverChannel,
  type: Type,
): Promise<Extract<TakeoverMessage, { type: Type }>> {
  const received = await channel.receive();
  if (!received) throw endedError();
  const { message, descriptors } = received;
  closeAll(descriptors);
  if (isOfType(message, type)) return message;
  if (message.type === 'failed') throw new PassfdError('ERR_TAKEOVER', message.reason);
  throw new PassfdError('ERR_PROTOCOL', `The other generation said ${message.type}, and not ${type}`);
}

function isOfType<Type extends TakeoverMessage['type']>(
  message: TakeoverMessage,
  type: Type,
): message is Extract<TakeoverMessage, { type: Type }> {
  return message.type === type;
}

/** Reads what a generation said before it ended. */
async function hasStarted(channel: TakeoverChannel): Promise<boolean> {
  return expect(channel, 'started').then(
    () => true,
    () => false,
  );
}

export function takeoverError(cause: unknown): PassfdError {
  if (cause instanceof PassfdError) {
    if (cause.code === 'ERR_TAKEOVER') return cause;
    if (cause.code === 'ERR_PEER_GONE') return endedError(cause);
  }
  return new PassfdError('ERR_TAKEOVER', cause instanceof Error ? cause.message : String(cause), { cause });
}

function endedError(cause?: unknown): PassfdError {
  return new PassfdError('ERR_TAKEOVER', 'The other generation ended; what it printed says why', { cause });
}

interface Outgoing {
  readonly message: TakeoverMessage;
  readonly descriptors: readonly Descriptor[];
}

function* messagesOf(snapshot: Snapshot, attachments: readonly Attachment[]): Generator<Outgoing> {
  const { generation, counts, control, rawControl, waiting } = snapshot;
  yield { message: { type: 'from', format: TAKEOVER_FORMAT, version, generation, counts }, descriptors: [] };
  for (const { descriptor, ...listener } of snapshot.listeners) {
    yield { message: { type: 'listener', ...listener }, descriptors: [descriptor] };
  }
  for (const { descriptor, isInherited } of snapshot.offered) {
    yield { message: { type: 'offered', isInherited }, descriptors: [descriptor] };
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
  for (const { channel, id, pid } of snapshot.silentChildren) {
    yield { message: { type: 'silent-child', id, pid }, descriptors: [channel] };
  }
  yield* connectionMessages('waiting', waiting);
  for (const { data, descriptors } of attachments) {
    yield { message: { type: 'attachment', data }, descriptors };
  }
  yield { message: { type: 'all' }, descriptors: [] };
}

function* workerMessages({ worker, channel, inFlight, unsent }: WorkerSnapshot): Generator<Outgoing> {
  yield {
    message: {
      type: 'worker',
      worker:
        worker.dialect === 'passfd'
          ? {
              ...worker,
              subscriptions: [...worker.subscriptions],
              givenBack: worker.givenBack && [...worker.givenBack],
              partial: worker.partial.toString('base64'),
            }
          : { ...worker, held: worker.held.map(({ bytes }) => Buffer.from(bytes).toString('base64')) },
    },
    descriptors: [channel],
  };
  yield* connectionMessages('in-flight', inFlight);
  for (const { bytes, descriptors, handoff } of unsent) {
    for (let start = 0; start < bytes.length; start += UNSENT_BYTES) {
      const part = Buffer.from(bytes.subarray(start, start + UNSENT_BYTES)).toString('base64');
      yield start === 0
        ? { message: { type: 'unsent', bytes: part, handoff }, descriptors }
        : { message: { type: 'unsent', bytes: part }, descriptors: [] };
    }
  }
}

/** As many in one message as came to the same listener one after the other. */
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

/** A snapshot while it arrives; whatever it has got by then, it owns. */
interface Arriving {
  readonly from: Extract<TakeoverMessage, { type: 'from' }>;
  control: SocketSnapshot | undefined;
  rawControl: SocketSnapshot | undefined;
  readonly listeners: ListenerSnapshot[];
  readonly offered: OfferedSocket[];
  readonly workers: (WorkerSnapshot & {
    readonly inFlight: ConnectionSnapshot[];
    readonly unsent: Unsent[];
  })[];
  readonly silentChildren: ChildSnapshot[];
  readonly waiting: ConnectionSnapshot[];
  readonly attachments: Attachment[];
}

async function receive(
  channel: TakeoverChannel,
): Promise<{ readonly snapshot: Snapshot; readonly attachments: Attachment[] }> {
  const first = await channel.receive();
  closeAll(first?.descriptors ?? []);
  if (first?.message.type !== 'from') throw endedError();
  const arriving: Arriving = {
    from: first.message,
    control: undefined,
    rawControl: undefined,
    listeners: [],
    offered: [],
    workers: [],
    silentChildren: [],
    waiting: [],
    attachments: [],
  };
  const { attachments } = arriving;
  const { generation, counts, format } = first.message;
  const snapshotOf = (): Snapshot => ({ ...arriving, generation, counts });
  try {
    if (format > TAKEOVER_FORMAT) {
      throw new PassfdError(
        'ERR_TAKEOVER',
        `The other generation speaks format ${format} of the takeover, and this is passfd ${version} with format ${TAKEOVER_FORMAT}`,
      );
    }
    for (;;) {
      const received = await channel.receive();
      if (!received) throw endedError();
      const { message, descriptors } = received;
      if (message.type === 'all') {
        closeAll(descriptors);
        return { snapshot: snapshotOf(), attachments };
      }
      add(arriving, message, descriptors);
    }
  } catch (error) {
    closeAll([...descriptorsOf(snapshotOf()), ...attachments.flatMap(({ descriptors }) => descriptors)]);
    throw error;
  }
}

/** @throws {PassfdError} `ERR_PROTOCOL`; then the descriptors are closed */
function add(arriving: Arriving, message: TakeoverMessage, descriptors: Descriptor[]): void {
  const worker = arriving.workers.at(-1);
  const [descriptor] = descriptors;
  switch (message.type) {
    case 'attachment':
      arriving.attachments.push({ data: message.data, descriptors });
      return;
    case 'waiting':
      arriving.waiting.push(...connectionsIn(message, descriptors));
      return;
    case 'in-flight':
      worker?.inFlight.push(...connectionsIn(message, descriptors));
      if (worker) return;
      break;
    case 'unsent':
      // The connections of a hand-off are in flight already.
      if (!worker || (message.handoff && descriptors.length > 0)) break;
      worker.unsent.push({
        bytes: Buffer.from(message.bytes, 'base64'),
        descriptors,
        handoff: message.handoff,
      });
      return;
    default:
      if (descriptor && descriptors.length === 1 && addOne(arriving, message, descriptor)) return;
  }
  closeAll(descriptors);
  throw new PassfdError(
    'ERR_PROTOCOL',
    `A message ${message.type} of the takeover comes at the wrong place, or with ${descriptors.length} descriptors`,
  );
}

type SocketFile = Omit<SocketSnapshot, 'descriptor'>;

function fileIn({ removesFile, fileIdentity }: SocketFile): SocketFile {
  return { removesFile, fileIdentity };
}

/** @returns whether it is a message with one descriptor */
function addOne(arriving: Arriving, message: TakeoverMessage, descriptor: Descriptor): boolean {
  switch (message.type) {
    case 'listener': {
      const { id, key, isOwn, backlog, accepted, tickets } = message;
      arriving.listeners.push({ id, key, isOwn, backlog, accepted, tickets, ...fileIn(message), descriptor });
      return true;
    }
    case 'offered':
      arriving.offered.push({ isInherited: message.isInherited, descriptor });
      return true;
    case 'control':
      if (arriving.control) return false;
      arriving.control = { descriptor, ...fileIn(message) };
      return true;
    case 'raw-control':
      if (arriving.rawControl) return false;
      arriving.rawControl = { descriptor, ...fileIn(message) };
      return true;
    case 'worker':
      arriving.workers.push({
        worker: snapshotIn(message.worker),
        channel: descriptor,
        inFlight: [],
        unsent: [],
      });
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

function snapshotIn(
  worker: Extract<TakeoverMessage, { type: 'worker' }>['worker'],
): PassfdWorkerSnapshot | RecipeWorkerSnapshot {
  return worker.dialect === 'passfd'
    ? { ...worker, partial: Buffer.from(worker.partial, 'base64') }
    : { ...worker, held: worker.held.map((bytes) => ({ bytes: Buffer.from(bytes, 'base64') })) };
}
