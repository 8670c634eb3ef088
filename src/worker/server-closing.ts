// Closes a server gracefully: no client is cut off in a request, or while it begins to send one.
import { Server } from 'node:net';

import { Http2Closing } from './http2-closing.js';
import { HttpClosing } from './http-closing.js';
import { privateServer } from './node-handles.js';

interface Prepared {
  readonly http: HttpClosing;
  readonly http2: Http2Closing;
  isClosing: boolean;
}

/** The server's `close`, which the app or one of its libraries may have replaced. */
interface Closable {
  close(callback?: (error?: Error) => void): unknown;
}

const preparedServers = new WeakMap<Server, Prepared>();

/** Call this before the server gets connections. A second call does nothing. */
export function prepareClosing(server: Server): void {
  if (preparedServers.has(server)) return;
  preparedServers.set(server, {
    http: new HttpClosing(server),
    http2: new Http2Closing(server),
    isClosing: false,
  });
}

/**
 * Takes nothing new, and finishes what is open. An HTTP/1 connection ends after an answer that announces it, or at its
 * keep-alive timeout. An HTTP/2 session ends after its open requests. Any other connection ends when the app or the client
 * closes it. A second call does nothing.
 */
export function closeGracefully(server: Server): void {
  if (!finishConnections(server) || !server.listening) return;
  // The `close` of HTTP servers closes idle connections at once, while their clients may be sending.
  Server.prototype.close.call(server);
  leaveCloseToApp(server);
}

/**
 * Finishes connections as `closeGracefully` does, also those that still come. The server goes on listening.
 * @returns whether this was the first call
 */
export function finishConnections(server: Server): boolean {
  const prepared = preparedServers.get(server);
  if (!prepared || prepared.isClosing) return false;
  prepared.isClosing = true;
  prepared.http.drain();
  prepared.http2.drain();
  return true;
}

/** The app has not closed the server. So its own `close` must succeed as a first call does, even when nothing is open. */
function leaveCloseToApp(server: Closable & Server): void {
  const original = Object.getOwnPropertyDescriptor(server, 'close');
  let isOver = false;
  server.once('close', () => {
    isOver = true;
  });
  const close = (callback?: unknown): unknown => {
    restore(server, 'close', original);
    if (typeof callback === 'function') {
      const call = (): void => {
        Reflect.apply(callback, server, []);
      };
      if (isOver) process.nextTick(call);
      else server.once('close', call);
    }
    return withOneCloseEvent(server, () => server.close());
  };
  Object.defineProperty(server, 'close', { value: close, configurable: true, writable: true });
}

/** Node emits 'close' at each call that finds nothing open. Here it is emitted once, when the last connection is closed. */
function withOneCloseEvent(server: Server, call: () => unknown): unknown {
  const closing = privateServer(server);
  const original = Object.getOwnPropertyDescriptor(server, '_emitCloseIfDrained');
  const isOpen = closing._connections > 0;
  closing._emitCloseIfDrained = () => undefined;
  try {
    return call();
  } finally {
    restore(server, '_emitCloseIfDrained', original);
    // The call may have closed the last connection.
    if (isOpen) closing._emitCloseIfDrained();
  }
}

function restore(server: Server, name: string, original: PropertyDescriptor | undefined): void {
  if (original) Object.defineProperty(server, name, original);
  else Reflect.deleteProperty(server, name);
}
