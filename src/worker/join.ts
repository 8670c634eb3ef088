// Joining: how a process finds its dispatcher: an inherited channel, a control socket, or the way back; and the defaults.
import { watch } from 'node:fs';
import { basename, dirname } from 'node:path';

import { Descriptor, PassfdError, StreamSocket } from '../fd/index.js';
import { MAX_TIMER_MS } from '../fd/internal.js';
import {
  checkDispatcher,
  DEFAULT_ORPHAN_TIMEOUT_MS,
  defaultControlPath,
  MAX_WINDOW,
  trustedUsers,
  WayBack,
  type TrustedUsers,
} from '../handoff/index.js';
import { Client, type AuthKey } from '../multiprocessing/index.js';
import { checkCapacity } from './capacity.js';
import { Link, type LinkOptions } from './link.js';
import { Worker } from './worker.js';

export interface JoinOptions {
  /**
   * The path of the dispatcher's control socket. Default: the channel that a child of a supervisor inherits; in any other
   * process `PASSFD_CONTROL`, or `$XDG_RUNTIME_DIR/passfd/control`, or `passfd-UID/control` in the directory for temporary
   * files.
   */
  readonly control?: string;
  /** The key of the control socket. Default: `PASSFD_AUTHKEY`; without that, no key. */
  readonly authkey?: AuthKey;
  /**
   * User ids whose dispatcher this process trusts, besides root, its own user, and those in `PASSFD_TRUST_UIDS`.
   * Default: none.
   */
  readonly trustUids?: readonly number[];
  /** Most connections in flight to this worker: sent, and not yet adopted. From 1 to 4096. Default: 128. */
  readonly window?: number;
  /** Most connections that this worker has open, or null for no limit. Default: null. */
  readonly capacity?: number | null;
  /** Time that the dispatcher has to welcome this worker, in milliseconds. Default: 10 000. */
  readonly handshakeTimeoutMs?: number;
  /**
   * Time in which the next dispatcher must come when this one dies, in milliseconds. Until then the worker keeps the
   * listening sockets open, so that clients wait instead of being refused. After it, the worker drains.
   * Default: what the supervisor has set for its children; else 60 000.
   */
  readonly orphanTimeoutMs?: number;
  /** Whether to wait until a dispatcher is there, instead of failing at once. Default: false. */
  readonly waitForDispatcher?: boolean;
  /** Gives up joining. `join` then rejects with its reason. Default: none. */
  readonly signal?: AbortSignal;
}

/** Keeps a worker busy while its answers travel. A worker that hangs holds up no more connections than this. */
const DEFAULT_WINDOW = 128;

const DEFAULT_HANDSHAKE_TIMEOUT_MS = 10_000;

/**
 * Joins a dispatcher as a worker. Resolves when the dispatcher has welcomed it.
 * @throws {TypeError} when an option is out of its range
 * @throws {PassfdError} `ERR_ADDRESS_MISSING` or `ERR_CONNECTION_REFUSED` when no dispatcher is there;
 * `ERR_ADDRESS_DENIED` when this user may not connect; `ERR_AUTHENTICATION` when the keys differ; `ERR_PEER_DENIED` when
 * the dispatcher's user is not trusted; `ERR_DISPATCHER`, with the reason, when the dispatcher refuses this worker;
 * `ERR_HANDSHAKE_TIMEOUT`; `ERR_PEER_GONE`
 */
