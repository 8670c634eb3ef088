// Connecting to a Unix socket or over TCP, at once or as soon as a process listens; and making socket pairs.
import { setTimeout } from 'node:timers/promises';

import { whenAborted } from './abort.js';
import {
  formatAddress,
  isAbstract,
  resolveHost,
  toAddress,
  type Address,
  type AddressLike,
} from './address.js';
import { Descriptor } from './descriptor.js';
import type { PassfdError } from './errors.js';
import { native } from './native.js';
import { Readiness, WRITABLE } from './readiness.js';
import { StreamSocket } from './stream-socket.js';
import { EAGAIN, ECONNREFUSED, ENOENT, systemError } from './system-error.js';

/** Pauses between two tries: the kernel has no event for "a process listens now" or "the backlog has room". */
const FIRST_RETRY_MS = 1;
const LAST_RETRY_MS = 100;

export interface ConnectOptions {
  /** Ends the waiting. Default: none. */
  readonly signal?: AbortSignal;
  /** Whether to try again until a process listens at the address, instead of failing at once. Default: false. */
  readonly waitForListener?: boolean;
}

/**
 * Connects to a Unix socket (a path, or `{ path }`) or over TCP (`{ host, port }`). While the backlog of the listener is
 * full, it waits, as a blocking connect does.
 *
 * @throws {PassfdError} `ERR_CONNECTION_REFUSED`, `ERR_ADDRESS_MISSING`, `ERR_ADDRESS_DENIED`, `ERR_ADDRESS`,
 * `ERR_DESCRIPTOR_LIMIT`, or the reason of the signal
 */
export async function connect(address: AddressLike, options: ConnectOptions = {}): Promise<StreamSocket> {
  const target = toAddress(address);
  const { signal, waitForListener = false } = options;
  for (let retryMs = FIRST_RETRY_MS; ; retryMs = Math.min(retryMs * 2, LAST_RETRY_MS)) {
    signal?.throwIfAborted();
    const result = await ('path' in target
      ? connectUnix(target.path)
      : connectTcp(target.host, target.port, signal));
    if (typeof result !== 'number') return result;
    const hasNoListener = result === ENOENT || result === ECONNREFUSED;
    if (result !== EAGAIN && !(hasNoListener && waitForListener)) throw connectError(result, target);
    // An aborted timer rejects with an error of its own; the next round throws the reason of the signal.
    await setTimeout(retryMs, undefined, { ...(signal && { signal }) }).catch(() => undefined);
  }
}

/**
 * Makes two connected Unix sockets. To give one to a child: `spawn(command, { stdio: ['inherit', 'inherit', 'inherit',
 * second] })`, then `second.destroy()` here. While this process holds it too, the end of the child's socket is never seen.
 * @throws {PassfdError} `ERR_DESCRIPTOR_LIMIT`
 */
export function socketPair(): [StreamSocket, StreamSocket] {
  const fds = new Int32Array(2);
  const result = native.socketPair(fds);
  if (result < 0) throw systemError(result, 'socketpair', { descriptor: 'a new pair of sockets' });
  const [first = -1, second = -1] = fds;
  return [new StreamSocket(new Descriptor(first)), new StreamSocket(new Descriptor(second))];
}

type Attempt = StreamSocket | number;

function toStreamSocket(fd: number): Attempt {
  return fd < 0 ? fd : new StreamSocket(new Descriptor(fd));
}

function connectUnix(path: string): Attempt {
  return toStreamSocket(native.connectUnix(Buffer.from(path)));
}

/** Tries each address of the host, and returns the last failure. */
async function connectTcp(host: string, port: number, signal: AbortSignal | undefined): Promise<Attempt> {
  let result: Attempt = ECONNREFUSED;
  for (const numeric of await resolveHost(host)) {
    signal?.throwIfAborted();
    result = native.connectTcp(numeric, port);
    if (result < 0) continue;
    using descriptor = new Descriptor(result);
    await untilWritable(descriptor, signal);
    result = native.socketError(descriptor.fd);
    if (result === 0) return new StreamSocket(descriptor);
  }
  return result;
}

function untilWritable(descriptor: Descriptor, signal: AbortSignal | undefined): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    const detach = whenAborted(signal, (reason) => {
      readiness.close();
      reject(reason);
    });
    const readiness = new Readiness(descriptor.fd, () => {
      detach();
      readiness.close();
      resolve();
    });
    readiness.want(WRITABLE);
  });
}

function connectError(result: number, target: Address): PassfdError {
  return systemError(result, 'connect', { address: formatAddress(target) }, hint(result, target));
}

function hint(result: number, target: Address): string | undefined {
  if (result === ENOENT) return 'no socket is there: start the server first, or check the path';
  if (result === ECONNREFUSED && 'path' in target && !isAbstract(target.path)) {
    return 'the file is left from a server that has ended: start the server, which replaces the file';
  }
  return undefined;
}
