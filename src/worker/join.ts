// Joining a dispatcher: by the descriptor that a child inherits, or by its control socket.
import { Descriptor, StreamSocket } from '../fd/index.js';
import { defaultControlPath, MAX_WINDOW } from '../handoff/index.js';
import { Client, type AuthKey } from '../multiprocessing/index.js';
import { Link, type LinkOptions } from './link.js';
import { Worker } from './worker.js';

export interface JoinOptions {
  /** The path of the dispatcher's control socket. Without one: the channel that this process inherited, if it did. */
  readonly control?: string;
  /** The key of the control socket, where it has one; `PASSFD_AUTHKEY` if it is not given. */
  readonly authkey?: AuthKey;
  /** Connections that may be on their way here at most. */
  readonly window?: number;
  /** Connections that this worker wants to have open at most. */
  readonly capacity?: number | null;
  /** Time that the dispatcher has to welcome this worker. */
  readonly handshakeTimeoutMs?: number;
  /** Wait until a dispatcher is there, instead of failing at once. */
  readonly waitForDispatcher?: boolean;
  /** Gives up. */
  readonly signal?: AbortSignal;
}

/** Enough to keep a worker busy while its counts travel, and little to be stuck with it when it hangs. */
const DEFAULT_WINDOW = 128;

const DEFAULT_HANDSHAKE_TIMEOUT_MS = 10_000;

/**
 * Joins a dispatcher as a worker.
 * @throws {PassfdError} as `connect` and `Client` when nobody is there or the keys differ; `ERR_DISPATCHER` with the
 * dispatcher's reason, `ERR_HANDSHAKE_TIMEOUT`
 */
export async function join(options: JoinOptions = {}): Promise<Worker> {
  const {
    window = DEFAULT_WINDOW,
    capacity = null,
    handshakeTimeoutMs = DEFAULT_HANDSHAKE_TIMEOUT_MS,
  } = options;
  if (!Number.isInteger(window) || window < 1 || window > MAX_WINDOW) {
    throw new TypeError(`window is an integer from 1 to ${MAX_WINDOW}, not ${String(window)}`);
  }
  const linkOptions: LinkOptions = { window, capacity, handshakeTimeoutMs };
  const inherited = options.control === undefined ? takeInheritedChannel() : undefined;
  const open = inherited ? () => Promise.resolve(inherited) : connector(options);
  const worker = new Worker(async (events) => Link.open(await open(), linkOptions, events), {
    reconnects: !inherited,
    capacity,
  });
  await worker.connect();
  process.env['PASSFD_WORKER_ID'] ??= String(worker.id);
  return worker;
}

/** Taken once: the variable is removed, so that no process that this one starts takes the number for its own. */
function takeInheritedChannel(): StreamSocket | undefined {
  const { PASSFD_CHANNEL_FD: fd } = process.env;
  if (fd === undefined) return undefined;
  delete process.env['PASSFD_CHANNEL_FD'];
  const descriptor = new Descriptor(Number(fd));
  try {
    return new StreamSocket(descriptor.duplicate());
  } finally {
    // The duplicate is close-on-exec; the one inherited cannot have been.
    descriptor.close();
  }
}

/** What is in the environment is read once: the key may be taken out of it. */
function connector(options: JoinOptions): () => Promise<StreamSocket> {
  const { PASSFD_CONTROL, PASSFD_AUTHKEY } = process.env;
  const { control = PASSFD_CONTROL ?? defaultControlPath(), authkey = PASSFD_AUTHKEY, signal } = options;
  // Only at first: later the worker tries again by itself, as long as anybody needs it.
  let waitForListener = options.waitForDispatcher ?? false;
  return async () => {
    const connection = await Client(control, {
      ...(authkey !== undefined && authkey !== '' && { authkey }),
      ...(options.handshakeTimeoutMs !== undefined && { handshakeTimeoutMs: options.handshakeTimeoutMs }),
      ...(signal && { signal }),
      waitForListener,
    });
    waitForListener = false;
    return connection.socket;
  };
}
