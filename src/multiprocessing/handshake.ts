// The handshake of one new connection, with a time limit: the connection ends authenticated or closed.
import { PassfdError } from '../fd/index.js';
import { hasHungUp, whenAborted } from '../fd/internal.js';
import type { Connection } from './connection.js';

/** Both ends answer within milliseconds. A machine under load, or a busy Python, may take seconds. */
export const DEFAULT_HANDSHAKE_TIMEOUT_MS = 10_000;

/**
 * Runs `authenticate` on a connection, and closes it when that fails or takes too long.
 * @throws {PassfdError} `ERR_HANDSHAKE_TIMEOUT`, `ERR_AUTHENTICATION`, `ERR_HANDSHAKE`, or the reason of the signal
 */
export async function shakeHands(
  connection: Connection,
  authenticate: (connection: Connection) => Promise<void>,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<void> {
  const deadline = setTimeout(() => {
    connection.socket.discard(
      new PassfdError(
        'ERR_HANDSHAKE_TIMEOUT',
        `The other end did not finish the handshake within ${timeoutMs} ms; does it have a key, and does it accept?`,
      ),
    );
  }, timeoutMs);
  const detach = whenAborted(signal, (reason) => {
    connection.socket.discard(reason);
  });
  try {
    signal?.throwIfAborted();
    await authenticate(connection);
  } catch (error) {
    connection.close();
    throw toHandshakeError(error);
  } finally {
    clearTimeout(deadline);
    detach();
  }
}

/** An end of the stream, or a broken format, is a broken handshake here. */
function toHandshakeError(error: unknown): unknown {
  if (hasHungUp(error)) {
    return new PassfdError(
      'ERR_HANDSHAKE',
      'The other end closed the connection in the handshake; do the keys match?',
      { cause: error },
    );
  }
  if (!(error instanceof PassfdError)) return error;
  switch (error.code) {
    case 'ERR_FRAME':
    case 'ERR_FRAME_TOO_LARGE':
    case 'ERR_UNEXPECTED_DESCRIPTORS':
    case 'ERR_DESCRIPTORS_LOST':
      return new PassfdError('ERR_HANDSHAKE', `The other end broke the handshake: ${error.message}`, {
        cause: error,
      });
    default:
      return error;
  }
}
