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
 * What an open descriptor is. `stream` is a connected stream socket (TCP or Unix), `listener` a listening one, `datagram` a
 * UDP or Unix datagram socket, `socket` a socket of another type. `file` includes a memfd. `other` is everything else, for
 * example an epoll descriptor or a device.
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

/** What the kernel reports about a descriptor. */
export interface Description {
  readonly kind: DescriptorKind;
  /** The address family of a socket. */
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

/** A descriptor is an `int` in C. A larger number would be cut to the number of another descriptor. */
const MAX_INT = 2_147_483_647;

/**
 * An open descriptor and the duty to close it. The holder of the object owns the descriptor: `send` lends it, `release`
 * gives it away, `close` ends it. With `using`, no early return can forget to close it:
 *
 * ```ts
 * using descriptor = message.takeDescriptor();
 * ```
 *
 * A forgotten descriptor stays open until the process ends: nothing closes it when the object is garbage-collected, or when
 * the worker thread that held it is terminated.
 */
export class Descriptor implements Disposable {
  #fd: number;
  #account: ClosingAccount | undefined;

  /**
   * Takes over an open descriptor. From now on only this object may close it.
   * @param fd the number, 0 or more; a wrong number is a `TypeError`
   */
  constructor(fd: number) {
    if (!Number.isInteger(fd) || fd < 0 || fd > MAX_INT) {
      throw new TypeError(`A descriptor is an integer from 0 to ${MAX_INT}, not ${String(fd)}`);
    }
    this.#fd = fd;
  }

  /**
   * The bare number, lent: it is valid until this object is closed or released. It makes a `Descriptor` usable in
   * `spawn(command, { stdio: ['inherit', 'inherit', 'inherit', descriptor] })`.
   * @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED`
   */
  get fd(): number {
    if (this.#fd === GONE) {
      throw new PassfdError('ERR_DESCRIPTOR_CLOSED', 'The descriptor was already closed or given away');
    }
    return this.#fd;
  }

  /** Whether the descriptor was closed or given away. */
  get closed(): boolean {
    return this.#fd === GONE;
  }

  /** Asks the kernel what the descriptor is. @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` */
  describe(): Description {
    return describe(this.fd);
  }

  /**
   * Device and inode. They are the same for every duplicate, in every process, while one duplicate is open.
   * @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED`
   * @internal
   */
  get inode(): string {
    const { dev, ino } = fstatSync(this.fd, { bigint: true });
    return `${dev}:${ino}`;
  }

