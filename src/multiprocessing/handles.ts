// Handles: passes descriptors over a connection as Python's `multiprocessing.reduction` does.
//
//   message := one byte, the number of descriptors modulo 256, with SCM_RIGHTS; no frame around it
//   answer  := "A", on macOS only
//
// Source: CPython's Lib/multiprocessing/reduction.py, sendfds, recvfds, send_handle and recv_handle.
import { MAX_DESCRIPTORS, PassfdError, StreamSocket, type Descriptor, type Passable } from '../fd/index.js';
import { Connection, type RecvOptions } from './connection.js';

/** Receivers on macOS send it back: that kernel loses a descriptor in flight when the sender closes it (nodejs/node#7512). */
const ACKNOWLEDGEMENT = 0x41;

const isAcknowledged = process.platform === 'darwin';

export interface HandleOptions extends RecvOptions {
  /** Whether the receiver acknowledges. Both ends must agree. Default: true on macOS, false elsewhere, as in CPython. */
  readonly acknowledge?: boolean;
}

/**
 * Passes a descriptor over a connection, for `recvHandle` (`recv_handle` in Python) at the other end. A `net.Socket` moves;
 * everything else is lent, and may be closed when this resolves. Connections arrive blocking, as Python expects them.
 *
 * @param destinationPid not used, as in Python on Unix; the parameter keeps both signatures alike
 * @throws {PassfdError} as `StreamSocket.send`; then the caller still has the descriptor, and a `net.Socket` still works
 */
export async function sendHandle(
  connection: Connection | StreamSocket,
  handle: Passable,
  destinationPid?: number | null,
  options: HandleOptions = {},
): Promise<void> {
  await sendFds(connection, [handle], options);
}

/**
 * Receives a descriptor that the other end passed with `sendHandle` (`send_handle` in Python).
 * @returns a close-on-exec descriptor, which the caller owns
 * @throws {PassfdError} `ERR_EOF` when the other end closed. `ERR_HANDLE`, `ERR_DESCRIPTORS_LOST`; then the received
 * descriptors and the connection were closed.
 */
export async function recvHandle(
  connection: Connection | StreamSocket,
  options: HandleOptions = {},
): Promise<Descriptor> {
  const [descriptor] = await recvExactlyFds(connection, 1, 1, options);
  if (!descriptor) throw new PassfdError('ERR_HANDLE', 'No descriptor came');
  return descriptor;
}

/**
 * Passes several descriptors in one message, as `multiprocessing.reduction.sendfds` does.
 * @param fds at most `MAX_DESCRIPTORS`
 * @throws {PassfdError} as `sendHandle`
 */
export async function sendFds(
  socket: Connection | StreamSocket,
  fds: readonly Passable[],
  options: HandleOptions = {},
): Promise<void> {
  const { acknowledge = isAcknowledged, signal } = options;
  await streamOf(socket).send(Uint8Array.of(fds.length % 256), fds, { blocking: true, signal });
  if (acknowledge) await recvAcknowledgement(socket, options);
}

/**
 * Receives the descriptors of one message, as `multiprocessing.reduction.recvfds` does.
 * @param size most descriptors that may come, 1 to `MAX_DESCRIPTORS`; more break the format
 * @throws {PassfdError} as `recvHandle`
 */
export async function recvFds(
  socket: Connection | StreamSocket,
  size: number,
  options: HandleOptions = {},
): Promise<Descriptor[]> {
  if (!Number.isInteger(size) || size < 1 || size > MAX_DESCRIPTORS) {
    throw new TypeError(`size is an integer from 1 to ${MAX_DESCRIPTORS}, not ${String(size)}`);
  }
  return recvExactlyFds(socket, 0, size, options);
}

async function recvExactlyFds(
  socket: Connection | StreamSocket,
  least: number,
  most: number,
  options: HandleOptions,
): Promise<Descriptor[]> {
  const { acknowledge = isAcknowledged } = options;
  return inTurn(
    socket,
    async () => {
      const { signal } = options;
      using message = await streamOf(socket).receiveExactly(1, { descriptors: MAX_DESCRIPTORS, signal });
      if (!message) throw new PassfdError('ERR_EOF', 'The other end closed the connection');
      if (acknowledge) await streamOf(socket).send(Uint8Array.of(ACKNOWLEDGEMENT));
      const { length } = message.descriptors;
      const announced = message.bytes[0] ?? 0;
      if (length < least || length > most || announced !== length % 256) {
        throw new PassfdError(
          'ERR_HANDLE',
          `Expected ${least === most ? most : `up to ${most}`} descriptors; the other end announced ${announced}, and ${length} came` +
            (length === 0 ? ': most likely this is a frame from send, and not a handle' : ' and were closed'),
        );
      }
      return message.takeDescriptors();
    },
    options,
  );
}

/** When aborted, it closes the connection: a late acknowledgement would be taken for something else. */
async function recvAcknowledgement(socket: Connection | StreamSocket, options: HandleOptions): Promise<void> {
  await inTurn(socket, async () => {
    using message = await streamOf(socket)
      .receiveExactly(1, { signal: options.signal })
      .catch((error: unknown) => {
        streamOf(socket).destroy();
        throw error;
      });
    if (message?.bytes[0] !== ACKNOWLEDGEMENT) {
      throw new PassfdError('ERR_HANDLE', 'The other end did not acknowledge the descriptors');
    }
  });
}

function streamOf(socket: Connection | StreamSocket): StreamSocket {
  return socket instanceof Connection ? socket.socket : socket;
}

async function inTurn<T>(
  socket: Connection | StreamSocket,
  receive: () => Promise<T>,
  options: RecvOptions = {},
): Promise<T> {
  if (socket instanceof Connection) return socket.inTurn(receive, options);
  try {
    return await receive();
  } catch (error) {
    if (
      error instanceof PassfdError &&
      (error.code === 'ERR_HANDLE' || error.code === 'ERR_DESCRIPTORS_LOST')
    ) {
      socket.destroy();
    }
    throw error;
  }
}
