// CommandConnection: runs the commands of one peer of the control socket, one after the other, until it hangs up.
import { setImmediate } from 'node:timers/promises';

import { PassfdError, type PeerCredentials } from '../fd/index.js';
import { decodeCommand, isTrusted, shortened } from '../handoff/index.js';
import type { Connection } from '../multiprocessing/index.js';

/**
 * @param progress sends a progress message to the peer
 * @param hungUp is aborted when the peer has hung up. The handler may stop waiting; what it has begun goes on
 * @returns the result of the command, as JSON
 * @throws {PassfdError} the peer gets its code and message
 */
export type CommandHandler = (
  message: Readonly<Record<string, unknown>>,
  progress: (text: string) => void,
  hungUp: AbortSignal,
) => Promise<unknown>;

export type Commands = Readonly<Record<string, CommandHandler>>;

/** Limit of one command, and of all commands that wait while another one runs. */
const MAX_COMMAND_BYTES = 65_536;

/** Commands that wait while another one runs. The peer is still read then, since only a read shows that it has hung up. */
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

  /** Whether every command is answered. */
  get isIdle(): boolean {
    return !this.#isRunning;
  }

  /**
   * Resolves as soon as the peer has hung up, even while a command runs. A peer that shuts down only its own direction has
   * hung up too, after the commands that can be answered at once.
   * @throws {PassfdError} `ERR_PROTOCOL`, `ERR_FRAME_TOO_LARGE`
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
    // Counted now: commands may have been answered since this one was awaited.
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
    // A failed send means that the peer has hung up. The read in `run` shows it.
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
      // In the same turn in which the queue was seen to be empty: a command that came in between would wait for ever.
      this.#isRunning = false;
    }
  }

  async #execute(frame: Buffer): Promise<unknown> {
    const progress = (text: string): void => {
      // A failed send means that the peer has hung up.
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
          `Only the user of the dispatcher and root may use the command ${shortened(type)}`,
        );
      }
      const command = Object.hasOwn(this.#commands, type) ? this.#commands[type] : undefined;
      if (!command) {
        const known = Object.keys(this.#commands).join(', ');
        throw new PassfdError(
          'ERR_PROTOCOL',
          shortened(`Unknown command ${JSON.stringify(type)}. Commands: ${known}`),
        );
      }
      return { type: 'done', result: (await command(message, progress, this.#hungUp.signal)) ?? null };
    } catch (error) {
      const code = error instanceof PassfdError ? error.code : 'ERR_PROTOCOL';
      return { type: 'failed', code, reason: (error as Error).message };
    }
  }
}

/** Whether the error means that a connection has ended: the peer has hung up, or this end was closed. */
export function isEnd(error: unknown): boolean {
  return error instanceof PassfdError && ['ERR_EOF', 'ERR_PEER_GONE', 'ERR_CLOSED'].includes(error.code);
}
