// Closes a server so that its clients end by themselves, and none of them is cut off in a request or at the start of one.
import { Server } from 'node:net';

import { Http2Closing } from './http2-closing.js';
import { HttpClosing } from './http-closing.js';
import { privateServer } from './node-handles.js';

interface Prepared {
  readonly http: HttpClosing;
  readonly http2: Http2Closing;
  isClosing: boolean;
}

/** A server's own `close`, which an app, or a library that it uses, may have replaced. */
interface Closable {
  close(callback?: (error?: Error) => void): unknown;
}

const preparedServers = new WeakMap<Server, Prepared>();

/** To be called before the server gets connections. A second call does nothing. */
export function prepareClosing(server: Server): void {
  if (preparedServers.has(server)) return;
  preparedServers.set(server, {
    http: new HttpClosing(server),
    http2: new Http2Closing(server),
    isClosing: false,
  });
}

/**
 * Takes nothing new, and finishes what is open. HTTP/1 connections end behind an answer that says so, or when they were
 * idle for as long as their client was promised; HTTP/2 sessions behind the requests that they have. All others end when
 * the app or the client ends them. A second call does nothing.
 */
export function closeGracefully(server: Server): void {
  if (!finishConnections(server) || !server.listening) return;
  // That of HTTP servers closes idle connections at once, and its clients may be sending.
  Server.prototype.close.call(server);
  leaveCloseToApp(server);
}

/**
 * Ends the connections that it has, and those that it still gets, as `closeGracefully` does. It goes on listening.
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

/** The app has not closed it, so its own call is the first one, and succeeds: also when nothing is open any more. */
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

/** Node emits 'close' at each call that finds nothing open. Here it comes once, when the last connection is closed. */
function withOneCloseEvent(server: Server, call: () => unknown): unknown {
  const closing = privateServer(server);
  const original = Object.getOwnPropertyDescriptor(server, '_emitCloseIfDrained');
  const isOpen = closing._connections > 0;
  closing._emitCloseIfDrained = () => undefined;
  try {
    return call();
  } finally {
    restore(server, '_emitCloseIfDrained', original);
    // The call may have closed the last one.
    if (isOpen) closing._emitCloseIfDrained();
  }
}

function restore(server: Server, name: string, original: PropertyDescriptor | undefined): void {
  if (original) Object.defineProperty(server, name, original);
  else Reflect.deleteProperty(server, name);
}
