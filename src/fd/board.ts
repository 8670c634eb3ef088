// Board: a page of memory that a worker and its dispatcher share, with the heartbeat of an event loop. Linux only.
import { constants } from 'node:os';

import { Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import { native } from './native.js';
import { EACCES, systemError } from './system-error.js';

const { errno } = constants;

/** Integers of 32 bits on a board. docs/protocol.md ("Direct accept") says what each is. */
export const BOARD_WORDS = 1024;

/** Errors on systems that have no memfd, or forbid it (seccomp), and on a Node that cannot use memory of others (Electron). */
const unsupported: readonly number[] = [-errno.ENOSYS, -errno.EPERM, EACCES, -errno.ENOTSUP];

/** Errors of `boardMap` for a descriptor that is no board, or that this process may only read. */
const foreign: readonly number[] = [-errno.EINVAL, -errno.EPERM, EACCES];

/**
 * A page of shared memory. Its size is sealed, so the other process cannot take the memory away. Everything else on it may be a
 * lie of that process.
 */
export class Board implements Disposable {
  #words: Int32Array;
  #isClosed = false;

  private constructor(memory: ArrayBuffer) {
    this.#words = new Int32Array(memory);
  }

  /**
   * A new board, all zero, with a descriptor to send to the other process. The caller owns the descriptor. The board does not
   * need it.
   * @throws {PassfdError} `ERR_UNSUPPORTED`, `ERR_DESCRIPTOR_LIMIT`, `ERR_SYSTEM`
   */
  static create(): { board: Board; descriptor: Descriptor } {
    const result = native.boardCreate();
    if (unsupported.includes(result)) throw unsupportedError(result, 'memfd_create');
    if (result < 0) throw systemError(result, 'memfd_create', { descriptor: 'a new board' });
    const descriptor = new Descriptor(result);
    try {
      return { board: Board.map(descriptor), descriptor };
    } catch (error) {
      descriptor.close();
      throw error;
    }
  }

  /**
   * Maps the board of another process. The caller still owns the descriptor, and may close it.
   * @throws {PassfdError} `ERR_WRONG_KIND` when it is no board; `ERR_UNSUPPORTED`, `ERR_DESCRIPTOR_CLOSED`, `ERR_SYSTEM`
   */
  static map(descriptor: Descriptor): Board {
    const memory = native.boardMap(descriptor.fd);
    if (typeof memory !== 'number') return new Board(memory);
    if (foreign.includes(memory)) {
      throw new PassfdError(
        'ERR_WRONG_KIND',
        `Descriptor ${descriptor.fd} is not a board: not a writable memfd of ${BOARD_WORDS * 4} bytes with sealed size`,
      );
    }
    if (unsupported.includes(memory)) throw unsupportedError(memory, 'mmap');
    throw systemError(memory, 'mmap', { descriptor: `descriptor ${descriptor.fd}` });
  }

  /**
   * The integers, for `Atomics.store` and `Atomics.load`. This array stays usable, and the page mapped, as long as anything
   * refers to it. After `Symbol.dispose` it is another array, which is not shared: what is written there is lost.
   */
  get words(): Int32Array {
    return this.#words;
  }

  /** Whether the board was disposed of. */
  get closed(): boolean {
    return this.#isClosed;
  }

  /** Gives the page up. It is unmapped when the last array of it is garbage-collected. A second call does nothing. */
  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#words = new Int32Array(BOARD_WORDS);
  }
}

/** The latest call of `beat`, unless it has ended. */
let beating: Disposable | undefined;

/**
 * Makes the event loop of this thread write its state to a board, at each turn: integer 0 is the time at which it woke up, as
 * `boardClock` gives it, and 0 while it waits for events; integer 1 counts the turns. It does not keep the process alive. The
 * page stays mapped as long as it is written.
 * @returns ends it. There is one heartbeat in a thread: another call moves it to another board, and then the object that the
 * first call returned does nothing.
 * @throws {PassfdError} `ERR_CLOSED` when the board was disposed of
 */
export function beat(board: Board): Disposable {
  if (board.closed) throw new PassfdError('ERR_CLOSED', 'The board is closed');
  const result = native.boardBeat(board.words.buffer as ArrayBuffer);
  if (result < 0) throw systemError(result, 'uv_prepare_start', { descriptor: 'the event loop' });
  const heartbeat: Disposable = {
    [Symbol.dispose]: () => {
      if (beating !== heartbeat) return;
      beating = undefined;
      native.boardBeat(null);
    },
  };
  beating = heartbeat;
  return heartbeat;
}

/**
 * How many connections wait in the backlog of a listening socket. For a Unix socket it is 1 when any wait.
 * @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED`, `ERR_SYSTEM` when it is no socket
 */
export function queueLength(fd: number): number {
  const result = native.queueLength(fd);
  if (result < 0) throw systemError(result, 'getsockopt', { descriptor: `descriptor ${fd}` });
  return result;
}

/** The time in milliseconds as a board has it: of CLOCK_MONOTONIC, modulo 2^31, and never 0. */
export function boardClock(): number {
  return native.boardClock();
}

function unsupportedError(result: number, syscall: string): PassfdError {
  const { cause } = systemError(result, syscall, { descriptor: 'a board' });
  return new PassfdError('ERR_UNSUPPORTED', 'This system gives no memory that two processes can share', {
    cause,
  });
}
