// Message: received bytes and descriptors. It owns the descriptors until they are taken.
import { closeAll, type Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';

/**
 * The bytes and descriptors of one receive. The message owns the descriptors until they are taken; `close`, or `using`, closes
 * those that were not taken:
 *
 * ```ts
 * using message = await socket.receive();
 * ```
 */
export class Message implements Disposable {
  readonly bytes: Buffer;
  readonly #descriptors: Descriptor[];

  /** Takes over `descriptors`. */
  constructor(bytes: Buffer, descriptors: Descriptor[]) {
    this.bytes = bytes;
    this.#descriptors = descriptors;
  }

  /** The descriptors that were not taken yet, in the order in which they were sent. The message still owns them. */
  get descriptors(): readonly Descriptor[] {
    return this.#descriptors;
  }

  /** Takes the first descriptor; the caller owns it. @throws {PassfdError} `ERR_DESCRIPTOR_MISSING` when none is left */
  takeDescriptor(): Descriptor {
    const descriptor = this.#descriptors.shift();
    if (!descriptor) {
      throw new PassfdError('ERR_DESCRIPTOR_MISSING', 'The message has no descriptor left');
    }
    return descriptor;
  }

  /** Takes all descriptors that are left; the caller owns them. */
  takeDescriptors(): Descriptor[] {
    return this.#descriptors.splice(0);
  }

  /** Closes the descriptors that were not taken. */
  close(): void {
    closeAll(this.takeDescriptors());
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
