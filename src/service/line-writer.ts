// LineWriter: writes lines to a descriptor outside the event loop. Its caller never waits for the reader.
import { write, writeSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers/promises';
import { promisify } from 'node:util';

/** Waiting lines, in bytes: some thousand lines. Further lines are dropped and counted. */
const MAX_WAITING_BYTES = 1024 * 1024;

/** A pipe takes this many bytes as a whole (PIPE_BUF on Linux), so no line of another process comes between them. */
const MAX_WRITE_BYTES = 4096;

/** Pause before the next write to a full pipe. */
const RETRY_MS = 100;

const writeTo = promisify(write);

export class LineWriter {
  readonly #fd: number;
  readonly #onLost: (lines: number) => void;
  readonly #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #lost = 0;
  /** Whether a write of the first element runs. */
  #isInFlight = false;
  /** Resolves when nothing waits any more. */
  #writing: Promise<void> | undefined;
  readonly #end = new AbortController();

  /**
   * @param fd lent: it must stay open until `close` has resolved. It is not closed here
   * @param onLost called when there is room again, with the number of lines that were dropped
   */
  constructor(fd: number, onLost: (lines: number) => void) {
    this.#fd = fd;
    this.#onLost = onLost;
  }

  /** Ignored after `close`. */
  write(line: string): void {
    if (this.#end.signal.aborted) return;
    const bytes = Buffer.from(line);
    if (this.#waitingBytes + bytes.length > MAX_WAITING_BYTES) {
      this.#lost++;
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    this.#start();
  }

  /** Writes the waiting lines, for at most this time. A write to a file or a terminal is always completed. */
  async close(timeoutMs: number): Promise<void> {
    const timer = setTimeout(() => {
      this.#end.abort();
    }, timeoutMs);
    // Lines that an error left are tried once more.
    this.#start();
    await this.#writing;
    clearTimeout(timer);
    this.#end.abort();
  }

  /** Writes as many of the waiting lines as there is room for, at once. For the end of the process. */
  closeNow(): void {
    this.#end.abort();
    // A write that runs cannot be taken back.
    const waiting = this.#waiting.slice(this.#isInFlight ? 1 : 0);
    try {
      for (let bytes = Buffer.concat(waiting); bytes.length > 0;) {
        bytes = bytes.subarray(writeSync(this.#fd, bytes, 0, Math.min(bytes.length, MAX_WRITE_BYTES)));
      }
    } catch {
      // There is no reader, or no room.
    }
  }

  #start(): void {
    this.#writing ??= this.#run();
  }

  async #run(): Promise<void> {
    // Lines of one turn of the event loop are written together.
    await Promise.resolve();
    while (this.#waitingBytes > 0) {
      try {
        await this.#writeSome();
      } catch (error) {
        const isFull = (error as NodeJS.ErrnoException).code === 'EAGAIN';
        // After another error, the lines keep waiting for the next line: a full disk may have room then.
        if (!isFull || this.#end.signal.aborted) break;
        await wait(RETRY_MS, undefined, this.#end).catch(() => undefined);
        continue;
      }
      if (this.#waitingBytes > 0 || this.#lost === 0) continue;
      const lines = this.#lost;
      this.#lost = 0;
      this.#onLost(lines);
    }
    // In the same turn as the last check of `#waitingBytes`.
    this.#writing = undefined;
  }

  async #writeSome(): Promise<void> {
    const chunk = this.#firstChunk();
    this.#isInFlight = true;
    try {
      const { bytesWritten } = await writeTo(this.#fd, chunk);
      this.#waitingBytes -= bytesWritten;
      if (bytesWritten < chunk.length) this.#waiting[0] = chunk.subarray(bytesWritten);
      else this.#waiting.shift();
    } finally {
      this.#isInFlight = false;
    }
  }

  /** Joins as many whole lines as one write takes into the first element. */
  #firstChunk(): Buffer {
    let count = 0;
    let size = 0;
    for (const { length } of this.#waiting) {
      if (size > 0 && size + length > MAX_WRITE_BYTES) break;
      size += length;
      count++;
    }
    const chunk = Buffer.concat(this.#waiting.splice(0, count));
    this.#waiting.unshift(chunk);
    return chunk;
  }
}
