// Outlet: what the dispatcher says to a worker beside hand-offs. A farewell is the last of it.
import type { Descriptor } from '../../fd/index.js';
import type { Channel } from '../../handoff/index.js';

export class Outlet {
  readonly #channel: Channel;
  #isClosed: boolean;

  /** @param isClosed whether another dispatcher has posted the farewell */
  constructor(channel: Channel, isClosed: boolean) {
    this.#channel = channel;
    this.#isClosed = isClosed;
  }

  /** Whether the farewell was posted. Nothing can be sent afterwards. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Sends a frame, if the worker can still get it. */
  post(frame: Buffer): void {
    this.send(frame).catch(() => undefined);
  }

  /**
   * Sends a frame. Never rejects: when the worker is gone, its channel ends after everything that it still said.
   * @param descriptors lent until the promise is settled
   * @param signal takes the frame back while it waits for the channel
   * @returns whether the kernel has taken the frame
   */
  async send(frame: Buffer, descriptors?: readonly Descriptor[], signal?: AbortSignal): Promise<boolean> {
    if (this.#isClosed) return false;
    try {
      await this.#channel.post(frame, descriptors, signal && { signal });
      return true;
    } catch {
      return false;
    }
  }

  /** As `send`, and closes the outlet. */
  sendLast(frame: Buffer): Promise<boolean> {
    const sending = this.send(frame);
    this.#isClosed = true;
    return sending;
  }
}
