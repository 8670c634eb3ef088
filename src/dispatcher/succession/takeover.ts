// Takeover: the steps by which one generation of the dispatcher gives everything to the next, or keeps it if that fails.
import { closeAll, PassfdError } from '../../fd/index.js';
import { traceStep } from '../../handoff/index.js';
import type { ControlOptions } from '../control.js';
import type { Dispatcher } from '../dispatcher.js';
import { receiveSnapshot, sendSnapshot, type Attachment } from './snapshot-stream.js';
import { endedError, type TakeoverChannel } from './takeover-channel.js';
import type { TakeoverMessage } from './takeover-messages.js';

/** Time limit for each answer of the other generation. Clients wait meanwhile. */
const ANSWER_TIMEOUT_MS = 5_000;

interface Successor {
  readonly channel: TakeoverChannel;
  /** Kills its process, which closes its end of the channel. */
  readonly kill: () => void;
  /** Milliseconds since this process was asked to stop, if it was. */
  readonly stoppingForMs?: () => number | undefined;
}

/**
 * Gives everything to a process that has said hello. If this resolves, that process is the dispatcher: call `disown`. If it
 * rejects, this dispatcher goes on as if nothing had happened.
 * @throws {PassfdError} `ERR_TAKEOVER`
 */
export async function handOver(
  dispatcher: Dispatcher,
  { channel, kill, stoppingForMs }: Successor,
  attachments: readonly Attachment[],
): Promise<void> {
  using frozen = await dispatcher.freeze();
  traceStep('frozen');
  let hasGone = false;
  try {
    await inTime(kill, async () => {
      await sendSnapshot(channel, frozen.snapshot, attachments);
      traceStep('handed-over');
      await expect(channel, 'ready');
    });
    dispatcher.cancelLastWill();
    hasGone = true;
    await inTime(kill, async () => {
      await channel.send({ type: 'go', stoppingForMs: stoppingForMs?.() });
      traceStep('go-sent');
      await expect(channel, 'started');
    });
  } catch (error) {
    kill();
    // If it said `started` before it ended, workers may have heard from it. This process must not talk to them again.
    if (!hasGone || !(await hasStarted(channel))) {
      dispatcher.thaw();
      throw takeoverError(error);
    }
  }
}

/**
 * Receives everything from the other generation, and touches none of it. Call `awaitGo` next, then `thaw`.
 * @returns the attachments; the caller owns their descriptors
 * @throws {PassfdError} `ERR_TAKEOVER`; the other generation was told, and is still the dispatcher. Call `disown`
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

async function refuseTakeover(channel: TakeoverChannel, { code, message }: PassfdError): Promise<void> {
  await channel.send({ type: 'failed', code, reason: message }).catch(() => undefined);
}

/**
 * Resolves when this generation is the dispatcher.
 * @returns milliseconds since the other generation was asked to stop, if it was
 * @throws {PassfdError} `ERR_TAKEOVER` when the other generation is still the dispatcher
 */
export async function awaitGo(
  channel: TakeoverChannel,
): Promise<{ readonly stoppingForMs: number | undefined }> {
  await channel.send({ type: 'ready' });
  traceStep('ready-said');
  // No time limit: the other generation has one, and kills this process when it is over.
  const { stoppingForMs } = await expect(channel, 'go');
  // Before anything is touched: if this process dies before `started` is sent, the other generation stays the dispatcher.
  await channel.send({ type: 'started' });
  traceStep('started');
  return { stoppingForMs };
}

/** Kills the other process when the time is over, so that `body` fails. */
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
  throw new PassfdError('ERR_PROTOCOL', `The other generation said ${message.type} instead of ${type}`);
}

function isOfType<Type extends TakeoverMessage['type']>(
  message: TakeoverMessage,
  type: Type,
): message is Extract<TakeoverMessage, { type: Type }> {
  return message.type === type;
}

/** Reads what the other generation said before it ended. */
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
