// The way back of a worker whose user has changed: an abstract socket that it opened before, and where it is called.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';

import { connect, listen, PassfdError, StreamSocket, type Acceptor, type Descriptor } from '../fd/index.js';
import type { TrustedUsers } from './trust.js';

/** Calls that are taken at a time, before anything else has its turn. */
const CALLS_AT_ONCE = 16;

/** As /proc/net/unix prints an abstract name. */
const NAMES = /@(passfd-worker-(\d+)-\S+)$/gm;

/**
 * The worker's end. An abstract socket has no file, so it is reached whatever the user of its process has become. The
 * kernel keeps who has opened it (SO_PEERCRED, unix(7)): that proves the worker to its caller.
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
    // An abstract socket has no mode: anybody may connect.
    acceptor.distrustPeers(() => undefined);
    acceptor.unref().feed({
      room: () => CALLS_AT_ONCE,
      take: (descriptors) => {
        for (const descriptor of descriptors) this.#onCall(descriptor);
      },
      // It is tried again, and another call comes.
      failed: () => undefined,
    });
  }

  /**
   * @param trusted whose dispatcher may call
   * @returns undefined where there are no abstract sockets, or none can be had: the control socket is left
   */
  static async open(trusted: TrustedUsers): Promise<WayBack | undefined> {
    if (process.platform !== 'linux') return undefined;
    try {
      // Nobody can have it before.
      const name = `passfd-worker-${process.pid}-${randomBytes(16).toString('hex')}`;
      return new WayBack(await listen(`\0${name}`), trusted);
    } catch (error) {
      if (error instanceof PassfdError) return undefined;
      throw error;
    }
  }

  /** The connection of a dispatcher that has called. The caller owns it. */
  take(): StreamSocket | undefined {
    const call = this.#call;
    this.#call = undefined;
    return call;
  }

  /** Resolves when a dispatcher has called, and never otherwise. */
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
 * Calls a worker by its way back. The socket is one of a peer without trust.
 * @returns undefined when it has none
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
    // Anybody may listen at such a name; only that process can have opened a socket as that process.
    socket.distrust(socket.peer.uid);
    if (socket.peer.pid === pid) return socket;
    socket.discard();
  }
  return undefined;
}

/** Whether a process has another user than this one by now: the control socket may not let it in any more. */
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
