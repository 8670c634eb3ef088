// What Node keeps to itself about connections: the handle under a net.Socket, made from a descriptor.
// The one file of this part that knows private things of Node.
import { Socket, type NetConnectOpts, type Server } from 'node:net';

import type { Descriptor } from '../fd/index.js';

/** The handle of one connection, as `net.Server` gets it from libuv. */
export interface ConnectionHandle {
  close(callback?: () => void): void;
}

/** What `net.Server` needs of the handle that it listens with, and what it puts on it (`setupListenHandle` in lib/net.js). */
export interface ListeningHandle {
  listen(backlog: number): number;
  close(callback?: () => void): void;
  ref(): void;
  unref(): void;
  /** Not of a Unix socket: its path is kept by the server. */
  getsockname?: ((out: { address?: string; port?: number; family?: string }) => number) | undefined;
  /** Set by the server: takes one connection. */
  onconnection?(status: number, connection: ConnectionHandle): void;
}

/** The fields of a `net.Server` that Node keeps for its own modules, cluster among them. */
export interface PrivateServer {
  _handle: ListeningHandle | null;
  /** Where it listens, of a Unix socket. */
  _pipeName?: string;
  _connections: number;
  _emitCloseIfDrained(): void;
  /** Counts calls of `listen` and `close`: an answer that comes after one of them is out of date. */
  readonly _listeningId?: number;
  /**
   * What `listen` calls in the end. With a handle in place, it listens with that; "still named like this to avoid
   * breaking code that wraps this method" (lib/net.js).
   */
  _listen2(
    address: string | null,
    port: number | null,
    addressType: number | null,
    backlog: number | false | undefined,
    fd: number | undefined,
    flags: number | undefined,
  ): void;
}

export function privateServer(server: Server): PrivateServer {
  return server as unknown as PrivateServer;
}

interface StreamHandle extends ConnectionHandle {
  open(fd: number): number;
  /** Of TCP alone: closes with a reset, for `socket.resetAndDestroy()`. */
  reset(callback?: () => void): number;
}

type StreamHandleClass = new (type: number) => StreamHandle;

/** `TCPConstants.SOCKET` and `PipeConstants.SOCKET`. */
const SOCKET = 0;
/** `TCPConstants.SERVER` and `PipeConstants.SERVER`. */
const SERVER = 1;

interface ReportingHandle extends StreamHandle {
  onClosing: (() => void) | undefined;
}

type ReportingHandleClass = new (type: number) => ReportingHandle;

/** By the family of the connection: `TCP` and `Pipe`, which Node does not export. */
const classes = new Map<'tcp' | 'unix', ReportingHandleClass>();

type ListeningHandleClass = new (type: number) => ListeningHandle;

/** Found before there is an app, or what it traces its connections with, that replaces parts of `net.Socket`. */
const listeningClasses: Readonly<Record<'tcp' | 'unix', ListeningHandleClass>> = {
  // A socket has its handle as soon as it is to connect, before it knows where to,
  tcp: findListeningClass({ host: 'nowhere', port: 1, lookup: () => undefined }),
  // or whether it can: this is no directory.
  unix: findListeningClass({ path: '/dev/null/nowhere' }),
};

/**
 * Makes the handle of a server that has no socket of its own. It is one of Node's, with nothing open: whatever takes it
 * for a real one, as `child.send('server', server)` does, gets an error (EBADF), where with an object that is not Node's
 * the process would crash.
 * @param own what it does, whatever a real one would do
 */
export function createListeningHandle(family: 'tcp' | 'unix', own: ListeningHandle): ListeningHandle {
  const handle = new listeningClasses[family](SERVER);
  const base = {
    close: handle.close.bind(handle),
    ref: handle.ref.bind(handle),
    unref: handle.unref.bind(handle),
  };
  return Object.assign(handle, own, {
    close: (callback?: () => void) => {
      own.close();
      base.close(callback);
    },
    ref: () => {
      own.ref();
      base.ref();
    },
    unref: () => {
      own.unref();
      base.unref();
    },
  });
}

function findListeningClass(nowhere: NetConnectOpts): ListeningHandleClass {
  const sample = new Socket().on('error', () => undefined).connect(nowhere);
  const { _handle: handle } = sample as unknown as { _handle?: { constructor: unknown } };
  sample.destroy();
  if (typeof handle?.constructor !== 'function') {
    throw new TypeError(`Node ${process.version} has no handle for a socket where passfd knows one`);
  }
  return handle.constructor as ListeningHandleClass;
}

/**
 * Makes the handle of a connection, as the kernel's accept would have given it to Node.
 * @param onClosing called once, when whoever has the connection closes it
 * @returns the handle, which owns the descriptor's number from here on
 * @throws an error with the code of a system error; then the descriptor still has its owner
 */
export function openConnection(
  descriptor: Descriptor,
  family: 'tcp' | 'unix',
  onClosing: () => void,
): ConnectionHandle {
  let Handle = classes.get(family);
  if (!Handle) {
    Handle = findHandleClass(descriptor, family);
    classes.set(family, Handle);
  }
  const handle = new Handle(SOCKET);
  const status = handle.open(descriptor.fd);
  if (status < 0) {
    throw Object.assign(new Error(`A ${family} connection could not be opened`), { errno: status });
  }
  descriptor.release();
  handle.onClosing = onClosing;
  return handle;
}

/** Node makes the right handle for a descriptor of each family; a duplicate serves to see which one that is. */
function findHandleClass(descriptor: Descriptor, family: string): ReportingHandleClass {
  // With `manualStart` nothing is read from it, and with `allowHalfOpen` nothing is shut down.
  const options = { fd: descriptor.duplicate().release(), manualStart: true, allowHalfOpen: true };
  const sample = new Socket(options);
  sample.on('error', () => undefined);
  const handle = (sample as unknown as { _handle?: object | null })._handle;
  const found: unknown = handle?.constructor;
  sample.destroy();
  if (!handle || typeof found !== 'function') {
    throw new TypeError(
      `Node ${process.version} has no handle for a ${family} connection where passfd knows one`,
    );
  }
  const Base = found as StreamHandleClass;
  class ReportingStreamHandle extends Base {
    onClosing: (() => void) | undefined = undefined;

    override close(callback?: () => void): void {
      super.close(callback);
      tellClosing(this);
    }

    override reset(callback?: () => void): number {
      const status = super.reset(callback);
      tellClosing(this);
      return status;
    }
  }
  // A socket that is transferred to another thread is closed in this one by Node itself, without a call of `close`; this
  // is what it calls then, where `close` has not put the callback of its caller (HandleWrap::OnClose).
  const onClosed = Object.getOwnPropertySymbols(handle).find(
    ({ description }) => description === 'handle_onclose',
  );
  if (onClosed) {
    Object.defineProperty(ReportingStreamHandle.prototype, onClosed, {
      value(this: ReportingHandle): void {
        tellClosing(this);
      },
      // Else `close` could not put its own in front of it.
      writable: true,
    });
  }
  // What looks into a socket finds the name that it knows.
  return Object.defineProperty(ReportingStreamHandle, 'name', { value: Base.name });
}

/** Not a private method, since each connection would pay for that. */
function tellClosing(handle: ReportingHandle): void {
  const { onClosing } = handle;
  handle.onClosing = undefined;
  onClosing?.();
}
