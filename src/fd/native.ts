// Loads the addon, and gives its functions their types. No other file knows the binary.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import { PassfdError } from './errors.js';

/** Readiness of one descriptor on the event loop of this thread. Close it before the descriptor. */
export interface Poll {
  /** Calls back, again and again, while one of `events` holds, with a status (0 or a negative libuv error) and the events. */
  start(events: number): void;
  stop(): void;
  /** Ends the watching; the descriptor may be closed right after. */
  close(): void;
  ref(): void;
  unref(): void;
}

/**
 * The addon. A function returns a count, a descriptor or 0, and `-errno` on failure. An argument of a wrong type or range
 * throws a `TypeError`. No function blocks, except that `close` and `closeAll` may: see `native/closer.h`. `native/passfd.h`
 * describes the functions; `native/will.h` describes those whose name begins with `will`, and what `send`, `receive`,
 * `accept` and `close` do for the last will.
 */
export interface Native {
  send(fd: number, bytes: Uint8Array, offset: number, length: number, fds: Int32Array, count: number): number;
  sendDatagram(name: Uint8Array, bytes: Uint8Array, fds: Int32Array, count: number): number;
  /** As `send`, with the position of the first connection on its channel, and the id of its listener. */
  sendHandoff(
    fd: number,
    bytes: Uint8Array,
    offset: number,
    length: number,
    fds: Int32Array,
    count: number,
    position: number,
    listener: number,
  ): number;
  /** Writes `[count, truncated, fd, fd, ...]` to `results`, which needs room for `RESULTS_LENGTH` numbers. */
  receive(fd: number, bytes: Uint8Array, offset: number, length: number, results: Int32Array): number;
  /** Writes `[0, 1]` to `results` when descriptors came, and leaves them in the queue with the bytes; otherwise `[0, 0]`. */
  receiveBytes(fd: number, bytes: Uint8Array, offset: number, length: number, results: Int32Array): number;
  takeRightsOnly(fd: number): number;
  peek(fd: number, bytes: Uint8Array): number;
  accept(fd: number, fds: Int32Array, capacity: number): number;
  socketPair(fds: Int32Array): number;
  listenUnix(name: Uint8Array, backlog: number, mode: number): number;
  connectUnix(name: Uint8Array): number;
  listenTcp(host: string, port: number, backlog: number, ipv6Only: 0 | 1): number;
  connectTcp(host: string, port: number): number;
  lockDirectory(path: string): number;
  lock(fd: number, exclusive: 0 | 1): number;
  /** See `native/hold.h`. Returns a number for `holdEnd`. */
  holdBegin(fd: number): number;
  holdEnd(hold: number): number;
  setCloseOnExec(fd: number): number;
  setNonblocking(fd: number, on: 0 | 1): number;
  isNonblocking(fd: number): number;
  close(fd: number): number;
  /** Closes the first `count`, also after one fails, and returns the first `-errno`. */
  closeAll(fds: Int32Array, count: number): number;
  duplicate(fd: number): number;
  shutdownWrite(fd: number): number;
  shutdown(fd: number): number;
  socketError(fd: number): number;
  unread(fd: number): number;
  queueLength(fd: number): number;
  watchReceipts(fd: number): number;
  takeReceipts(watch: number): number;
  /** Writes `[pid, uid, gid]` to `results`. */
  peer(fd: number, results: Int32Array): number;
  /** Writes `[family, port]` to `results`, and the numeric host, path or abstract name to `name`; returns the length of that. */
  address(fd: number, remote: 0 | 1, results: Int32Array, name: Uint8Array): number;
  /** Writes `[type, family, access]` to `results`, as the enums of `native/passfd.h` number them. */
  describe(fd: number, results: Int32Array): number;
  /** Writes `IDENTITY_BYTES` to `identity`, for `isHeld`. */
  identify(fd: number, identity: Uint8Array): number;
  openDiagnostics(): number;
  isHeld(diagnostics: number, identity: Uint8Array): number;
  /** `pid` is at least 1. */
  pidfdOpen(pid: number): number;
  /** `pid` is at least 1. Returns 1 when the process had ended, and 0 when not. */
  reap(pid: number): number;
  /** As `closer_close`, `closer_refuse`, `closer_waiting` and `closer_total` in `native/closer.h`. */
  closeLater(fd: number, account: number): number;
  refuse(fd: number, account: number): number;
  closing(account: number, leastMs: number): number;
  closingInAll(): number;
  /** Whether half of the descriptors that this process may have are being closed. */
  isCloserFull(): boolean;
  /** Returns the descriptor of a new board. See `native/board.h`. */
  boardCreate(): number;
  /** Returns `-errno`, or the memory, which stays mapped as long as anything refers to it. */
  boardMap(fd: number): ArrayBuffer | number;
  /** Moves the heartbeat of this thread to the board with this memory, or to none. See `native/board_addon.c`. */
  boardBeat(memory: ArrayBuffer | null): number;
  boardClock(): number;
  willOpen(): number;
  willCancel(): number;
  willPid(): number;
  willAddListener(id: number, fd: number): number;
  willRemoveListener(id: number): number;
  willCloseFirst(fd: number): number;
  willSetChannel(fd: number, flags: number, listeners: Int32Array, count: number): number;
  willHandOut(fds: Int32Array, count: number): number;
  willTakeBack(fds: Int32Array, count: number): number;
  readonly Poll: new (fd: number, onReady: (status: number, events: number) => void) => Poll;
}

