// ReceiptWatch: reports when the other end of a Unix socket has received some of what was sent to it.
import { Descriptor } from './descriptor.js';
import { native } from './native.js';
import { READABLE, Readiness } from './readiness.js';
import type { StreamSocket } from './stream-socket.js';

/** Watches one socket. It does not keep the process alive. Close it before the socket. */
export class ReceiptWatch implements Disposable {
  readonly #descriptor: Descriptor;
  readonly #readiness: Readiness;

  private constructor(descriptor: Descriptor, onReceived: () => void) {
    this.#descriptor = descriptor;
    this.#readiness = new Readiness(descriptor.fd, () => {
      native.takeReceipts(descriptor.fd);
      onReceived();
    });
    this.#readiness.setReferenced(false);
    this.#readiness.want(READABLE);
  }

  /**
   * @param onReceived called at most once in a turn of the event loop, when something may have been received. Check
   * `unreadBytes` of the socket.
   * @returns undefined on systems other than Linux, or when no descriptor is free
   */
  static start(socket: StreamSocket, onReceived: () => void): ReceiptWatch | undefined {
    const result = native.watchReceipts(socket.fd);
    return result < 0 ? undefined : new ReceiptWatch(new Descriptor(result), onReceived);
  }

  close(): void {
    this.#readiness.close();
    this.#descriptor.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
