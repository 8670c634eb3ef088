// ServerHandle: stands for the listening socket in a net.Server, and brings it the connections that were handed off.
import type { AsyncResource } from 'node:async_hooks';
import type { Server } from 'node:net';
import { constants } from 'node:os';

import type { Address, Descriptor } from '../fd/index.js';
import {
  createListeningHandle,
  openConnection,
  privateServer,
  type ListeningHandle,
  type OnClosing,
} from './node-handles.js';
import type { Target } from './target.js';

/** The arguments of Node's own listen, which `address()` and errors are made of. */
export interface ListenArguments {
  readonly address: string | null;
  readonly port: number | null;
  readonly addressType: number | null;
  readonly backlog: number | undefined;
  readonly fd: number | undefined;
  readonly flags: number | undefined;
}

export interface ServerHandleEvents {
  /** The server was closed. Resolves when clients that come from then on are not let in any more; never rejects. */
  closed(): Promise<void>;
  /** Whether the server keeps the process alive. */
  referenced(on: boolean): void;
}

/** Node took a `maxConnections` of 0 as none until version 21 (net, server.maxConnections). */
const isZeroNoLimit = Number.parseInt(process.versions.node) < 21;

export class ServerHandle implements Target {
  readonly #server: Server;
  readonly #address: Address;
  readonly #scope: AsyncResource;
  readonly #handle: ListeningHandle;
  #isClosed = false;

  /**
   * @param address where the connections come to: what `server.address()` tells
   * @param scope made where the app called `listen`: what runs there then, an `AsyncLocalStorage` for one, is there for
   * each connection too, as it is where Node accepts by itself
   */
  constructor(server: Server, address: Address, scope: AsyncResource, events: ServerHandleEvents) {
    this.#server = server;
    this.#address = address;
    this.#scope = scope;
    this.#handle = createListeningHandle('path' in address ? 'unix' : 'tcp', {
      listen: () => 0,
      close: () => {
        if (this.#isClosed) return;
        this.#isClosed = true;
        this.#closeWhen(events.closed());
      },
      ref: () => {
        events.referenced(true);
      },
      unref: () => {
        events.referenced(false);
      },
      getsockname:
        'host' in address
          ? (out) => {
              out.address = address.host;
              out.family = address.host.includes(':') ? 'IPv6' : 'IPv4';
              out.port = address.port;
              return 0;
            }
          : undefined,
    });
  }

  /** Has Node's own code listen with it: from here on the server behaves as if it had a listening socket. */
  attach({ address, port, addressType, backlog, fd, flags }: ListenArguments): void {
    const server = privateServer(this.#server);
    server._handle = this.#handle;
    if ('path' in this.#address) server._pipeName = this.#address.path;
    this.#scope.runInAsyncScope(() => {
      server._listen2(address, port, addressType, backlog, fd, flags);
    });
  }

  get room(): number {
    return this.#isClosed ? 0 : this.#free;
  }

  /** As many as `maxConnections` leaves, by the comparison of Node's own `onconnection`. */
  get #free(): number {
    const { maxConnections } = this.#server as { maxConnections?: number | null };
    if (maxConnections === undefined || maxConnections === null) return Number.POSITIVE_INFINITY;
    if (maxConnections === 0 && isZeroNoLimit) return Number.POSITIVE_INFINITY;
    return Math.max(0, maxConnections - privateServer(this.#server)._connections);
  }

  /** They count as open ones: so a server that is closed meanwhile waits for them too before it emits 'close'. */
  expect(change: number): void {
    privateServer(this.#server)._connections += change;
    this.#noteLess(change);
  }

  /** Also when the server was closed meanwhile: what is adopted has no other owner, and is served like any open one. */
  deliver(descriptor: Descriptor, onClosed: OnClosing): void {
    const server = privateServer(this.#server);
    let connection;
    try {
      // Outside of the scope, as in Node: what the app has put there for one client is none of the next one's.
      connection = openConnection(descriptor, 'path' in this.#address ? 'unix' : 'tcp', onClosed);
    } catch (error) {
      // As where accept(2) fails: the connection is lost, and the server goes on.
      descriptor.close();
      onClosed(undefined);
      this.expect(-1);
      process.emitWarning(`A connection could not be opened: ${(error as Error).message}`, 'PassfdWarning');
      return;
    }
    server._connections--;
    const isDropped = this.#free === 0;
    try {
      this.#scope.runInAsyncScope(() => this.#handle.onconnection?.(0, connection));
    } finally {
      // One that is not dropped is counted again by now, and when that closes, Node looks by itself.
      if (isDropped) this.#noteLess(-1);
    }
  }

  /**
   * The server's 'close' comes when the address is free, as it does where the server has the socket itself. Node looks
   * for it at each call of `close`, and when a connection closes; it may listen again by the time of the event.
   */
  #closeWhen(closed: Promise<void>): void {
    const server = privateServer(this.#server);
    let events = 0;
    const hold = (): void => {
      if (!server._handle && server._connections === 0) events++;
    };
    server._emitCloseIfDrained = hold;
    closed
      .then(() => {
        // What stands there is the prototype's again, unless the server was closed once more meanwhile.
        if (server._emitCloseIfDrained === hold) Reflect.deleteProperty(server, '_emitCloseIfDrained');
        for (; events > 0; events--) process.nextTick(() => this.#server.emit('close'));
      })
      .catch((error: unknown) => {
        process.emitWarning(String(error), 'PassfdWarning');
      });
  }

  /** Node looks whether a closed server is done when a connection closes; here one less may be expected. */
  #noteLess(change: number): void {
    if (change < 0 && this.#isClosed) privateServer(this.#server)._emitCloseIfDrained();
  }
}

/** Has Node emit the error of a listen that failed, as if it had tried by itself. */
export function failListen(server: Server, listen: ListenArguments, code: string): void {
  const errno: Readonly<Record<string, number>> = constants.errno;
  const status = -(errno[code] ?? constants.errno.EINVAL);
  const target = privateServer(server);
  target._handle = {
    listen: () => status,
    close: () => undefined,
    ref: () => undefined,
    unref: () => undefined,
  };
  const { port, addressType, backlog, fd, flags } = listen;
  // Node tries the address of every interface first, and names that in the error.
  const address = listen.address ?? (fd === undefined ? '::' : null);
  target._listen2(address, port, addressType, backlog, fd, flags);
}
