// Finds the descriptor in a Node object that is passed, and makes sure that no byte of a connection is lost.
// It uses Node's private handles, because Node has no public way from a socket to its descriptor.
import { Socket as DatagramSocket } from 'node:dgram';
import type { FileHandle } from 'node:fs/promises';
import { Server, Socket } from 'node:net';
import { TLSSocket } from 'node:tls';

import { closeAll, describe, Descriptor } from './descriptor.js';
import { PassfdError } from './errors.js';
import { native } from './native.js';
import { systemError } from './system-error.js';

/**
 * What can be passed to another process.
 *
 * A `net.Socket` moves: a connection has one reader, so after the send the socket here is destroyed, without `shutdown`.
 * Everything else is lent: it stays open here, and the receiver shares it.
 */
export type Passable = { readonly fd: number } | Socket | Server | DatagramSocket | FileHandle | number;

/** A loan that must learn how the send went. Most passables need none. */
export interface Loan {
  /** The kernel has taken the descriptor. */
  sent(): void;
  /** The send failed: the object stays with its owner as it was. */
  failed(): void;
  /** Throws when the object may not be sent any more, because its owner used it while the send waited. */
  check?(): void;
  /** The send has to wait. From now on the duplicates stand for the descriptors, which the owner may close. */
  wait?(duplicates: readonly Descriptor[]): void;
}

/** Shared, so that a send without loans allocates nothing. */
const noLoans: readonly Loan[] = [];

/**
 * Borrows the descriptors of all passables, or of none: when one cannot be lent, those before it are given back.
 * @param fds gets the numbers
 * @param blocking whether to clear `O_NONBLOCK` on connections; a failed loan sets it again
 * @throws {PassfdError} `ERR_BYTES_ALREADY_READ`, `ERR_BYTES_UNSENT`, `ERR_NOT_PASSABLE`, `ERR_DESCRIPTOR_CLOSED`
 * @throws {TypeError} when a passable has no descriptor
 */
export function borrow(passables: readonly Passable[], fds: Int32Array, blocking = false): readonly Loan[] {
  let loans: Loan[] | undefined;
  try {
    for (let index = 0; index < passables.length; index++) {
      const passable = passables[index];
      let fd;
      if (passable instanceof Socket) {
        const loan = lendSocket(passable);
        (loans ??= []).push(loan);
        fd = loan.fd;
      } else {
        fd = descriptorOf(passable);
      }
      if (blocking && makeBlocking(fd)) (loans ??= []).push(blockingLoan(fd, index));
      fds[index] = fd;
    }
    return loans ?? noLoans;
  } catch (error) {
    for (const loan of loans ?? noLoans) loan.failed();
    throw error;
  }
}

/** Duplicates borrowed descriptors for a send that has to wait: all or none. @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT` */
export function duplicateAll(fds: Int32Array, count: number): Descriptor[] {
  const duplicates: Descriptor[] = [];
  try {
    for (const fd of fds.subarray(0, count)) {
      const result = native.duplicate(fd);
      if (result < 0) {
        throw systemError(result, 'dup', { descriptor: `descriptor ${fd}, which has to wait to be sent` });
      }
      duplicates.push(new Descriptor(result));
    }
    return duplicates;
  } catch (error) {
    closeAll(duplicates);
    throw error;
  }
}

/** @returns whether the flag was set and is now cleared */
function makeBlocking(fd: number): boolean {
  // The lender of a listening or datagram socket still needs the flag for its event loop. A connection has one reader.
  if (native.isNonblocking(fd) !== 1 || describe(fd).kind !== 'stream') return false;
  return native.setNonblocking(fd, 0) === 0;
}

function blockingLoan(fd: number, index: number): Loan {
  let holder = fd;
  return {
    sent: () => undefined,
    failed: () => {
      native.setNonblocking(holder, 1);
    },
    wait: (duplicates) => {
      holder = duplicates[index]?.fd ?? fd;
    },
  };
}

interface PrivateHandle {
  readonly fd?: number;
  /** Whether libuv reads from the stream. When false, `net.Socket` starts reading again as soon as it wants more. */
  reading?: boolean;
  /** Whether another process got a duplicate: the connection may live on after this handle is closed. */
  isPassedOn?: boolean;
  readStart?(): number;
  readStop?(): number;
}

