// How the dispatcher disconnects a worker that lives, so that no connection is served twice and none is lost.
//
// A live worker may adopt what is in flight to it at any moment, so none of that may go to another worker before this
// worker can adopt nothing more. And a worker whose channel ends without a word takes the dispatcher for dead, and keeps
// what it has received. So there are three steps, in this order:
//
//   1. the farewell: the worker learns that the dispatcher lives, and that it keeps only what it has adopted
//   2. the shutdown of the channel in both directions: the worker can adopt nothing more
//   3. the last read: everything that the worker adopted before the shutdown is its own
//
// Only then does the rest go to other workers. Connections that were never sent go to them at once, with step 1.
import { PassfdError } from '../../fd/index.js';
import { decodeFromWorker, encodeJson, shortened, type Channel } from '../../handoff/index.js';
import type { Outlet } from './outlet.js';

export interface Farewell {
  readonly code: 'ERR_PROTOCOL' | 'ERR_DISPATCHER';
  readonly reason: string;
}

/** @returns what the worker and the log are given as the reason */
export function farewellFor(error: unknown): Farewell {
  return {
    code: isViolation(error) ? 'ERR_PROTOCOL' : 'ERR_DISPATCHER',
    reason: shortened(error instanceof PassfdError ? error.message : String(error)),
  };
}

/** Whether the worker broke the protocol. Any other error is no fault of the worker. */
export function isViolation(error: unknown): error is PassfdError {
  return error instanceof PassfdError && error.code === 'ERR_PROTOCOL';
}

/**
 * Step 1. Hand-offs that wait for the channel are rejected with the error.
 * @returns resolves when the kernel has taken the farewell, or the worker is gone
 */
export async function sendFarewell(
  { socket }: Channel,
  outlet: Outlet,
  farewell: Farewell,
  error: unknown,
): Promise<void> {
  if (!socket.closed) socket.endHandoffs(error);
  await outlet.sendLast(encodeJson({ type: 'farewell', ...farewell }));
}

/**
 * Step 2.
 * @param farewell waited for first. A worker that does not read can keep it from being sent, so leave it out when nothing is in
 * flight to the worker
 */
export async function shutDown({ socket }: Channel, farewell: Promise<void> | undefined): Promise<void> {
  if (farewell) await farewell;
  if (!socket.closed) socket.shutdown();
}

/** Step 3. What else the worker said means nothing any more. */
export async function readLastAdopted(
  channel: Channel,
  onAdopted: (position: number) => void,
): Promise<void> {
  if (channel.socket.closed) return;
  try {
    await channel.read((payload) => {
      const message = decodeFromWorker(payload);
      if (message.type === 'adopted') onAdopted(message.position);
      return undefined;
    });
  } catch {
    // Nothing after an error of the format can be understood, so nothing more was adopted.
  }
}
