// Joining a dispatcher: by the descriptor that a child inherits, or by its control socket.
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
  /** The path of the dispatcher's control socket. Without one: the channel that this process inherited, if it did. */
  readonly control?: string;
  /** The key of the control socket, where it has one; `PASSFD_AUTHKEY` if it is not given. */
  readonly authkey?: AuthKey;
  /**
   * Users whose dispatcher is trusted, beside root, the user of this process as it is now, and those in
   * `PASSFD_TRUST_UIDS`.
   */
  readonly trustUids?: readonly number[];
  /** Connections that may be on their way here at most. */
  readonly window?: number;
  /** Connections that this worker wants to have open at most. */
  readonly capacity?: number | null;
  /** Time that the dispatcher has to welcome this worker. */
  readonly handshakeTimeoutMs?: number;
  /**
   * Time in which another dispatcher has to come to the same path when this one is gone. Until then the worker keeps its
   * listening sockets open, so that clients wait and are not refused; then it drains.
   */
  readonly orphanTimeoutMs?: number;
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
 * @throws {PassfdError} as `connect` and `Client` when nobody is there or the keys differ; `ERR_PEER_DENIED` when the
 * dispatcher is of a user that is not trusted, `ERR_DISPATCHER` with its reason, `ERR_HANDSHAKE_TIMEOUT`
 */
export async function join(options: JoinOptions = {}): Promise<Worker> {
  const {
    window = DEFAULT_WINDOW,
    capacity = null,
    handshakeTimeoutMs = DEFAULT_HANDSHAKE_TIMEOUT_MS,
  } = options;
  const timeoutMs = options.orphanTimeoutMs ?? orphanTimeoutInEnvironment() ?? DEFAULT_ORPHAN_TIMEOUT_MS;
  if (!Number.isInteger(window) || window < 1 || window > MAX_WINDOW) {
    throw new TypeError(`window is an integer from 1 to ${MAX_WINDOW}, not ${String(window)}`);
  }
  checkCapacity(capacity);
  checkDuration('handshakeTimeoutMs', handshakeTimeoutMs);
  checkDuration('orphanTimeoutMs', timeoutMs);
  let inherited = options.control === undefined ? takeInheritedChannel() : undefined;
  const path = controlPath(options, inherited !== undefined);
  const service = inherited && process.env['PASSFD_SERVICE'];
  // What this process starts is not started by the supervisor.
  delete process.env['PASSFD_SERVICE'];
  // The user may be another one when it is tried again.
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
  throw new TypeError(`${name} is a number from 0 to ${MAX_TIMER_MS}, not ${String(durationMs)}`);
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

/**
 * Where a dispatcher can be reached, now or when this one is gone.
 * @returns undefined for a child whose parent has no control socket
 */
function controlPath({ control }: JoinOptions, isChild: boolean): string | undefined {
  const path = control ?? process.env['PASSFD_CONTROL'];
  return path ?? (isChild ? undefined : defaultControlPath());
}

/** What the supervisor tells its children; nobody else sets it. */
function orphanTimeoutInEnvironment(): number | undefined {
  const text = process.env['PASSFD_ORPHAN_TIMEOUT'];
  return text === undefined || !/^\d+$/.test(text) ? undefined : Number(text);
}

/** What is in the environment is read once: the key may be taken out of it. */
function connector(
  control: string,
  options: JoinOptions,
  trusted: TrustedUsers,
): () => Promise<StreamSocket> {
  const { authkey = process.env['PASSFD_AUTHKEY'], signal } = options;
  // Only at first: later the worker tries again by itself, as long as anybody needs it.
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

/** A process that became another user may not connect any more, and is called instead. */
function waitsToBeCalled(error: unknown): never {
  if (!(error instanceof PassfdError) || error.code !== 'ERR_ADDRESS_DENIED') throw error;
  throw new PassfdError('ERR_ADDRESS_MISSING', `No dispatcher has called yet: ${error.message}`, {
    cause: error,
  });
}

/** Resolves when something happens to a file: a dispatcher makes its socket there. Never rejects. */
function untilPathChanges(path: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    try {
      const watcher = watch(dirname(path), { persistent: false, signal });
      watcher.on('change', (_type, name) => {
        if (name === basename(path)) resolve();
      });
      // Where files cannot be watched, the pauses alone have to do.
      watcher.on('error', () => undefined);
    } catch {
      // So too where the directory is gone.
    }
  });
}
