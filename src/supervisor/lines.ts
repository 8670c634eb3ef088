// LinePrefixer: puts a prefix before each line of a stream, whose chunks can end anywhere.

const NEWLINE = 0x0a;

/** Longer lines are split, so that a child cannot fill the memory of this process. */
const MAX_LINE_BYTES = 65_536;

export class LinePrefixer {
  readonly #prefix: Buffer;
  /** The line that has not ended. As bytes: a chunk may end inside a character. */
  #partial: Buffer[] = [];
  #partialBytes = 0;

  /** @param partial the beginning of a line, which an earlier generation has read */
  constructor(prefix: string, partial: Uint8Array = Buffer.alloc(0)) {
    this.#prefix = Buffer.from(prefix);
    this.#keep(Buffer.from(partial));
  }

  /** The line that has not ended, without its prefix. */
  get partial(): Buffer {
    return Buffer.concat(this.#partial);
  }

  /** @returns the lines that ended in this chunk. The rest waits for the end of its line */
  push(chunk: Buffer): Buffer {
    const lines: Buffer[] = [];
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      this.#keep(chunk.subarray(start, end));
      lines.push(this.#take());
      start = end + 1;
    }
    this.#keep(chunk.subarray(start));
    if (this.#partialBytes >= MAX_LINE_BYTES) lines.push(this.#take());
    return Buffer.concat(lines);
  }

  /** @returns the last line, if it has no end */
  end(): Buffer {
    return this.#partialBytes === 0 ? Buffer.alloc(0) : this.#take();
  }

  #keep(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#partial.push(bytes);
    this.#partialBytes += bytes.length;
  }

  #take(): Buffer {
    const line = Buffer.concat([this.#prefix, ...this.#partial, Buffer.of(NEWLINE)]);
    this.#partial = [];
    this.#partialBytes = 0;
    return line;
  }
}
