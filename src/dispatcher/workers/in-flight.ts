// InFlight: the connections on their way to a worker, in the order of their positions on its channel.
import { closeAll, type Descriptor } from '../../fd/index.js';
import type { Handoff, Unsent } from '../../fd/internal.js';
import { encodeHandoff, Ledger, MAX_BATCH, type Channel } from '../../handoff/index.js';
import type { AcceptedConnection } from '../listener.js';

/** Owns the connections until they are taken out. */
export class InFlight {
  readonly #channel: Channel;
  readonly #ledger: Ledger<AcceptedConnection>;
  readonly #distrustedUser: number | undefined;
  readonly #onUnsent: (error: unknown) => void;
  /** Given, and sent by the next `flush`. */
  #outgoing: AcceptedConnection[] = [];

  /**
   * @param settled position of the last connection that was settled in another process
   * @param distrustedUser user of the worker, where the worker can make slow to close what is sent to it
   * @param onUnsent called when a batch cannot be sent
   */
  constructor(
    channel: Channel,
    settled: number,
    distrustedUser: number | undefined,
    onUnsent: (error: unknown) => void,
  ) {
    this.#channel = channel;
    this.#ledger = new Ledger(settled);
    this.#distrustedUser = distrustedUser;
    this.#onUnsent = onUnsent;
  }

  /**
   * Goes on where another dispatcher was.
   * @param connections what was sent, and what is still to be sent
   * @param unsent frames that wait for the channel
   * @returns resolves when the last of these frames that is no hand-off is sent, or cannot be sent
   */
  restore(connections: readonly AcceptedConnection[], unsent: readonly Unsent[]): Promise<void> {
    const { settled } = this.#ledger;
    for (const connection of connections) this.#add(connection);
    let lastSent = Promise.resolve();
    for (const { bytes, descriptors, handoff } of unsent) {
      if (handoff) {
        const first = handoff.position - settled - 1;
        this.#post(Buffer.from(bytes), connections.slice(first, first + handoff.count), handoff);
      } else {
        lastSent = this.#postOwned(Buffer.from(bytes), descriptors);
      }
    }
    return lastSent;
  }

  get size(): number {
    return this.#ledger.size + this.#outgoing.length;
  }

  /** Whether connections were sent, or wait for the channel, that the worker has not answered. */
  get hasUnanswered(): boolean {
    return this.#ledger.size > 0;
  }

  /** Position up to which the worker has adopted or refused connections. */
  get settled(): number {
    return this.#ledger.settled;
  }

  /** What was sent, or waits for the channel, in the order of positions. */
  get connections(): readonly AcceptedConnection[] {
    return this.#ledger.entries;
  }

  /** Descriptors of what was sent. */
  get sent(): readonly Descriptor[] {
    if (this.#channel.socket.closed) return [];
    const sent = this.#ledger.entries.slice(0, this.#lastSent - this.#ledger.settled);
    return sent.map(({ descriptor }) => descriptor);
  }

  /** Position of the last connection that was sent. Later ones wait for the channel, or could not be sent. */
  get #lastSent(): number {
    const unsent = this.#channel.socket.unsentPosition;
    return unsent === undefined ? this.#ledger.last : unsent - 1;
  }

  give(connection: AcceptedConnection): void {
    this.#outgoing.push(connection);
  }

  /** Sends what was given. @returns whether there was something */
  flush(): boolean {
    const outgoing = this.#outgoing;
    if (outgoing.length === 0) return false;
    this.#outgoing = [];
    for (let start = 0; start < outgoing.length;) {
      const end = endOfBatch(outgoing, start);
      const batch = outgoing.slice(start, end);
      const position = this.#ledger.last + 1;
      for (const connection of batch) this.#add(connection);
      const listener = batch[0]?.listener.id ?? 0;
      this.#post(encodeHandoff(listener, batch.length), batch, { position, listener });
      start = end;
    }
    return true;
  }

  /**
   * The worker has adopted or refused everything up to a position. @returns these connections, which the caller owns
   * @throws {PassfdError} `ERR_PROTOCOL` when they were not sent, or are settled already
   */
  settleUpTo(position: number): AcceptedConnection[] {
    return this.#ledger.settleUpTo(position, this.#lastSent);
  }

  /** Takes out what was not sent. The caller owns it. */
  takeUnsent(): AcceptedConnection[] {
    return [...this.#ledger.takeFrom(this.#lastSent + 1), ...this.#outgoing.splice(0)];
  }

  /** Takes out everything. The caller owns it. */
  takeAll(): AcceptedConnection[] {
    return [...this.#ledger.takeAll(), ...this.#outgoing.splice(0)];
  }

  #add(connection: AcceptedConnection): void {
    if (this.#distrustedUser !== undefined) connection.descriptor.distrust(this.#distrustedUser);
    this.#ledger.add(connection);
  }

  #post(frame: Buffer, batch: readonly AcceptedConnection[], handoff: Handoff): void {
    const descriptors = batch.map(({ descriptor }) => descriptor);
    this.#channel.post(frame, descriptors, { handoff }).catch(this.#onUnsent);
  }

  async #postOwned(frame: Buffer, descriptors: readonly Descriptor[]): Promise<void> {
    await this.#channel.post(frame, descriptors).catch(() => undefined);
    closeAll(descriptors);
  }
}

/** A batch holds connections of one listener, and at most as many as one message can carry. */
function endOfBatch(connections: readonly AcceptedConnection[], start: number): number {
  const most = Math.min(connections.length, start + MAX_BATCH);
  let end = start + 1;
  while (end < most && connections[end]?.listener === connections[start]?.listener) end++;
  return end;
}