interface WithHandle {
  readonly _handle?: PrivateHandle | null;
}

function lendSocket(socket: Socket): Loan & { readonly fd: number } {
  if (socket instanceof TLSSocket) {
    throw new PassfdError(
      'ERR_NOT_PASSABLE',
      'A TLS socket cannot be passed: its keys live in this process. Pass the TCP connection before the handshake.',
    );
  }
  const handle = (socket as unknown as WithHandle)._handle;
  const fd = handle?.fd;
  if (!handle || fd === undefined || fd < 0 || socket.destroyed || socket.connecting) {
    throw new PassfdError('ERR_NOT_PASSABLE', 'The socket is not connected yet, or no longer connected');
  }
  if (onLoan.has(socket)) {
    throw new PassfdError(
      'ERR_NOT_PASSABLE',
      'The socket is already being passed, and can have only one receiver',
    );
  }
  checkNothingUnsent(socket);
  const wasReading = handle.reading === true;
  handle.readStop?.();
  // While this is false, Node starts reading again, for example on `resume()`. So it must be true, as if the handle read.
  handle.reading = true;
  onLoan.add(socket);
  const failed = (): void => {
    onLoan.delete(socket);
    // Code that asked for bytes meanwhile found the socket reading.
    const reads = wasReading || socket.readableFlowing === true || socket.listenerCount('readable') > 0;
    handle.reading = reads;
    if (reads && !socket.destroyed) handle.readStart?.();
  };
  // Counted by libuv, so it includes bytes that were read and not delivered yet.
  if (socket.bytesRead > 0) {
    failed();
    throw new PassfdError(
      'ERR_BYTES_ALREADY_READ',
      `${socket.bytesRead} bytes were already read from the socket and would be lost to the receiver: ` +
        'pass it inside its "connection" event, or create the server with pauseOnConnect: true',
    );
  }
  return {
    fd,
    sent: () => {
      onLoan.delete(socket);
      handle.isPassedOn = true;
      socket.destroy();
    },
    failed,
    check: () => {
      if (socket.destroyed) {
        throw new PassfdError('ERR_NOT_PASSABLE', 'The socket was destroyed before it could be passed');
      }
      checkNothingUnsent(socket);
    },
  };
}

/** Connections that a send has borrowed and not sent yet. */
const onLoan = new WeakSet<Socket>();

function checkNothingUnsent(socket: Socket): void {
  if (socket.writableLength === 0 && !socket.writableEnded) return;
  throw new PassfdError(
    'ERR_BYTES_UNSENT',
    `${socket.writableLength} bytes written to the socket are not sent yet, or it was ended: wait for 'drain', or pass it before writing`,
  );
}

function descriptorOf(passable: Exclude<Passable, Socket> | undefined): number {
  if (passable instanceof Descriptor) return passable.fd;
  if (typeof passable === 'number') return new Descriptor(passable).release();
  if (passable instanceof Server) {
    return openOr(
      (passable as unknown as WithHandle)._handle?.fd,
      'The server does not listen: await its "listening" event. In a cluster worker, the primary has its socket',
    );
  }
  if (passable instanceof DatagramSocket) {
    return openOr(
      datagramHandle(passable)?.fd,
      'The datagram socket is not bound: await its "listening" event',
    );
  }
  if (typeof passable?.fd === 'number') {
    return openOr(passable.fd, 'The file is closed');
  }
  throw new TypeError(
    'Only a Descriptor, net.Socket, net.Server, dgram.Socket, FileHandle or number can be passed',
  );
}

function openOr(fd: number | undefined, message: string): number {
  if (fd === undefined || fd < 0) throw new PassfdError('ERR_NOT_PASSABLE', message);
  return fd;
}

/** `dgram` keeps its handle under a symbol. Its `_handle` works too, but prints a deprecation warning (DEP0112). */
function datagramHandle(socket: DatagramSocket): PrivateHandle | undefined {
  const key = Object.getOwnPropertySymbols(socket).find(({ description }) => description === 'state symbol');
  const state =
    key && (socket as unknown as Record<symbol, { handle?: PrivateHandle | null } | undefined>)[key];
  return state?.handle ?? undefined;
}
