// Descriptor: an open descriptor with exactly one owner.
import type { Socket as DatagramSocket } from 'node:dgram';
import { fstatSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import type { Server, Socket } from 'node:net';

import { readAddress, type Address } from './address.js';
import { closeLater, ownAccount, type ClosingAccount } from './closing.js';
import { PassfdError } from './errors.js';
import { MAX_DESCRIPTORS, native } from './native.js';
import { noteFreed } from './starvation.js';
import { systemError } from './system-error.js';
import {
  toDatagramSocket,
  toFileHandle,
  toNodeObject,
  toServer,
  toSocket,
  type ToSocketOptions,
} from './to-node.js';

/**
 * What an open descriptor is. `stream` is a connected stream socket (TCP or Unix), `listener` one that accepts,
 * `datagram` a UDP or Unix datagram socket, `socket` one of another type, `file` also a memfd, `other` for example an
 * epoll or a device.
 */
export type DescriptorKind =
  'other' | 'file' | 'directory' | 'pipe' | 'tty' | 'stream' | 'listener' | 'datagram' | 'socket';

/** The order is that of `enum passfd_type` in `native/passfd.h`. */
const kinds: readonly DescriptorKind[] = [
  'other',
  'file',
  'directory',
  'pipe',
  'tty',
  'stream',
  'listener',
  'datagram',
  'socket',
];

/** What the kernel tells of a descriptor. */
export interface Description {
  readonly kind: DescriptorKind;
  /** Of sockets only. */
  readonly family?: 'unix' | 'ipv4' | 'ipv6';
  readonly readable: boolean;
  readonly writable: boolean;
}

const families = new Map([
  [1, 'unix'],
  [4, 'ipv4'],
  [6, 'ipv6'],
] as const);

const GONE = -1;

/** Descriptors are C's `int`; a larger number would be cut to another descriptor on its way there. */
const MAX_INT = 2_147_483_647;

/**
 * An open descriptor and the duty to close it. Whoever holds the object owns the descriptor; `send` lends it,
 * `release` gives it away, `close` ends it. Take one with `using`, and no early return can forget it:
 *
 * ```ts
 * using descriptor = message.takeDescriptor();
 * ```
 *
 * One that is forgotten stays open until the process ends: nothing closes it when it is garbage-collected, or when the
 * worker thread that held it is terminated.
 */
export class Descriptor implements Disposable {
  #fd: number;
  #account: ClosingAccount | undefined;

  /**
   * Takes over an open descriptor. From here on nobody else may close it.
   * @param fd its number
   */
  constructor(fd: number) {
    if (!Number.isInteger(fd) || fd < 0 || fd > MAX_INT) {
      throw new TypeError(`A descriptor is an integer from 0 to ${MAX_INT}, not ${String(fd)}`);
    }
    this.#fd = fd;
  }

  /**
   * The bare number, lent: it is good until this object is closed or released. This is also what makes a `Descriptor`
   * usable in `spawn(command, { stdio: ['inherit', 'inherit', 'inherit', descriptor] })`.
   * @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED`
   */
  get fd(): number {
    if (this.#fd === GONE) {
      throw new PassfdError('ERR_DESCRIPTOR_CLOSED', 'The descriptor was already closed or given away');
    }
    return this.#fd;
  }

  /** Whether it was closed or given away. */
  get closed(): boolean {
    return this.#fd === GONE;
  }

  /** @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` */
  describe(): Description {
    return describe(this.fd);
  }

  /**
   * What the kernel tells the open file by: the same for every duplicate, in every process, while one of them is open.
   * @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED`
   */
  get inode(): string {
    const { dev, ino } = fstatSync(this.fd, { bigint: true });
    return `${dev}:${ino}`;
  }

  /** The address of this end of a socket. @throws {PassfdError} `ERR_SYSTEM` when it is no socket (`ENOTSOCK`) */
  get localAddress(): Address {
    const address = readAddress(this.fd, 'local');
    if (typeof address === 'number') throw systemError(address, 'getsockname', subject(this.#fd));
    return address;
  }

  /** The address of the other end of a connection. @throws {PassfdError} `ERR_PEER_GONE` when there is none any more */
  get remoteAddress(): Address {
    const address = readAddress(this.fd, 'remote');
    if (typeof address === 'number') throw systemError(address, 'getpeername', subject(this.#fd));
    return address;
  }

  /**
   * Sets or clears `O_NONBLOCK`. The flag lives in the open file, not in the descriptor: every duplicate of it, in
   * every process, sees the change (fcntl(2)).
   */
  setNonblocking(on: boolean): void {
    const result = native.setNonblocking(this.fd, on ? 1 : 0);
    if (result < 0) throw systemError(result, 'fcntl', subject(this.#fd));
  }

  /**
   * Hands it to a `net.Socket`: a connected stream socket, or an end of a pipe.
   * @throws {PassfdError} `ERR_WRONG_KIND`; then, as with the four below, it still has this owner
   */
  toSocket(options?: ToSocketOptions): Socket {
    return toSocket(this, options);
  }

  /**
   * Hands a listening socket to a `net.Server`, and resolves when that is listening.
   * @param server to be used instead of a new one: any `net.Server`, so an `http.Server` too
   * @throws {PassfdError} `ERR_WRONG_KIND`
   */
  toServer(server?: Server): Promise<Server> {
    return toServer(this, server);
  }

  /** Hands a UDP socket to a `dgram.Socket`, and resolves when that is listening. @throws {PassfdError} `ERR_WRONG_KIND` */
  toDatagramSocket(): Promise<DatagramSocket> {
    return toDatagramSocket(this);
  }

  /**
   * Hands a file (also a memfd), a directory, a pipe, a tty or a device to a `FileHandle`.
   * @throws {PassfdError} `ERR_WRONG_KIND` for a socket; `ERR_UNSUPPORTED` if this version of Node does not let it
   */
  toFileHandle(): Promise<FileHandle> {
    return toFileHandle(this);
  }

  /** Hands it to whichever of the four fits what it is; a pipe becomes a `net.Socket`. */
  toNodeObject(): Promise<Socket | Server | DatagramSocket | FileHandle> {
    return toNodeObject(this);
  }

  /** A second descriptor of the same open file, with its own owner. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
  duplicate(): Descriptor {
    const result = native.duplicate(this.fd);
    if (result < 0) throw systemError(result, 'dup', subject(this.#fd));
    const duplicate = new Descriptor(result);
    duplicate.#account = this.#account;
    return duplicate;
  }

  /**
   * Has a thread close it, in the background: for a descriptor that a process without your trust has passed, or has a
   * duplicate of. Such a process can make `close` wait, for seconds and more: by a socket that lingers (`SO_LINGER`), or
   * a file on FUSE. The number is free some time after `close` has returned then.
   * @param account the user of that process: closes of one user wait for each other, and for nobody else's
   */
  distrust(account: number = ownAccount()): void {
    this.#account = account;
  }

  /** Closes it at once, and in this thread, again. */
  trust(): void {
    this.#account = undefined;
  }

  /** What `distrust` was told. */
  get account(): number | undefined {
    return this.#account;
  }

  /** Gives it to a new owner, who closes it in the same way. @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` */
  move(): Descriptor {
    const moved = new Descriptor(this.release());
    moved.#account = this.#account;
    return moved;
  }

  /** Gives the bare number away: whoever gets it has to close it. @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` */
  release(): number {
    const { fd } = this;
    this.#fd = GONE;
    return fd;
  }

  /** Closes it, without `shutdown`: other holders of the same connection keep it. A second call does nothing. */
  close(): void {
    if (this.#fd === GONE) return;
    const account = this.#account;
    const fd = this.release();
    const result = account === undefined ? native.close(fd) : closeLater(fd, account);
    if (account === undefined) noteFreed();
    if (result < 0) throw systemError(result, 'close', { descriptor: 'a descriptor' });
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Takes over a descriptor that this process was started with, and makes it close-on-exec, as all others here are.
 * @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` when no descriptor has this number
 */
export function inheritDescriptor(fd: number): Descriptor {
  const descriptor = new Descriptor(fd);
  const result = native.setCloseOnExec(fd);
  if (result < 0) throw systemError(result, 'fcntl', subject(fd), 'this process was not started with it');
  return descriptor;
}

/** Not a private method, since each instance would pay for that. */
function subject(fd: number): { descriptor: string } {
  return { descriptor: `descriptor ${fd}` };
}

/** What the kernel tells of a bare descriptor. @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` */
export function describe(fd: number): Description {
  const numbers = new Int32Array(3);
  const result = native.describe(fd, numbers);
  if (result < 0) throw systemError(result, 'fstat', { descriptor: `descriptor ${fd}` });
  const [type = 0, familyNumber = 0, access = 0] = numbers;
  const family = families.get(familyNumber as 1 | 4 | 6);
  return {
    kind: kinds[type] ?? 'other',
    ...(family && { family }),
    readable: (access & 1) !== 0,
    writable: (access & 2) !== 0,
  };
}

/** One call at a time uses it: the call into the addon returns when it is done with it. */
const closing = new Int32Array(MAX_DESCRIPTORS);

/** Closes all of them, whatever one of them says, and then throws the first error there was. */
export function closeAll(descriptors: readonly Descriptor[]): void {
  let count = 0;
  let freed = 0;
  let failure = 0;
  for (const descriptor of descriptors) {
    if (descriptor.closed) continue;
    if (descriptor.account !== undefined) {
      const result = closeLater(descriptor.release(), descriptor.account);
      failure ||= result;
      continue;
    }
    closing[count++] = descriptor.release();
    freed++;
    if (count < closing.length) continue;
    const result = native.closeAll(closing, count);
    failure ||= result;
    count = 0;
  }
  const result = native.closeAll(closing, count);
  failure ||= result;
  noteFreed(freed);
  if (failure < 0) {
    throw systemError(failure, 'close', { descriptor: `one of ${descriptors.length} descriptors` });
  }
}
