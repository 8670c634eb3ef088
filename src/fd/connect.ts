// Connecting: to a Unix socket or over TCP, at once or as soon as someone listens; and the socket pair.
import { setTimeout } from 'node:timers/promises';

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

/** Pauses between two tries: the kernel has no event for "someone listens now" or "there is room in the backlog". */
const FIRST_RETRY_MS = 1;
const LAST_RETRY_MS = 100;

export interface ConnectOptions {
  /** Gives up. */
  readonly signal?: AbortSignal;
  /** Keep trying while nobody listens at the address yet, instead of failing at once. */
  readonly waitForListener?: boolean;
}

/**
 * Connects to a Unix socket (the path, or `{ path }`) or over TCP (`{ host, port }`). When the listener's backlog is
 * full, it waits for room, as a blocking connect does.
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
    const isNobodyThere = result === ENOENT || result === ECONNREFUSED;
    if (result !== EAGAIN && !(isNobodyThere && waitForListener)) throw connectError(result, target);
    // It rejects when the signal is aborted, with an error of its own; the next round tells the signal's reason.
    await setTimeout(retryMs, undefined, { ...(signal && { signal }) }).catch(() => undefined);
  }
}

/**
 * Two connected Unix sockets, of which one is usually for a child: `spawn(command, { stdio: ['inherit', 'inherit',
 * 'inherit', second] })`, then `second.close()` here, or its end in the child is never seen.
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

/** Tries each address of the host, and tells the last failure. */
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
    const finish = (settle: () => void): void => {
      signal?.removeEventListener('abort', abort);
      readiness.close();
      settle();
    };
    const abort = (): void => {
      finish(() => {
        reject(signal?.reason as Error);
      });
    };
    const readiness = new Readiness(descriptor.fd, () => {
      finish(resolve);
    });
    signal?.addEventListener('abort', abort, { once: true });
    readiness.want(WRITABLE);
  });
}

function connectError(result: number, target: Address): PassfdError {
  return systemError(result, 'connect', { address: formatAddress(target) }, hint(result, target));
}

function hint(result: number, target: Address): string | undefined {
  if (result === ENOENT) return 'nothing is there: start the server first, or check the path';
  if (result === ECONNREFUSED && 'path' in target && !isAbstract(target.path)) {
    return 'the file is left from a server that ended: start the server, which replaces it';
  }
  return undefined;
}
