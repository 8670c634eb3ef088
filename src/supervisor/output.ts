// Output: what a child writes, read here and written on with a prefix before each line, until it is handed on.
import type { Writable } from 'node:stream';

import { Descriptor, StreamSocket } from '../fd/index.js';
import { LinePrefixer } from './lines.js';

/** Reads without waiting at the end, each of 64 KiB: more than the kernel holds of one socket, unless somebody still writes. */
const LAST_READS = 64;

/** Where one output of a child is read. */
export interface OutputEnd {
  /** Of a connected stream socket. */
  readonly descriptor: Descriptor;
  /** The line that has begun and has not ended: it was read, and is still to be written. */
  readonly partial: Uint8Array;
}

/** Those that have not ended. */
export interface OutputEnds {
  readonly stdout?: OutputEnd;
  readonly stderr?: OutputEnd;
}

/** The output of one child, as far as it comes here. */
export interface ChildOutput {
  /** Resolves when it has ended. */
  readonly ended: Promise<void>;
  /** Resolves when nothing is read any more, and what was read is written, but for lines that have not ended. */
  pause(): Promise<void>;
  /** Behind `pause`: goes on as if nothing had happened. */
  resume(): void;
  /** Behind `pause`: what the caller owns, and another process can go on with. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
  duplicate(): OutputEnds;
  /** Behind `pause`: reads no more. What was not duplicated since is written first, as far as it is there. */
  release(): Promise<void>;
}

export interface OutputTargets {
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/** Told once of an output that could not be written here. That is dropped, and what comes later is tried all the same. */
export type OnLost = (error: Error) => void;

export class Output implements ChildOutput {
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

  async pause(): Promise<void> {
    await Promise.all(this.#all.map((forwarding) => forwarding.pause()));
  }

  resume(): void {
    for (const forwarding of this.#all) forwarding.resume();
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

  async release(): Promise<void> {
    await Promise.all(this.#all.map((forwarding) => forwarding.release()));
  }

  get #all(): Forwarding[] {
    return [this.#stdout, this.#stderr].filter((forwarding) => forwarding !== undefined);
  }
}

/** @returns undefined for what cannot be read; such output is lost, and the child goes on */
function open(
  { descriptor, partial }: OutputEnd,
  to: Writable,
  prefix: string,
  onLost: OnLost,
): Forwarding | undefined {
  // Whoever has written is told, so that the event is no news; without a listener it would end this process.
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
  #pausing = new AbortController();
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
    this.#running = this.#forward(this.#pausing.signal);
  }

  async pause(): Promise<void> {
    this.#pausing.abort();
    await this.#running;
  }

  resume(): void {
    this.#isHandedOn = false;
    this.#pausing = new AbortController();
    const { signal } = this.#pausing;
    this.#running = this.#running.then(() => this.#forward(signal));
  }

  duplicate(): OutputEnd | undefined {
    if (this.#socket.closed) return undefined;
    const descriptor = this.#socket.duplicate();
    this.#isHandedOn = true;
    return { descriptor, partial: this.#prefixer.partial };
  }

  async release(): Promise<void> {
    await this.#running;
    if (this.#socket.closed) return;
    try {
      if (!this.#isHandedOn) await this.#forwardRest();
    } catch {
      // Lost, as any output that cannot be read.
    }
    this.#end();
  }

  /** Until the output ends, or is paused. */
  async #forward(signal: AbortSignal): Promise<void> {
    try {
      while (!this.#socket.closed && (await this.#forwardNext(signal)));
      await this.#write(this.#prefixer.end());
    } catch {
      if (signal.aborted) return;
      // The output of a child that cannot be read is lost; the child goes on.
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
    // A child may write descriptors to a socket: they are closed with the message.
    using message = await this.#socket.receive(undefined, { signal });
    if (!message) return false;
    await this.#write(this.#prefixer.push(message.bytes));
    return true;
  }

  /**
   * What cannot be written is dropped: a child whose output were closed, or stood still, would end by it or wait. A full
   * disk may take what comes later. `pipe` would add listeners to the one output of this process for each child.
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
  // Told to whoever has written.
}
