// CommandConnection: answers what one peer of the control socket asks for, one after the other, until it hangs up.
import { setImmediate } from 'node:timers/promises';

import { PassfdError, type PeerCredentials } from '../fd/index.js';
import { decodeCommand, isTrusted, shortened } from '../handoff/index.js';
import type { Connection } from '../multiprocessing/index.js';

/**
 * @param progress tells the peer how far the command is
 * @param hungUp is aborted when nobody waits for the answer any more: what was begun goes on, and only the waiting ends
 */
export type CommandHandler = (
  message: Readonly<Record<string, unknown>>,
  progress: (text: string) => void,
  hungUp: AbortSignal,
) => Promise<unknown>;

export type Commands = Readonly<Record<string, CommandHandler>>;

/** The longest command, and the most that waits in all while another command runs. */
const MAX_COMMAND_BYTES = 65_536;

/** Commands that wait while another one runs. The peer is still read then: only a read sees that it has hung up. */
const MAX_WAITING = 16;

export class CommandConnection {
  readonly peer: PeerCredentials;
  readonly connection: Connection;
  readonly #commands: Commands;
  readonly #waiting: Buffer[] = [];
  readonly #hungUp = new AbortController();
  #isRunning = false;

  constructor(connection: Connection, commands: Commands) {
    this.connection = connection;
    this.peer = connection.socket.peer;
    this.#commands = commands;
  }

  /** Whether it has asked for nothing that is not answered. */
  get isIdle(): boolean {
    return !this.#isRunning;
  }

  /**
   * Resolves as soon as the peer has hung up, also while a command runs. A peer that ends only its own direction counts as
   * one that has hung up, after the commands that can be answered at once.
   * @throws {PassfdError} when it breaks the format, or asks for too much
   */
  async run(): Promise<void> {
    try {
      for (;;) {
        this.#take(await this.connection.recvBytes(MAX_COMMAND_BYTES));
      }
    } catch (error) {
      await setImmediate();
      if (!isEnd(error)) throw error;
      this.connection.close();
    } finally {
      this.#waiting.length = 0;
      this.#hungUp.abort(new PassfdError('ERR_PEER_GONE', 'The peer that asked for it has hung up'));
    }
  }

  #take(frame: Buffer): void {
    if (this.#waiting.length >= MAX_WAITING) {
      throw new PassfdError('ERR_PROTOCOL', `More than ${MAX_WAITING} commands wait for their turn`);
    }
    // Counted now: what waited when its first byte was awaited may be answered since.
    const bytes = this.#waiting.reduce((sum, { length }) => sum + length, frame.length);
    if (bytes > MAX_COMMAND_BYTES) {
      throw new PassfdError(
        'ERR_FRAME_TOO_LARGE',
        `More than ${MAX_COMMAND_BYTES} bytes of commands wait for their turn`,
      );
    }
    this.#waiting.push(frame);
    if (this.#isRunning) return;
    this.#isRunning = true;
    // A peer that does not take its answer has hung up: the read in `run` sees that.
    this.#answer().catch(() => undefined);
  }

  async #answer(): Promise<void> {
    try {
      for (let frame = this.#waiting.shift(); frame; frame = this.#waiting.shift()) {
        const answer = await this.#execute(frame);
        if (this.#hungUp.signal.aborted) return;
        await this.connection.sendBytes(Buffer.from(JSON.stringify(answer)));
      }
    } finally {
      // Not later than that nothing waits is seen: a command that comes in between would wait for ever.
      this.#isRunning = false;
    }
  }

  async #execute(frame: Buffer): Promise<unknown> {
    const progress = (text: string): void => {
      // Who has hung up does not want to know.
      this.connection
        .sendBytes(Buffer.from(JSON.stringify({ type: 'progress', text })))
        .catch(() => undefined);
    };
    try {
      const message = decodeCommand(frame);
      const { type } = message;
      if (type !== 'status' && !isTrusted(this.peer)) {
        throw new PassfdError(
          'ERR_PEER_DENIED',
          'Only the user of the dispatcher, and root, may ask for that',
        );
      }
      const command = Object.hasOwn(this.#commands, type) ? this.#commands[type] : undefined;
      if (!command) {
        const known = Object.keys(this.#commands).join(', ');
        throw new PassfdError(
          'ERR_PROTOCOL',
          shortened(`There is no command ${JSON.stringify(type)} here, but: ${known}`),
        );
      }
      return { type: 'done', result: (await command(message, progress, this.#hungUp.signal)) ?? null };
    } catch (error) {
      const code = error instanceof PassfdError ? error.code : 'ERR_PROTOCOL';
      return { type: 'failed', code, reason: (error as Error).message };
    }
  }
}

/** The other end has gone, or this one was closed. */
export function isEnd(error: unknown): boolean {
  return error instanceof PassfdError && ['ERR_EOF', 'ERR_PEER_GONE', 'ERR_CLOSED'].includes(error.code);
}