export async function join(options: JoinOptions = {}): Promise<Worker> {
  const {
    window = DEFAULT_WINDOW,
    capacity = null,
    handshakeTimeoutMs = DEFAULT_HANDSHAKE_TIMEOUT_MS,
  } = options;
  const timeoutMs = options.orphanTimeoutMs ?? orphanTimeoutInEnvironment() ?? DEFAULT_ORPHAN_TIMEOUT_MS;
  if (!Number.isInteger(window) || window < 1 || window > MAX_WINDOW) {
    throw new TypeError(`window must be an integer from 1 to ${MAX_WINDOW}, not ${String(window)}`);
  }
  checkCapacity(capacity);
  checkDuration('handshakeTimeoutMs', handshakeTimeoutMs);
  checkDuration('orphanTimeoutMs', timeoutMs);
  let inherited = options.control === undefined ? takeInheritedChannel() : undefined;
  const path = controlPath(options, inherited !== undefined);
  const service = inherited && process.env['PASSFD_SERVICE'];
  // A process that this one starts is no child of the supervisor.
  delete process.env['PASSFD_SERVICE'];
  // Read once: this process may be of another user at the next attempt.
  const trusted = trustedUsers(options.trustUids);
  const connectAgain = connector(path ?? '', options, trusted);
  const wayBack = path === undefined ? undefined : await WayBack.open(trusted);
  const open = async (): Promise<StreamSocket> => {
    const socket = inherited ?? wayBack?.take();
    inherited = undefined;
    return socket ?? connectAgain().catch(wayBack ? waitsToBeCalled : undefined);
  };
  const worker = new Worker(
    async (host, hello) => {
      const linkOptions: LinkOptions = { window, handshakeTimeoutMs, ...hello };
      return Link.open(await open(), linkOptions, host);
    },
    {
      reconnect:
        path === undefined
          ? undefined
          : {
              timeoutMs,
              untilChanged: (signal) =>
                Promise.race([untilPathChanges(path, signal), ...(wayBack ? [wayBack.untilCalled()] : [])]),
              close: () => wayBack?.close(),
            },
      capacity,
      service,
    },
  );
  try {
    await worker.connect();
  } catch (error) {
    wayBack?.close();
    throw error;
  }
  process.env['PASSFD_WORKER_ID'] ??= String(worker.id);
  return worker;
}

function checkDuration(name: string, durationMs: unknown): void {
  if (typeof durationMs === 'number' && durationMs >= 0 && durationMs <= MAX_TIMER_MS) return;
  throw new TypeError(`${name} must be a number from 0 to ${MAX_TIMER_MS}, not ${String(durationMs)}`);
}

/** Takes the channel once. It removes the variable, so that no process that this one starts takes the number for its own. */
function takeInheritedChannel(): StreamSocket | undefined {
  const { PASSFD_CHANNEL_FD: fd } = process.env;
  if (fd === undefined) return undefined;
  delete process.env['PASSFD_CHANNEL_FD'];
  const descriptor = new Descriptor(Number(fd));
  try {
    return new StreamSocket(descriptor.duplicate());
  } finally {
    // The duplicate is close-on-exec. The inherited descriptor cannot be, or it would not be here.
    descriptor.close();
  }
}

/**
 * Where this dispatcher and the next ones can be reached.
 * @returns undefined for a child whose parent has no control socket
 */
function controlPath({ control }: JoinOptions, isChild: boolean): string | undefined {
  const path = control ?? process.env['PASSFD_CONTROL'];
  return path ?? (isChild ? undefined : defaultControlPath());
}

/** Set by the supervisor for its children. */
function orphanTimeoutInEnvironment(): number | undefined {
  const text = process.env['PASSFD_ORPHAN_TIMEOUT'];
  return text === undefined || !/^\d+$/.test(text) ? undefined : Number(text);
}

/** Reads the environment once, since the key may be removed from it. */
function connector(
  control: string,
  options: JoinOptions,
  trusted: TrustedUsers,
): () => Promise<StreamSocket> {
  const { authkey = process.env['PASSFD_AUTHKEY'], signal } = options;
  // Only the first attempt waits. Later the worker itself tries again, for a limited time.
  let waitForListener = options.waitForDispatcher ?? false;
  return async () => {
    const connection = await Client(control, {
      ...(authkey !== undefined && authkey !== '' && { authkey }),
      ...(options.handshakeTimeoutMs !== undefined && { handshakeTimeoutMs: options.handshakeTimeoutMs }),
      ...(signal && { signal }),
      waitForListener,
      checkPeer: (peer) => {
        checkDispatcher(control, peer, trusted);
      },
    });
    waitForListener = false;
    return connection.socket;
  };
}

/** After a change of its user, a process may not connect any more. The dispatcher calls it by the way back instead. */
function waitsToBeCalled(error: unknown): never {
  if (!(error instanceof PassfdError) || error.code !== 'ERR_ADDRESS_DENIED') throw error;
  throw new PassfdError('ERR_ADDRESS_MISSING', `No dispatcher has called this worker yet: ${error.message}`, {
    cause: error,
  });
}

/** Resolves when a file changes, for example when a dispatcher makes its socket. Never rejects. */
function untilPathChanges(path: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    try {
      const watcher = watch(dirname(path), { persistent: false, signal });
      watcher.on('change', (_type, name) => {
        if (name === basename(path)) resolve();
      });
      // Without a watch, the worker still looks after each pause.
      watcher.on('error', () => undefined);
    } catch {
      // The directory is gone. The worker still looks after each pause.
    }
  });
}
