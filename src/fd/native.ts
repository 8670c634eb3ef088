// The only file that knows the binary: loads the addon and gives its functions their types.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import { PassfdError } from './errors.js';

/** Readiness of one descriptor on this thread's event loop. It lends the descriptor: close it before that. */
export interface Poll {
  /** Calls back with a status (0, or a negative libuv error) and events whenever one of `events` is true. */
  start(events: number): void;
  stop(): void;
  /** Ends for good; the descriptor may be closed at once. */
  close(): void;
  ref(): void;
  unref(): void;
}

/**
 * The addon. Functions return a count, a descriptor or 0, and `-errno` on failure; arguments of a wrong type or range
 * throw a `TypeError`. Nothing blocks, except that `close` and `closeAll` may: see `native/closer.h`. What each one does stands
 * in `native/passfd.h`, and of those whose name begins with `will` in `native/will.h`.
 */
export interface Native {
  send(fd: number, bytes: Uint8Array, offset: number, length: number, fds: Int32Array, count: number): number;
  sendDatagram(name: Uint8Array, bytes: Uint8Array, fds: Int32Array, count: number): number;
  /** As `send`, with the position of the first descriptor on its channel, and the id of its listener. */
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
  /** `results` gets `[count, truncated, fd, fd, ...]`, and needs room for `RESULTS_LENGTH` numbers. */
  receive(fd: number, bytes: Uint8Array, offset: number, length: number, results: Int32Array): number;
  /** `results` gets `[0, 1]` when descriptors came, which are left in the queue with the bytes; else `[0, 0]`. */
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
  /** Closes the first `count`, whatever one of them says, and returns the first `-errno` there was. */
  closeAll(fds: Int32Array, count: number): number;
  duplicate(fd: number): number;
  shutdownWrite(fd: number): number;
  shutdown(fd: number): number;
  socketError(fd: number): number;
  unread(fd: number): number;
  watchReceipts(fd: number): number;
  takeReceipts(watch: number): number;
  /** `results` gets `[pid, uid, gid]`. */
  peer(fd: number, results: Int32Array): number;
  /** `results` gets `[family, port]`, `name` the numeric host, the path or the abstract name; returns its length. */
  address(fd: number, remote: 0 | 1, results: Int32Array, name: Uint8Array): number;
  /** `results` gets `[type, family, access]`, as the enums of `native/passfd.h` number them. */
  describe(fd: number, results: Int32Array): number;
  /** `identity` gets `IDENTITY_BYTES` that `isHeld` understands. */
  identify(fd: number, identity: Uint8Array): number;
  openDiagnostics(): number;
  isHeld(diagnostics: number, identity: Uint8Array): number;
  /** `pid` is at least 1. */
  pidfdOpen(pid: number): number;
  /** `pid` is at least 1. 1 when it had ended, 0 when not. */
  reap(pid: number): number;
  /** As `closer_close`, `closer_refuse`, `closer_waiting` and `closer_total` in `native/closer.h`. */
  closeLater(fd: number, account: number): number;
  refuse(fd: number, account: number): number;
  closing(account: number, leastMs: number): number;
  closingInAll(): number;
  /** Whether half of the descriptors that this process may have are being closed. */
  isCloserFull(): boolean;
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

/** Length of a connection's identity: `struct passfd_identity`. */
export const IDENTITY_BYTES = 52;

/** Bytes that `address` needs room for. */
export const NAME_LENGTH = 128;

// node-gyp-build takes the binary compiled in a source checkout, else the one that the package ships for this platform.
const load = createRequire(import.meta.url)('node-gyp-build') as (directory: string) => Native;

const directory = fileURLToPath(new URL('../../../native', import.meta.url));

/** What the binary has to have: after an update it may be that of older sources. */
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
    `The binary in ${directory} was compiled from other sources, since it has no ${missing.join(', ')}: run \`npm run build\``,
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
