// Takeover: the steps by which one generation of the dispatcher gives everything to the next, or keeps it if that fails.
import { closeAll, PassfdError } from '../../fd/index.js';
import { traceStep } from '../../handoff/index.js';
import type { ControlOptions } from '../control.js';
import type { Dispatcher } from '../dispatcher.js';
import { receiveSnapshot, sendSnapshot, type Attachment } from './snapshot-stream.js';
import { endedError, type TakeoverChannel } from './takeover-channel.js';
import type { TakeoverMessage } from './takeover-messages.js';

/** Time for each answer of the other generation; clients wait meanwhile. */
const ANSWER_TIMEOUT_MS = 5_000;

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
      await sendSnapshot(channel, snapshot, attachments);
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
    const { snapshot, attachments } = await receiveSnapshot(channel);
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
  const { message, descriptors } = await channel.next();
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
