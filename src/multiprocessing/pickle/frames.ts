// The output of the encoder, in frames of protocol 4 that begin and end where CPython's do.
import { op } from './opcodes.js';

/** CPython's FRAME_SIZE_TARGET: a frame of this size ends, and a payload of this size is in no frame. */
const FRAME_TARGET_BYTES = 65_536;
/** CPython's FRAME_SIZE_MIN: a shorter frame has no header. */
const FRAME_MIN_BYTES = 4;
/** The opcode and 8 bytes of length, little-endian. */
const HEADER_BYTES = 9;

export class FramedOutput {
  #bytes = Buffer.allocUnsafe(256);
  #length = 0;
  /** Position of the header of the open frame. The header is filled in when the frame ends. */
  #frame: number | undefined;

  /** Bytes before the first frame. */
  constructor(prelude: Uint8Array) {
    this.#append(prelude);
  }

  /** Writes an opcode with its argument. */
  write(opcode: number, argument: Uint8Array = none): void {
    if (this.#frame === undefined) {
      this.#frame = this.#length;
      this.#append(emptyHeader);
    }
    this.#append(Uint8Array.of(opcode));
    this.#append(argument);
  }

  /** Writes an opcode with the length of the payload and the payload. */
  writePayload(opcode: number, length: Uint8Array, payload: Uint8Array): void {
    if (payload.length < FRAME_TARGET_BYTES) {
      this.write(opcode, length);
    } else {
      this.#endFrame();
      this.#append(Uint8Array.of(opcode));
      this.#append(length);
    }
    this.#append(payload);
  }

  /** Called before each value: the only place where a frame ends because of its length. */
  beginValue(): void {
    if (this.#frame !== undefined && this.#length - this.#frame - HEADER_BYTES >= FRAME_TARGET_BYTES) {
      this.#endFrame();
    }
  }

  /** @returns the whole output */
  end(): Buffer {
    this.#endFrame();
    return this.#bytes.subarray(0, this.#length);
  }

  #endFrame(): void {
    if (this.#frame === undefined) return;
    const contents = this.#frame + HEADER_BYTES;
    const length = this.#length - contents;
    if (length >= FRAME_MIN_BYTES) {
      this.#bytes.writeUInt8(op.FRAME, this.#frame);
      this.#bytes.writeBigUInt64LE(BigInt(length), this.#frame + 1);
    } else {
      this.#bytes.copyWithin(this.#frame, contents, this.#length);
      this.#length -= HEADER_BYTES;
    }
    this.#frame = undefined;
  }

  #append(bytes: Uint8Array): void {
    const needed = this.#length + bytes.length;
    if (needed > this.#bytes.length) {
      const longer = Buffer.allocUnsafe(needed * 2);
      this.#bytes.copy(longer, 0, 0, this.#length);
      this.#bytes = longer;
    }
    this.#bytes.set(bytes, this.#length);
    this.#length = needed;
  }
}

const none = new Uint8Array(0);
const emptyHeader = new Uint8Array(HEADER_BYTES);
