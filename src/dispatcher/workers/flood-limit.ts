// FloodLimit: how much a worker may say before it is disconnected, so that none floods the dispatcher.
import { PassfdError } from '../../fd/index.js';
import type { FromWorker } from '../../handoff/index.js';

/**
 * What a worker may say in a second beside adopting, refusing and closing connections. Each message counts as this many
 * bytes more than it has, since handling a short message costs hardly less than handling a long one.
 */
const MAX_SAID_BYTES = 2_097_152;
const MESSAGE_BYTES = 64;

/**
 * Each connection that a worker adopts or refuses allows it this many bytes more: a worker that takes connections one by one
 * changes its capacity up to three times with each.
 */
const SAID_BYTES_PER_SETTLED = 384;
const SECOND_MS = 1000;

export class FloodLimit {
  /** In the second that began at `#saidSince`, less what its connections allow. May be negative. */
  #saidBytes = 0;
  #saidSince = 0;

  /**
   * The worker has said something.
   * @param closed connections that it had closed before
   * @throws {PassfdError} `ERR_PROTOCOL` when the worker says too much
   */
  noteSaid(message: FromWorker, bytes: number, closed: number): void {
    if (isProgress(message, closed)) return;
    const now = performance.now();
    if (now - this.#saidSince >= SECOND_MS) {
      this.#saidSince = now;
      this.#saidBytes = 0;
    }
    this.#saidBytes += bytes + MESSAGE_BYTES;
    if (this.#saidBytes <= MAX_SAID_BYTES) return;
    throw new PassfdError(
      'ERR_PROTOCOL',
      `The worker sent more than ${MAX_SAID_BYTES} bytes in a second, beside what it adopted, refused and closed`,
    );
  }

  /** The worker has adopted or refused connections. */
  noteSettled(count: number): void {
    this.#saidBytes -= count * SAID_BYTES_PER_SETTLED;
  }
}

/** Whether the number of connections bounds how many such messages there can be. */
function isProgress(message: FromWorker, closed: number): boolean {
  if (message.type === 'closed') return message.total > closed;
  return message.type === 'adopted' || message.type === 'refused' || message.type === 'custody';
}
