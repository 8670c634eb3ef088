// Listening at a path: a left-over socket file is replaced, a live one is not, and only its owner removes the file.
import { lstat, readdir, unlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import { formatAddress, isAbstract } from './address.js';
import { Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import { native } from './native.js';
import { StreamSocket } from './stream-socket.js';
import {
  EACCES,
  EADDRINUSE,
  EAGAIN,
  ECONNREFUSED,
  ENAMETOOLONG,
  ENOENT,
  ENOTDIR,
  EWOULDBLOCK,
  systemError,
} from './system-error.js';
import { holdersOf } from './unix-holders.js';

/** Size of `sun_path` (unix(7)) without the final NUL. */
const MAX_PATH_BYTES = process.platform === 'darwin' ? 103 : 107;

/** Tries for the lock on the directory, 1 ms apart. Its holder keeps it only for a bind and a listen. */
const LOCK_TRIES = 1000;

export interface UnixListener {
  readonly descriptor: Descriptor;
  /** Missing for an abstract name. */
  readonly file?: SocketFile;
}

/**
 * Makes a listening Unix socket, which the caller owns. Errors: see `listen`.
 */
export async function listenUnix(path: string, backlog: number, mode: number): Promise<UnixListener> {
  const name = Buffer.from(path);
  const open = (): number => native.listenUnix(name, backlog, mode);
  if (isAbstract(path)) return { descriptor: opened(open(), path, name.length) };
  // Between bind and listen a socket looks like a left-over one. A process that replaces a file holds this lock.
  return withLock(dirname(path), async () => {
    let result = open();
    if (result === EADDRINUSE) {
      await removeStale(path);
      result = open();
    }
    const descriptor = opened(result, path, name.length);
    try {
      const file = await SocketFile.at(path);
      return { descriptor, ...(file && { file }) };
    } catch (error) {
      descriptor.close();
      throw error;
    }
  });
}

/** The file of a Unix socket, identified by its inode: at the path, another process may have put another file. */
export class SocketFile {
  /** Absolute, because the process may change its directory. */
  readonly #path: string;
  /** Device and inode. */
  readonly identity: string;

  constructor(path: string, identity: string) {
    this.#path = resolve(path);
    this.identity = identity;
  }

  /** The file that is at the path now; undefined when there is no socket. */
  static async at(path: string): Promise<SocketFile | undefined> {
    if (isAbstract(path)) return undefined;
    const identity = await identityOf(path);
    return identity === undefined ? undefined : new SocketFile(path, identity);
  }

  /** Whether clients can still reach it: it is at its path, or was renamed within its directory. */
  async exists(): Promise<boolean> {
    if ((await identityOf(this.#path)) === this.identity) return true;
    const directory = dirname(this.#path);
    for (const name of await readdir(directory).catch(() => [])) {
      if ((await identityOf(join(directory, name))) === this.identity) return true;
    }
    return false;
  }

  /** Removes the file, unless another file is at the path. */
  async remove(): Promise<void> {
    await withLock(dirname(this.#path), async () => {
      if ((await identityOf(this.#path)) === this.identity) await unlink(this.#path).catch(ignoreMissing);
    });
  }
}

/** Device and inode of a socket file; undefined when there is no file, or one that is not a socket. */
async function identityOf(path: string): Promise<string | undefined> {
  const status = await lstat(path, { bigint: true }).catch(ignoreMissing);
  return status?.isSocket() === true ? `${status.dev}:${status.ino}` : undefined;
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
}

/**
 * Runs `body` under a lock on the directory. Without the lock (another holder, or no permission) it still runs; then two
 * processes that replace the same left-over file may collide.
 */
async function withLock<T>(directory: string, body: () => Promise<T>): Promise<T> {
  const lock = await lockDirectory(directory);
  try {
    return await body();
  } finally {
    lock?.close();
  }
}

async function lockDirectory(directory: string): Promise<Descriptor | undefined> {
  for (let tries = 0; tries < LOCK_TRIES; tries++) {
    const result = native.lockDirectory(directory);
    if (result >= 0) return new Descriptor(result);
    if (result !== EWOULDBLOCK) return undefined;
    await setTimeout(1);
  }
  return undefined;
}

/** Removes a socket file without a listener. @throws {PassfdError} `ERR_ADDRESS_IN_USE`, `ERR_ADDRESS_DENIED` */
async function removeStale(path: string): Promise<void> {
  const identity = await identityOf(path);
  const probe = native.connectUnix(Buffer.from(path));
  if (probe === ENOENT) return;
  if (probe >= 0) {
    using socket = new StreamSocket(new Descriptor(probe));
    socket.distrust(socket.peer.uid);
    throw inUse(path, `process ${socket.peer.pid} listens there; stop it, or take another path`);
  }
  if (probe === EAGAIN) {
    const pids = await holdersOf(path);
    const who = pids.length === 0 ? 'a process' : `process ${pids.join(' or ')}`;
    throw inUse(path, `${who} listens there, and the backlog is full; stop it, or take another path`);
  }
  if (probe === EACCES) {
    throw inUse(path, 'a socket of another user is there; take another path');
  }
  if (probe !== ECONNREFUSED || identity === undefined) {
    throw inUse(path, 'a file that is not a stream socket is there, and is not replaced; take another path');
  }
  if ((await identityOf(path)) !== identity) return;
  try {
    await unlink(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw new PassfdError(
      'ERR_ADDRESS_DENIED',
      `Cannot listen at ${path}: the file is left from a server that has ended, and this user may not remove it`,
      { cause },
    );
  }
}

function inUse(path: string, reason: string): PassfdError {
  return new PassfdError('ERR_ADDRESS_IN_USE', `Cannot listen at ${path}: ${reason}`);
}

function opened(result: number, path: string, length: number): Descriptor {
  if (result < 0) throw listenError(result, path, length);
  return new Descriptor(result);
}

function listenError(result: number, path: string, length: number): PassfdError {
  return systemError(
    result,
    'listen',
    { address: formatAddress({ path }) },
    listenHint(result, path, length),
  );
}

function listenHint(result: number, path: string, length: number): string | undefined {
  switch (result) {
    case ENAMETOOLONG:
      return `the path has ${length} bytes, and at most ${MAX_PATH_BYTES} are possible; take a shorter path`;
    case ENOENT:
    case ENOTDIR:
      return `the directory ${dirname(path)} does not exist; create it, best with mode 0700`;
    case EACCES:
      return `this user may not create files in ${dirname(path)}; take a directory of your own`;
    default:
      return undefined;
  }
}