/** `UV_READABLE` and `UV_WRITABLE` of libuv's `uv.h`. */
export const READABLE = 1;
export const WRITABLE = 2;

/** Most descriptors in one message: `SCM_MAX_FD` in Linux' `include/net/scm.h`. */
export const MAX_DESCRIPTORS = 253;

/** Numbers that `receive` needs room for: how many, whether some were lost, then the descriptors. */
export const RESULTS_LENGTH = 2 + MAX_DESCRIPTORS;

/** Length of `struct passfd_identity`. */
export const IDENTITY_BYTES = 52;

/** Bytes that `address` needs room for. */
export const NAME_LENGTH = 128;

// node-gyp-build takes the binary that was compiled in a source checkout, otherwise the package's own for this platform.
const load = createRequire(import.meta.url)('node-gyp-build') as (directory: string) => Native;

const directory = fileURLToPath(new URL('../../../native', import.meta.url));

/** The functions that the binary must have. After an update it may be a binary of older sources. */
const functions: Readonly<Record<keyof Native, true>> = {
  send: true,
  sendDatagram: true,
  sendHandoff: true,
  receive: true,
  peek: true,
  accept: true,
  socketPair: true,
  listenUnix: true,
  connectUnix: true,
  listenTcp: true,
  connectTcp: true,
  lockDirectory: true,
  lock: true,
  holdBegin: true,
  holdEnd: true,
  setCloseOnExec: true,
  setNonblocking: true,
  isNonblocking: true,
  close: true,
  closeAll: true,
  duplicate: true,
  shutdownWrite: true,
  shutdown: true,
  socketError: true,
  unread: true,
  queueLength: true,
  watchReceipts: true,
  takeReceipts: true,
  peer: true,
  address: true,
  describe: true,
  identify: true,
  openDiagnostics: true,
  isHeld: true,
  pidfdOpen: true,
  reap: true,
  receiveBytes: true,
  takeRightsOnly: true,
  closeLater: true,
  refuse: true,
  closing: true,
  closingInAll: true,
  isCloserFull: true,
  boardCreate: true,
  boardMap: true,
  boardBeat: true,
  boardClock: true,
  willOpen: true,
  willCancel: true,
  willPid: true,
  willAddListener: true,
  willRemoveListener: true,
  willCloseFirst: true,
  willSetChannel: true,
  willHandOut: true,
  willTakeBack: true,
  Poll: true,
};

export const native: Native = loadOrExplain();

function loadOrExplain(): Native {
  const loaded = loadBinary();
  const missing = Object.keys(functions).filter((name) => typeof loaded[name as keyof Native] !== 'function');
  if (missing.length === 0) return loaded;
  throw new PassfdError(
    'ERR_UNSUPPORTED',
    `The binary in ${directory} is of another version: it lacks ${missing.join(', ')}; run \`npm run build\``,
  );
}

function loadBinary(): Native {
  try {
    return load(directory);
  } catch (cause) {
    throw new PassfdError(
      'ERR_UNSUPPORTED',
      `There is no binary for ${process.platform}-${process.arch}. With a C compiler, make and Python 3, compile it: ` +
        `npx node-gyp rebuild --directory ${directory}`,
      { cause },
    );
  }
}
