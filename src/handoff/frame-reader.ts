// FrameReader: cuts a stream into frames, and finds the descriptors that came with each.
import { closeAll, PassfdError, type Descriptor } from '../fd/index.js';
import { MAX_PAYLOAD_BYTES } from './messages.js';

const LENGTH_BYTES = 4;

/** One receive can bring the end of a frame that has a group, and the beginning of the next frame with its group. */
const MAX_GROUPS = 2;

/** The descriptors of one `sendmsg`, or `lost` when the kernel could not install them here. */
export type DescriptorGroup = Descriptor[] | 'lost';

/**
 * Gets what `receive` brought, in the same order. It needs no socket.
 *
 * The descriptors of a frame come with its first byte, and the kernel ends a receive after a message that has descriptors.
 * So groups of descriptors arrive in the order of the frames that announce them, but not always in the same receive.
 */
export class FrameReader {
  #bytes: Buffer = Buffer.alloc(0);
  readonly #groups: DescriptorGroup[] = [];

  pushBytes(bytes: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes]);
  }

  /** Takes over the group. @throws {PassfdError} `ERR_PROTOCOL` when more groups wait than frames can have announced */
  pushGroup(group: DescriptorGroup): void {
    this.#groups.push(group);
    if (this.#groups.length > MAX_GROUPS) {
      throw new PassfdError('ERR_PROTOCOL', 'The peer passed descriptors that no frame announced');
    }
  }

  /** The payload of the next frame; undefined while a part of it is missing. @throws {PassfdError} `ERR_PROTOCOL` */
  next(): Buffer | undefined {
    if (this.#bytes.length < LENGTH_BYTES) return undefined;
    const length = this.#bytes.readUInt32BE(0);
    if (length === 0 || length > MAX_PAYLOAD_BYTES) {
      throw new PassfdError('ERR_PROTOCOL', `A frame announces ${length} bytes`);
    }
    const end = LENGTH_BYTES + length;
    if (this.#bytes.length < end) return undefined;
    const payload = this.#bytes.subarray(LENGTH_BYTES, end);
    this.#bytes = this.#bytes.subarray(end);
    return payload;
  }

  /** The descriptors that a frame announced; the caller owns them. @throws {PassfdError} `ERR_PROTOCOL` */
  takeGroup(count: number): DescriptorGroup {
    const group = this.#groups.shift();
    if (group === 'lost') return group;
    if (group?.length !== count) {
      closeAll(group ?? []);
      throw new PassfdError(
        'ERR_PROTOCOL',
        `${count} descriptors were announced, and ${group?.length ?? 0} came`,
      );
    }
    return group;
  }

  /** The part of the next frame that has come. */
  get partial(): Buffer {
    return this.#bytes;
  }

  /** Closes the descriptors that were not taken. */
  close(): void {
    for (const group of this.#groups.splice(0)) {
      if (group !== 'lost') closeAll(group);
    }
  }
}