  /** The address of this end of a socket. @throws {PassfdError} `ERR_SYSTEM` when it is not a socket (`ENOTSOCK`) */
  get localAddress(): Address {
    const address = readAddress(this.fd, 'local');
    if (typeof address === 'number') throw systemError(address, 'getsockname', subject(this.#fd));
    return address;
  }

  /** The address of the other end of a connection. @throws {PassfdError} `ERR_PEER_GONE` when the connection is over */
  get remoteAddress(): Address {
    const address = readAddress(this.fd, 'remote');
    if (typeof address === 'number') throw systemError(address, 'getpeername', subject(this.#fd));
    return address;
  }

  /**
   * Sets or clears `O_NONBLOCK`. The flag belongs to the open file, not to the descriptor: every duplicate, in every process,
   * sees the change (fcntl(2)).
   * @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED`, `ERR_SYSTEM`
   */
  setNonblocking(on: boolean): void {
    const result = native.setNonblocking(this.fd, on ? 1 : 0);
    if (result < 0) throw systemError(result, 'fcntl', subject(this.#fd));
  }

  /**
   * Gives a connected stream socket, or an end of a pipe, to a `net.Socket`.
   * @throws {PassfdError} `ERR_WRONG_KIND`; then this object still owns the descriptor, as after the four methods below
   */
  toSocket(options?: ToSocketOptions): Socket {
    return toSocket(this, options);
  }

  /**
   * Gives a listening socket to a `net.Server`. Resolves when the server is listening.
   * @param server any `net.Server`, also an `http.Server`, that does not listen yet. Default: a new `net.Server`.
   * @throws {PassfdError} `ERR_WRONG_KIND`
   */
  toServer(server?: Server): Promise<Server> {
    return toServer(this, server);
  }

  /** Gives a UDP socket to a `dgram.Socket`. Resolves when that is listening. @throws {PassfdError} `ERR_WRONG_KIND` */
  toDatagramSocket(): Promise<DatagramSocket> {
    return toDatagramSocket(this);
  }

  /**
   * Gives a file, a memfd, a directory, a pipe, a tty or a device to a `FileHandle`.
   * @throws {PassfdError} `ERR_WRONG_KIND` for a socket; `ERR_UNSUPPORTED` if this version of Node does not allow it
   */
  toFileHandle(): Promise<FileHandle> {
    return toFileHandle(this);
  }

  /** Gives it to the Node object that fits its kind. A pipe becomes a `net.Socket`. @throws {PassfdError} `ERR_WRONG_KIND` */
  toNodeObject(): Promise<Socket | Server | DatagramSocket | FileHandle> {
    return toNodeObject(this);
  }

  /** A second descriptor of the same open file. The caller owns it. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
  duplicate(): Descriptor {
    const result = native.duplicate(this.fd);
    if (result < 0) throw systemError(result, 'dup', subject(this.#fd));
    const duplicate = new Descriptor(result);
    duplicate.#account = this.#account;
    return duplicate;
  }

  /**
   * Makes a thread close the descriptor in the background. For a descriptor that a distrusted process has passed, or has a
   * duplicate of: by a socket that lingers (`SO_LINGER`), or a file on FUSE, such a process can make `close` wait for
   * seconds and more. The number becomes free some time after `close` has returned.
   * @param account the user id of that process: closes of one user wait for each other only. Default: an account of its own.
   */
  distrust(account: number = ownAccount()): void {
    this.#account = account;
  }

  /** Ends `distrust`: `close` closes the descriptor at once, in this thread. */
  trust(): void {
    this.#account = undefined;
  }

  /** The account that `distrust` was called with; undefined without. @internal */
  get account(): number | undefined {
    return this.#account;
  }

  /** Gives it to a new object, with its account. @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` @internal */
  move(): Descriptor {
    const moved = new Descriptor(this.release());
    moved.#account = this.#account;
    return moved;
  }

  /** Gives the bare number away; the caller has to close it. @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` */
  release(): number {
    const { fd } = this;
    this.#fd = GONE;
    return fd;
  }

  /**
   * Closes the descriptor without `shutdown`: other holders of the same connection keep it. A second call does nothing.
   * @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` when other code closed the number, `ERR_SYSTEM`
   */
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
 * Takes over a descriptor that this process was started with, and makes it close-on-exec, so that child processes do not get
 * it.
 * @param fd the number
 * @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` when no descriptor has this number
 */
export function inheritDescriptor(fd: number): Descriptor {
  const descriptor = new Descriptor(fd);
  const result = native.setCloseOnExec(fd);
  if (result < 0) throw systemError(result, 'fcntl', subject(fd), 'this process was not started with it');
  return descriptor;
}

/** Not a private method, since private methods cost every instance. */
function subject(fd: number): { descriptor: string } {
  return { descriptor: `descriptor ${fd}` };
}

/** Describes a bare descriptor. @throws {PassfdError} `ERR_DESCRIPTOR_CLOSED` */
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

// One call at a time uses it: the call into the addon is done with it when it returns.
const closing = new Int32Array(MAX_DESCRIPTORS);

/**
 * Closes every descriptor, also after one fails, and then throws the first error. Descriptors that are closed already are
 * skipped.
 * @throws {PassfdError} as `Descriptor.close`
 */
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
