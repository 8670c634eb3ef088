// PrefixedOutput: reads the output of a child and writes it with a prefix before each line.
import type { Writable } from 'node:stream';

import { Descriptor, StreamSocket } from '../fd/index.js';
import { LinePrefixer } from './lines.js';

/** Reads of 64 KiB each at the end: more than the kernel buffers for one socket, unless a process still writes. */
const LAST_READS = 64;

/** The reading end of one output of a child. */
export interface OutputEnd {
  /** A connected stream socket. */
  readonly descriptor: Descriptor;
  /** The beginning of a line: read, and not written yet. */
  readonly partial: Uint8Array;
}

/** The outputs that have not ended. */
export interface OutputEnds {
  readonly stdout?: OutputEnd;
  readonly stderr?: OutputEnd;
}

/** The output of one child, as this process forwards it. */
export interface ChildOutput {
  /** Resolves when it has ended. */
  readonly ended: Promise<void>;
  /** Stops reading. Resolves when all complete lines that were read are written. */
  freeze(): Promise<void>;
  /** Goes on after `freeze`. */
  thaw(): void;
  /** After `freeze`: duplicates for another process, which the caller owns. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
  duplicate(): OutputEnds;
  /** After `freeze`: ends. Output that was not duplicated since is written first, as far as the kernel has it. */
  disown(): Promise<void>;
}

export interface OutputTargets {
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/** Called once when output cannot be written. That output is dropped. Later output is tried again. */
export type OnLost = (error: Error) => void;

export class PrefixedOutput implements ChildOutput {
  readonly ended: Promise<void>;
  readonly #stdout: Forwarding | undefined;
  readonly #stderr: Forwarding | undefined;

  /** Takes over the descriptors. */
  constructor(
    { stdout, stderr }: OutputEnds,
    prefix: string,
    onLost: OnLost = () => undefined,
    targets: OutputTargets = process,
  ) {
    let isLost = false;
    const onFirstLost: OnLost = (error) => {
      if (!isLost) onLost(error);
      isLost = true;
    };
    this.#stdout = stdout && open(stdout, targets.stdout, prefix, onFirstLost);
    this.#stderr = stderr && open(stderr, targets.stderr, prefix, onFirstLost);
    this.ended = Promise.all(this.#all.map(({ ended }) => ended)).then(() => undefined);
  }

  async freeze(): Promise<void> {
    await Promise.all(this.#all.map((forwarding) => forwarding.freeze()));
  }

  thaw(): void {
    for (const forwarding of this.#all) forwarding.thaw();
  }

  duplicate(): OutputEnds {
    const stdout = this.#stdout?.duplicate();
    try {
      const stderr = this.#stderr?.duplicate();
      return { ...(stdout && { stdout }), ...(stderr && { stderr }) };
    } catch (error) {
      stdout?.descriptor.close();
      throw error;
    }
  }

  async disown(): Promise<void> {
    await Promise.all(this.#all.map((forwarding) => forwarding.disown()));
  }

  get #all(): Forwarding[] {
    return [this.#stdout, this.#stderr].filter((forwarding) => forwarding !== undefined);
  }
}

/** @returns undefined when it cannot be read. Then this output is lost, and the child goes on */
function open(
  { descriptor, partial }: OutputEnd,
  to: Writable,
  prefix: string,
  onLost: OnLost,
): Forwarding | undefined {
  // `write` reports the error too. Without a listener, the event would end this process.
  if (!to.listeners('error').includes(ignore)) to.on('error', ignore);
  try {
    return new Forwarding(new StreamSocket(descriptor), to, new LinePrefixer(prefix, partial), onLost);
  } catch {
    descriptor.close();
    return undefined;
  }
}

class Forwarding {
  readonly ended: Promise<void>;
  readonly #socket: StreamSocket;
  readonly #to: Writable;
  readonly #prefixer: LinePrefixer;
  readonly #onLost: OnLost;
  #onEnded: () => void = () => undefined;
  #freezing = new AbortController();
  #running: Promise<void>;
  #isHandedOn = false;

  constructor(socket: StreamSocket, to: Writable, prefixer: LinePrefixer, onLost: OnLost) {
    this.#socket = socket;
    this.#to = to;
    this.#prefixer = prefixer;
    this.#onLost = onLost;
    this.ended = new Promise((resolve) => {
      this.#onEnded = resolve;
    });
    this.#running = this.#forward(this.#freezing.signal);
  }

  async freeze(): Promise<void> {
    this.#freezing.abort();
    await this.#running;
  }

  thaw(): void {
    this.#isHandedOn = false;
    this.#freezing = new AbortController();
    const { signal } = this.#freezing;
    this.#running = this.#running.then(() => this.#forward(signal));
  }

  duplicate(): OutputEnd | undefined {
    if (this.#socket.closed) return undefined;
    const descriptor = this.#socket.duplicate();
    this.#isHandedOn = true;
    return { descriptor, partial: this.#prefixer.partial };
  }

  async disown(): Promise<void> {
    await this.#running;
    if (this.#socket.closed) return;
    try {
      if (!this.#isHandedOn) await this.#forwardRest();
    } catch {
      // Output that cannot be read is lost.
    }
    this.#end();
  }

  /** Runs until the output ends or is frozen. */
  async #forward(signal: AbortSignal): Promise<void> {
    try {
      while (!this.#socket.closed && (await this.#forwardNext(signal)));
      await this.#write(this.#prefixer.end());
    } catch {
      if (signal.aborted) return;
      // Output that cannot be read is lost. The child goes on.
    }
    this.#end();
  }

  async #forwardRest(): Promise<void> {
    for (let reads = 0; reads < LAST_READS && this.#socket.peek() !== null; reads++) {
      if (!(await this.#forwardNext())) break;
    }
    await this.#write(this.#prefixer.end());
  }

  /** @returns whether there may be more */
  async #forwardNext(signal?: AbortSignal): Promise<boolean> {
    // A child may send descriptors on the socket. They are closed with the message.
    using message = await this.#socket.receive(undefined, { signal });
    if (!message) return false;
    await this.#write(this.#prefixer.push(message.bytes));
    return true;
  }

  /**
   * Output that cannot be written is dropped: if reading stopped, the child would wait; if the socket were closed, the child
   * would end. A full disk may have room later. `pipe` is not used: it adds listeners to the one output for each child.
   */
  #write(bytes: Buffer): Promise<void> {
    return new Promise((resolve) => {
      this.#to.write(bytes, (error) => {
        if (error) this.#onLost(error);
        resolve();
      });
    });
  }

  #end(): void {
    this.#socket.destroy();
    this.#onEnded();
  }
}

function ignore(): void {
  // `write` has reported it.
}
