// The way back for a worker whose user has changed: an abstract socket that it opened before, and where a dispatcher calls it.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';

import { connect, listen, PassfdError, StreamSocket, type Acceptor, type Descriptor } from '../fd/index.js';
import type { TrustedUsers } from './trust.js';

/** Most calls that are accepted in one turn of the event loop. */
const CALLS_AT_ONCE = 16;

/** As /proc/net/unix prints an abstract name. */
const NAMES = /@(passfd-worker-(\d+)-\S+)$/gm;

/**
 * The worker's end. An abstract socket has no file, so the user of its process does not matter. The kernel keeps who
 * opened the socket (SO_PEERCRED, unix(7)). That proves to the caller which process it is.
 */
export class WayBack {
  readonly #acceptor: Acceptor;
  readonly #trusted: TrustedUsers;
  /** The last call, until it is taken. */
  #call: StreamSocket | undefined;
  #wake: (() => void) | undefined;

  private constructor(acceptor: Acceptor, trusted: TrustedUsers) {
    this.#acceptor = acceptor;
    this.#trusted = trusted;
    // An abstract socket has no mode: any user may connect.
    acceptor.distrustPeers(() => undefined);
    acceptor.unref().feed({
      room: () => CALLS_AT_ONCE,
      take: (descriptors) => {
        for (const descriptor of descriptors) this.#onCall(descriptor);
      },
      // The acceptor tries again, and so does the dispatcher.
      failed: () => undefined,
    });
  }

  /**
   * @param trusted the users whose dispatcher may call
   * @returns undefined when the system has no abstract sockets, or gives none. The worker still has the control socket
   */
  static async open(trusted: TrustedUsers): Promise<WayBack | undefined> {
    if (process.platform !== 'linux') return undefined;
    try {
      // The name is random, so no other process can take it first.
      const name = `passfd-worker-${process.pid}-${randomBytes(16).toString('hex')}`;
      return new WayBack(await listen(`\0${name}`), trusted);
    } catch (error) {
      if (error instanceof PassfdError) return undefined;
      throw error;
    }
  }

  /** The connection from a dispatcher; undefined when none has called. The caller owns it. */
  take(): StreamSocket | undefined {
    const call = this.#call;
    this.#call = undefined;
    return call;
  }

  /** Resolves when a dispatcher has called; if none does, never. */
  untilCalled(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#call) resolve();
      else this.#wake = resolve;
    });
  }

  /** A second call does nothing. */
  close(): void {
    this.take()?.destroy();
    if (!this.#acceptor.closed) this.#acceptor.release().close();
  }

  #onCall(descriptor: Descriptor): void {
    const socket = new StreamSocket(descriptor);
    if (!this.#trusted.has(socket.peer.uid)) {
      socket.discard();
      return;
    }
    socket.trust();
    this.take()?.destroy();
    this.#call = socket;
    this.#wake?.();
  }
}

/**
 * Connects to the way back of a worker. The socket distrusts its peer.
 * @returns undefined when the worker has no way back
 * @throws {PassfdError} as `connect`
 */
export async function callWorker(pid: number, signal: AbortSignal): Promise<StreamSocket | undefined> {
  for (const name of waysBackOf(pid)) {
    let socket: StreamSocket;
    try {
      socket = await connect(`\0${name}`, { signal });
    } catch (error) {
      if (error instanceof PassfdError && error.code === 'ERR_CONNECTION_REFUSED') continue;
      throw error;
    }
    // Any process may listen at such a name. But the kernel reports the process id of the one that does.
    socket.distrust(socket.peer.uid);
    if (socket.peer.pid === pid) return socket;
    socket.discard();
  }
  return undefined;
}

/** Whether a process now has another user than this one, so that the control socket may refuse it. */
export function hasOtherUser(pid: number): boolean {
  try {
    const [, effective] = /^Uid:\t\d+\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? [];
    return effective !== undefined && Number(effective) !== process.geteuid?.();
  } catch {
    return false;
  }
}

function waysBackOf(pid: number): string[] {
  const names = Array.from(readFileSync('/proc/net/unix', 'latin1').matchAll(NAMES));
  return names.flatMap(([, name = '', of]) => (Number(of) === pid ? [name] : []));
}
