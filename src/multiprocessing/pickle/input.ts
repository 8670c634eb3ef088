// Reads the bytes of a pickle in order, and never past their end.
import { PassfdError } from '../../fd/index.js';

export class Input {
  readonly #bytes: Buffer;
  #position = 0;

  /** Does not copy. */
  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get position(): number {
    return this.#position;
  }

  get left(): number {
    return this.#bytes.length - this.#position;
  }

  /** The next bytes, as a view. @throws {PassfdError} `ERR_PICKLE` when fewer are left */
  take(length: number): Buffer {
    this.checkLeft(length);
    const begin = this.#position;
    this.#position += length;
    return this.#bytes.subarray(begin, this.#position);
  }

  /** @throws {PassfdError} `ERR_PICKLE` when `length` is negative or more than the bytes that are left */
  checkLeft(length: number): void {
    if (length >= 0 && length <= this.left) return;
    throw this.malformed(`${length} bytes are announced, and ${this.left} follow`);
  }

  /** The bytes before the next newline, which is consumed too. @throws {PassfdError} `ERR_PICKLE` when there is none */
  line(): string {
    const length = this.#bytes.subarray(this.#position).indexOf('\n');
    if (length < 0) throw this.malformed('a line has no end');
    return this.take(length + 1).toString('latin1', 0, length);
  }

  uint8(): number {
    return this.take(1).readUInt8();
  }

  uint16(): number {
    return this.take(2).readUInt16LE();
  }

  uint32(): number {
    return this.take(4).readUInt32LE();
  }

  int32(): number {
    return this.take(4).readInt32LE();
  }

  /** Not exact above 2^53, which is more than any input has. */
  uint64(): number {
    return Number(this.take(8).readBigUInt64LE());
  }

  float64(): number {
    return this.take(8).readDoubleBE();
  }

  malformed(problem: string): PassfdError {
    return new PassfdError('ERR_PICKLE', `A pickle is malformed before byte ${this.#position}: ${problem}`);
  }
}
