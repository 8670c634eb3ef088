// Client: connects to a Listener, here or in Python.
import { connect, type PeerCredentials, type StreamSocket } from '../fd/index.js';
import { fromPython, type ConnectionAddress } from './address.js';
import { authenticateToListener, toKey, type AuthKey } from './authentication.js';
import { Connection, type ConnectionOptions } from './connection.js';
import { DEFAULT_HANDSHAKE_TIMEOUT_MS, shakeHands } from './handshake.js';
import { checkMilliseconds } from './milliseconds.js';

export interface ClientOptions extends Pick<ConnectionOptions, 'maxFrameBytes' | 'pickleLimits'> {
  /** The key that both ends know; without one, nobody proves anything. At least 16 random bytes make a good one. */
  readonly authkey?: AuthKey;
  /** Time for the whole handshake, the listener's `accept` included. */
  readonly handshakeTimeoutMs?: number;
  /** Wait until somebody listens at the address, instead of failing at once. */
  readonly waitForListener?: boolean;
  /** Looks at who listens at a Unix socket, before anything is said or read; throws to give up. */
  readonly checkPeer?: (peer: PeerCredentials) => void;
  /** Gives up. */
  readonly signal?: AbortSignal;
}

/**
 * Connects to the listener at an address, as `multiprocessing.connection.Client` does.
 * @throws {PassfdError} `ERR_AUTHENTICATION` when the keys differ; `ERR_HANDSHAKE`, `ERR_HANDSHAKE_TIMEOUT`; or as
 * `connect`, and what `checkPeer` throws
 */
export async function Client(address: ConnectionAddress, options: ClientOptions = {}): Promise<Connection> {
  const {
    authkey,
    handshakeTimeoutMs = DEFAULT_HANDSHAKE_TIMEOUT_MS,
    signal,
    waitForListener = false,
  } = options;
  checkMilliseconds(handshakeTimeoutMs, 'handshakeTimeoutMs');
  const key = authkey === undefined ? undefined : toKey(authkey);
  const socket = await connect(await fromPython(address), { waitForListener, ...(signal && { signal }) });
  try {
    if (options.checkPeer) checkListener(socket, options.checkPeer);
  } catch (error) {
    socket.discard();
    throw error;
  }
  const connection = new Connection(socket, options);
  if (key) {
    await shakeHands(
      connection,
      (channel) => authenticateToListener(channel, key),
      handshakeTimeoutMs,
      signal,
    );
  }
  return connection;
}

/** A listener that is refused may have passed something by then that is slow to close. */
function checkListener(socket: StreamSocket, check: (peer: PeerCredentials) => void): void {
  const { peer } = socket;
  socket.distrust(peer.uid);
  check(peer);
  socket.trust();
}
