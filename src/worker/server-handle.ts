// ServerHandle: takes the place of the listening socket in a net.Server, and gives the server the adopted connections.
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

/** The arguments of Node's own listen. `address()` and errors show them. */
export interface ListenArguments {
  readonly address: string | null;
  readonly port: number | null;
  readonly addressType: number | null;
  readonly backlog: number | undefined;
  readonly fd: number | undefined;
  readonly flags: number | undefined;
}

export interface ServerHandleEvents {
  /** The server was closed. Resolves when new clients are not accepted for it any more. Never rejects. */
  closed(): Promise<void>;
  /** Whether the server keeps the process alive. */
  referenced(on: boolean): void;
}

/** Before version 21, Node took a `maxConnections` of 0 as no limit (net, server.maxConnections). */
const isZeroNoLimit = Number.parseInt(process.versions.node) < 21;

export class ServerHandle implements Target {
  /** An app may raise `maxConnections` at any time. */
  readonly reportsRoom = false;
  readonly #server: Server;
  readonly #address: Address;
  readonly #scope: AsyncResource;
  readonly #handle: ListeningHandle;
  #isClosed = false;

  /**
   * @param address the address of the listener, which `server.address()` returns
   * @param scope made in the app's call of `listen`. Its async context, for example an `AsyncLocalStorage`, is there for
   * each connection too, as when Node accepts by itself
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

  /** Has Node's own code listen with this handle. From now on the server behaves as if it had a listening socket. */
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

  /** What `maxConnections` leaves, by the same comparison as in Node's own `onconnection`. */
  get #free(): number {
    const { maxConnections } = this.#server as { maxConnections?: number | null };
    if (maxConnections === undefined || maxConnections === null) return Number.POSITIVE_INFINITY;
    if (maxConnections === 0 && isZeroNoLimit) return Number.POSITIVE_INFINITY;
    return Math.max(0, maxConnections - privateServer(this.#server)._connections);
  }

  /** Expected connections count as open. So a server that is closed meanwhile waits for them before it emits 'close'. */
  expect(change: number): void {
    privateServer(this.#server)._connections += change;
    this.#noteLess(change);
  }

  /** Delivers also when the server was closed meanwhile: an adopted connection has no other owner. */
  deliver(descriptor: Descriptor, onClosed: OnClosing): void {
    const server = privateServer(this.#server);
    let connection;
    try {
      // Outside of the scope, as in Node: the context of one client must not reach the next one.
      connection = openConnection(descriptor, 'path' in this.#address ? 'unix' : 'tcp', onClosed);
    } catch (error) {
      // As when accept(2) fails: the connection is lost, and the server goes on.
      descriptor.close();
      onClosed(undefined);
      this.expect(-1);
      process.emitWarning(
        `A connection could not be opened, and was closed: ${(error as Error).message}`,
        'PassfdWarning',
      );
      return;
    }
    server._connections--;
    const isDropped = this.#free === 0;
    try {
      this.#scope.runInAsyncScope(() => this.#handle.onconnection?.(0, connection));
    } finally {
      // A connection that is not dropped is counted again by now. Node looks when it closes.
      if (isDropped) this.#noteLess(-1);
    }
  }

  /**
   * Delays the server's 'close' until the address is free, as with a socket of its own. Node checks whether to emit it at
   * each call of `close`, and when a connection closes. The server may listen again by the time of the event.
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
        // The method of the prototype is in force again, unless the server was closed once more meanwhile.
        if (server._emitCloseIfDrained === hold) Reflect.deleteProperty(server, '_emitCloseIfDrained');
        for (; events > 0; events--) process.nextTick(() => this.#server.emit('close'));
      })
      .catch((error: unknown) => {
        process.emitWarning(String(error), 'PassfdWarning');
      });
  }

  /** Node checks whether a closed server is done when a connection closes. Here an expected one may not come. */
  #noteLess(change: number): void {
    if (change < 0 && this.#isClosed) privateServer(this.#server)._emitCloseIfDrained();
  }
}

/** Has Node emit the error of a failed listen, as if Node itself had tried. */
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
  // Without a host, Node tries `::` first, and names that in the error.
  const address = listen.address ?? (fd === undefined ? '::' : null);
  target._listen2(address, port, addressType, backlog, fd, flags);
}
