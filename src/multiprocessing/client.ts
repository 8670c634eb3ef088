// Client: connects to a Listener, in Node or in Python.
import { connect, type PeerCredentials, type StreamSocket } from '../fd/index.js';
import { fromPython, type ConnectionAddress } from './address.js';
import { authenticateToListener, toKey, type AuthKey } from './authentication.js';
import { Connection, type ConnectionOptions } from './connection.js';
import { DEFAULT_HANDSHAKE_TIMEOUT_MS, shakeHands } from './handshake.js';
import { checkMilliseconds } from './milliseconds.js';

export interface ClientOptions extends Pick<ConnectionOptions, 'maxFrameBytes' | 'pickleLimits'> {
  /** The key that both ends know; use at least 16 random bytes. Default: none, and then neither end authenticates. */
  readonly authkey?: AuthKey;
  /** Time limit for the whole handshake, including the listener's `accept`. Default: 10000. */
  readonly handshakeTimeoutMs?: number;
  /** Whether to wait until a process listens at the address, instead of failing at once. Default: false. */
  readonly waitForListener?: boolean;
  /** Checks the listener of a Unix socket before anything is sent or read; throws to refuse it. Default: no check. */
  readonly checkPeer?: (peer: PeerCredentials) => void;
  /** Ends the waiting. Default: none. */
  readonly signal?: AbortSignal;
}

/**
 * Connects to the listener at an address, as `multiprocessing.connection.Client` does.
 * @throws {PassfdError} `ERR_AUTHENTICATION` when the keys differ; `ERR_HANDSHAKE`, `ERR_HANDSHAKE_TIMEOUT`; the errors of
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

/** Distrusted until checked: a listener that is refused may already have sent descriptors that are slow to close. */
function checkListener(socket: StreamSocket, check: (peer: PeerCredentials) => void): void {
  const { peer } = socket;
  socket.distrust(peer.uid);
  check(peer);
  socket.trust();
}
