// Makes Node objects of descriptors. A wrong kind is refused, and the descriptor stays with its owner.
import cluster from 'node:cluster';
import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { once } from 'node:events';
import { open, type FileHandle } from 'node:fs/promises';
import { Server, Socket } from 'node:net';

import type { Descriptor, DescriptorKind } from './descriptor.js';
import { PassfdError } from './errors.js';
import { noteFreed } from './starvation.js';
import { systemError } from './system-error.js';

export interface ToSocketOptions {
  /** Whether the writing side stays open after the other end has ended its own (see `net.Socket`). Default: false. */
  readonly allowHalfOpen?: boolean;
  /** Whether to read nothing until `resume()`, for a connection that is passed on. Default: false. */
  readonly pauseOnCreate?: boolean;
}

export function toSocket(descriptor: Descriptor, options: ToSocketOptions = {}): Socket {
  const { kind, readable, writable } = descriptor.describe();
  requireKind(descriptor, kind, ['stream', 'pipe'], 'a net.Socket');
  const socket = new Socket({
    fd: descriptor.fd,
    readable,
    writable,
    ...options,
    // `pauseOnCreate` is missing in @types/node; net.Server uses it for `pauseOnConnect`.
  });
  descriptor.release();
  socket.once('close', () => {
    noteFreed();
  });
  return socket;
}

export async function toServer(descriptor: Descriptor, server = new Server()): Promise<Server> {
  requireKind(descriptor, descriptor.describe().kind, ['listener'], 'a net.Server');
  if (server.listening) throw new TypeError('The server listens already: pass one that does not, or none');
  await settled(server, descriptor, (fd) => {
    // In a cluster worker, `listen({ fd })` means a descriptor of the primary (net, server.listen), and this one is ours.
    if (cluster.isWorker) (server as unknown as PrivateServer)._listen2(null, null, null, 0, fd);
    else server.listen({ fd });
  });
  return server;
}

export async function toDatagramSocket(descriptor: Descriptor): Promise<DatagramSocket> {
  const { kind, family } = descriptor.describe();
  requireKind(descriptor, kind, ['datagram'], 'a dgram.Socket');
  if (family !== 'ipv4' && family !== 'ipv6') {
    throw wrongKind(descriptor, `${kind} (${family ?? 'not IP'})`, 'a dgram.Socket');
  }
  const socket = createSocket(family === 'ipv6' ? 'udp6' : 'udp4');
  // Without `exclusive`, a cluster worker would ask its primary to bind instead.
  try {
    await settled(socket, descriptor, (fd) => socket.bind({ fd, exclusive: true }));
  } catch (error) {
    socket.close();
    throw error;
  }
  return socket;
}

export async function toFileHandle(descriptor: Descriptor): Promise<FileHandle> {
  const { kind } = descriptor.describe();
  requireKind(descriptor, kind, ['file', 'directory', 'pipe', 'tty', 'other'], 'a FileHandle');
  const build = (fileHandleBuilder ??= await findFileHandleBuilder());
  const handle = build(descriptor.fd);
  descriptor.release();
  return handle;
}

export async function toNodeObject(
  descriptor: Descriptor,
): Promise<Socket | Server | DatagramSocket | FileHandle> {
  switch (descriptor.describe().kind) {
    case 'stream':
    case 'pipe':
      return toSocket(descriptor);
    case 'listener':
      return await toServer(descriptor);
    case 'datagram':
      return await toDatagramSocket(descriptor);
    case 'file':
    case 'directory':
    case 'tty':
    case 'other':
      return await toFileHandle(descriptor);
    case 'socket':
      throw wrongKind(descriptor, 'socket', 'any object of Node');
  }
}

function requireKind(
  descriptor: Descriptor,
  kind: DescriptorKind,
  wanted: readonly DescriptorKind[],
  target: string,
): void {
  if (!wanted.includes(kind)) throw wrongKind(descriptor, kind, target);
}

function wrongKind(descriptor: Descriptor, kind: string, target: string): PassfdError {
  return new PassfdError(
    'ERR_WRONG_KIND',
    `Descriptor ${descriptor.fd} cannot become ${target}: it is of kind ${kind}`,
  );
}

interface PrivateServer {
  /** `listen` calls it in the end, and Node keeps the name for other code. A backlog of 0 means Node's default. */
  _listen2(address: null, port: null, addressType: null, backlog: number, fd: number): void;
}

/**
 * Makes Node listen on a duplicate, waits until it does, and closes the descriptor. Node closes what it got on some errors and
 * not on others. With a duplicate, the worst case is a leak and not a double close.
 */
async function settled(
  emitter: Server | DatagramSocket,
  descriptor: Descriptor,
  listen: (fd: number) => unknown,
): Promise<void> {
  using duplicate = descriptor.duplicate();
  const failed = new AbortController();
  const listening = once(emitter, 'listening', { signal: failed.signal });
  try {
    listen(duplicate.fd);
  } catch (error) {
    failed.abort();
    await listening.catch(() => undefined);
    throw error;
  }
  duplicate.release();
  await listening;
  descriptor.close();
}

let fileHandleBuilder: ((fd: number) => FileHandle) | undefined;

/**
 * Node has no public way to make a FileHandle of an open descriptor: `open('/proc/self/fd/N')` opens the file again, with an
 * offset and flags of its own, and fails for sockets. So this takes the two constructors of a FileHandle from one that Node
 * made.
 */
async function findFileHandleBuilder(): Promise<(fd: number) => FileHandle> {
  await using sample = await open('/dev/null').catch((error: unknown) => {
    throw systemError((error as NodeJS.ErrnoException).errno ?? 0, 'open', { descriptor: '/dev/null' });
  });
  const key = Object.getOwnPropertySymbols(sample).find(({ description }) => description === 'kHandle');
  const native =
    key && (sample as unknown as Record<symbol, { constructor?: unknown } | undefined>)[key]?.constructor;
  const Handle: unknown = sample.constructor;
  if (typeof native !== 'function' || typeof Handle !== 'function') {
    throw new PassfdError(
      'ERR_UNSUPPORTED',
      `This version of passfd cannot make a FileHandle in Node ${process.version}; use the number of the descriptor`,
    );
  }
  const NativeHandle = native as new (fd: number) => object;
  const FileHandleClass = Handle as new (native: object) => FileHandle;
  return (fd) => new FileHandleClass(new NativeHandle(fd));
}
