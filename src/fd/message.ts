// Message: bytes, and the descriptors that came beside them, which it owns until they are taken.
import { closeAll, type Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';

/**
 * What one receive brought. The descriptors belong to the message until they are taken; `close`, or `using`, closes
 * those that nobody took:
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

  /** Those not taken yet, in the order in which they were sent. The message still owns them. */
  get descriptors(): readonly Descriptor[] {
    return this.#descriptors;
  }

  /** Takes the first that is left; the caller owns it. @throws {PassfdError} `ERR_DESCRIPTOR_MISSING` */
  takeDescriptor(): Descriptor {
    const descriptor = this.#descriptors.shift();
    if (!descriptor) {
      throw new PassfdError('ERR_DESCRIPTOR_MISSING', 'The message has no descriptor, or no more of them');
    }
    return descriptor;
  }

  /** Takes all that are left; the caller owns them. */
  takeDescriptors(): Descriptor[] {
    return this.#descriptors.splice(0);
  }

  /** Closes what was not taken. */
  close(): void {
    closeAll(this.takeDescriptors());
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
