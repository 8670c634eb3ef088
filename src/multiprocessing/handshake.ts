// The handshake of one new connection, against the clock: it ends authenticated, or closed.
import { PassfdError } from '../fd/index.js';
import type { Connection } from './connection.js';

/** Both ends speak within milliseconds; a machine under load, or a Python that is busy elsewhere, may take seconds. */
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
  const abort = (): void => {
    connection.socket.discard(signal?.reason);
  };
  signal?.addEventListener('abort', abort, { once: true });
  try {
    signal?.throwIfAborted();
    await authenticate(connection);
  } catch (error) {
    connection.close();
    throw toHandshakeError(error);
  } finally {
    clearTimeout(deadline);
    signal?.removeEventListener('abort', abort);
  }
}

/** What breaks the format, or ends, breaks the handshake. */
function toHandshakeError(error: unknown): unknown {
  if (!(error instanceof PassfdError)) return error;
  switch (error.code) {
    case 'ERR_EOF':
    case 'ERR_PEER_GONE':
      return new PassfdError(
        'ERR_HANDSHAKE',
        'The other end closed the connection in the handshake; do the keys match?',
        {
          cause: error,
        },
      );
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
