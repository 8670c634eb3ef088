// Node's private handles under net.Socket and net.Server: how to make them and how to watch them. Every private field of Node
// that this part uses is declared here.
// Checked with Node 20.19, 22, 24 and 26. Each comment names the place in Node's source that it relies on.
import { subscribe } from 'node:diagnostics_channel';
import { Socket, type NetConnectOpts, type Server } from 'node:net';

import type { Descriptor } from '../fd/index.js';
import type { SocketIdentity } from '../fd/internal.js';
import { identify } from './passed-on.js';

/** The handle of one connection, as `net.Server` gets it from the event loop. */
export interface ConnectionHandle {
  close(callback?: () => void): void;
}

/** What `net.Server` needs of its listening handle, and what it sets there (`setupListenHandle` in lib/net.js). */
export interface ListeningHandle {
  listen(backlog: number): number;
  close(callback?: () => void): void;
  ref(): void;
  unref(): void;
  /** Undefined for a Unix socket: the server keeps the path. */
  getsockname?: ((out: { address?: string; port?: number; family?: string }) => number) | undefined;
  /** Set by the server. It takes one connection. */
  onconnection?: (this: ListeningHandle, status: number, connection: ConnectionHandle) => void;
}

/** The private fields of a `net.Server`, which other modules of Node use too, for example cluster. */
export interface PrivateServer {
  _handle: ListeningHandle | null;
  /** The path of a Unix socket that it listens at. */
  _pipeName?: string;
  _connections: number;
  _emitCloseIfDrained(): void;
  /** Counts calls of `listen` and `close`. An answer that comes after a further call is out of date. */
  readonly _listeningId?: number;
  /**
   * The last step of `listen`. When `_handle` is set, it listens with that. It is "still named like this to avoid
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
  readonly fd: number;
  /** Set by passfd when it has passed the connection on. */
  readonly isPassedOn?: boolean;
  open(fd: number): number;
  /** Only TCP has it: closes with a reset, for `socket.resetAndDestroy()`. */
  reset(callback?: () => void): number;
}

type StreamHandleClass = new (type: number) => StreamHandle;

/** `TCPConstants.SOCKET` and `PipeConstants.SOCKET`. */
const SOCKET = 0;
/** `TCPConstants.SERVER` and `PipeConstants.SERVER`. */
const SERVER = 1;

/**
 * Called when a connection is closed in this process.
 * @param passedOn its identity, when another process may have it open
 */
export type OnClosing = (passedOn: SocketIdentity | undefined) => void;

interface ReportingHandle extends Omit<StreamHandle, 'reset'>, Partial<Pick<StreamHandle, 'reset'>> {
  onClosing: OnClosing | undefined;
}

type ReportingHandleClass = new (type: number) => ReportingHandle;

/** Subclasses of Node's `TCP` and `Pipe`, which it does not export, by the family of the connection. */
const classes = new Map<'tcp' | 'unix', ReportingHandleClass>();

type ListeningHandleClass = new (type: number) => ListeningHandle;

/** The key under which a handle has its `net.Socket` (`initSocketHandle` in lib/net.js). */
let ownerSymbol: symbol | undefined;
/** The key that marks a `net.Socket` which a child process has as a standard stream. */
let stdioSymbol: symbol | undefined;
let hasStartedProcess = false;
subscribe('child_process', () => {
  hasStartedProcess = true;
});

/** Handles of servers that have no socket of their own. */
const standIns = new WeakSet<object>();

/** Found before the app loads: the app, or its tracing, may replace parts of `net.Socket`. */
const listeningClasses: Readonly<Record<'tcp' | 'unix', ListeningHandleClass>> = {
  // A socket has its handle as soon as `connect` is called, before the host is looked up,
  tcp: findListeningClass({ host: 'nowhere', port: 1, lookup: () => undefined }),
  // and also when it cannot connect: /dev/null is no directory.
  unix: findListeningClass({ path: '/dev/null/nowhere' }),
};

/**
 * Makes the handle of a server that has no socket of its own. It is a handle of Node with nothing open. So code that takes
 * it for a real one, as `child.send('server', server)` does, gets an error (EBADF). A plain object would crash the process.
 * @param own the methods in place of Node's
 */
export function createListeningHandle(family: 'tcp' | 'unix', own: ListeningHandle): ListeningHandle {
  const handle = new listeningClasses[family](SERVER);
  standIns.add(handle);
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
  ownerSymbol ??= handle && symbolOf(handle, 'owner_symbol');
  sample.destroy();
  if (typeof handle?.constructor !== 'function') {
    throw new TypeError(
      `passfd cannot find the handle of a socket in Node ${process.version}; use a version that passfd supports`,
    );
  }
  return handle.constructor as ListeningHandleClass;
}

/**
 * Makes the handle of a connection, as Node itself makes it after accept.
 * @param onClosing called once, when the connection is closed in this process
 * @returns the handle, which owns the descriptor from now on
 * @throws an error with the `errno` of a system error; then the caller still owns the descriptor
 */
export function openConnection(
  descriptor: Descriptor,
  family: 'tcp' | 'unix',
  onClosing: OnClosing,
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

/** Makes a paused socket of a connection. @throws as `openConnection`, and a `TypeError` when it is no connection */
export function openSocket(descriptor: Descriptor, onClosing: OnClosing): Socket {
  const family = descriptor.describe().family === 'unix' ? 'unix' : 'tcp';
  const handle = openConnection(descriptor, family, onClosing);
  const options = { handle, pauseOnCreate: true, readable: true, writable: true };
  return new Socket(options);
}

/** Finds the class of the handle that Node makes for a descriptor of this family, by a duplicate. */
function findHandleClass(descriptor: Descriptor, family: string): ReportingHandleClass {
  // `manualStart` prevents reading, and `allowHalfOpen` prevents a shutdown of the connection.
  const options = { fd: descriptor.duplicate().release(), manualStart: true, allowHalfOpen: true };
  const sample = new Socket(options);
  sample.on('error', () => undefined);
  const handle = (sample as unknown as { _handle?: object | null })._handle;
  const found: unknown = handle?.constructor;
  sample.destroy();
  if (!handle || typeof found !== 'function') {
    throw new TypeError(
      `passfd cannot find the handle of a ${family} connection in Node ${process.version}; use a version that passfd supports`,
    );
  }
  const Base = found as StreamHandleClass;
  class ReportingStreamHandle extends Base {
    onClosing: OnClosing | undefined = undefined;

    override close(callback?: () => void): void {
      const passedOn = identityOfPassedOn(this);
      super.close(callback);
      reportClosed(this, passedOn);
    }

    override reset(callback?: () => void): number {
      const passedOn = identityOfPassedOn(this);
      const status = super.reset(callback);
      reportClosed(this, passedOn);
      return status;
    }
  }
  // A socket that is transferred to another thread is closed in this one by Node itself, without a call of `close`. Node
  // then calls this method, unless `close` has replaced it by its callback (HandleWrap::OnClose).
  const onClosed = symbolOf(handle, 'handle_onclose');
  if (onClosed) {
    Object.defineProperty(ReportingStreamHandle.prototype, onClosed, {
      value(this: ReportingHandle): void {
        reportClosed(this, undefined);
      },
      // `close` sets its callback here.
      writable: true,
    });
  }
  // Code that inspects a socket finds the name of Node's class.
  return Object.defineProperty(ReportingStreamHandle, 'name', { value: Base.name });
}

/** The events of a server that listens by itself. */
export interface StandaloneEvents {
  /** It has accepted a connection. @returns the function to call when the connection is closed */
  accepted(): OnClosing;
  /** It no longer listens. */
  closed(): void;
}

const watchedHandles = new WeakSet<object>();

/** Reports the events of a server that has a listening socket of its own. @returns whether it has, and is not watched yet */
export function watchStandalone(server: Server, events: StandaloneEvents): boolean {
  const handle = privateServer(server)._handle;
  if (!handle || standIns.has(handle) || watchedHandles.has(handle)) return false;
  watchedHandles.add(handle);
  let { onconnection } = handle;
  // A `cluster` of the app sets another function, when the server listens.
  Object.defineProperty(handle, 'onconnection', {
    configurable: true,
    enumerable: true,
    get: () => counting,
    set: (replacement: typeof onconnection) => {
      onconnection = replacement;
    },
  });
  const counting = function (this: ListeningHandle, status: number, connection: ConnectionHandle): void {
    // After a failed accept(2) there is no connection.
    if (status === 0) watchClosing(connection as ReportingHandle, events.accepted());
    if (onconnection) Reflect.apply(onconnection, this, [status, connection]);
  };
  const close = handle.close.bind(handle);
  handle.close = (callback) => {
    events.closed();
    close(callback);
  };
  return true;
}

/** Not a private method: those cost time for each connection. */
function reportClosed(handle: ReportingHandle, passedOn: SocketIdentity | undefined): void {
  const { onClosing } = handle;
  handle.onClosing = undefined;
  onClosing?.(passedOn);
}

/** Reports the closing of a handle that Node has made by itself. */
function watchClosing(handle: ReportingHandle, onClosing: OnClosing): void {
  handle.onClosing = onClosing;
  const close = handle.close.bind(handle);
  handle.close = (callback) => {
    const passedOn = identityOfPassedOn(handle);
    close(callback);
    reportClosed(handle, passedOn);
  };
  if (handle.reset) {
    const reset = handle.reset.bind(handle);
    handle.reset = (callback) => {
      const passedOn = identityOfPassedOn(handle);
      const status = reset(callback);
      reportClosed(handle, passedOn);
      return status;
    };
  }
  const onClosed = symbolOf(handle, 'handle_onclose');
  if (onClosed) {
    Object.defineProperty(handle, onClosed, {
      value: () => {
        reportClosed(handle, undefined);
      },
      writable: true,
    });
  }
}

interface HandleOwner {
  readonly _handle?: unknown;
  /** The server that accepted it. `_usingWorkers`: a connection of the server was sent to a child process (`_setupWorker` in lib/net.js). */
  readonly server?: { readonly _usingWorkers?: boolean } | null;
  readonly [symbol: symbol]: unknown;
}

function symbolOf(object: object, name: string): symbol | undefined {
  return Object.getOwnPropertySymbols(object).find(({ description }) => description === name);
}

/**
 * The identity of a connection that may be open in another process; undefined when it cannot be.
 *
 * A socket closes its handle while the two are still connected. Node closes a handle without a socket when the connection
 * was sent to another process (`send`, the round robin of `cluster`), and when it exceeds `maxConnections`. A socket that
 * is a standard stream of a child is marked. A socket that was sent with `keepOpen` keeps its handle, and only its server
 * is marked. So the kernel is seldom asked about a connection that was not passed on.
 */
function identityOfPassedOn(handle: ReportingHandle): SocketIdentity | undefined {
  if (!ownerSymbol || !handle.onClosing) return undefined;
  const owner = (handle as unknown as Record<symbol, HandleOwner | undefined>)[ownerSymbol];
  const isPlain =
    owner?._handle === handle && handle.isPassedOn !== true && !isStdio(owner) && !mayBeKept(owner);
  return isPlain || handle.fd < 0 ? undefined : identify(handle.fd);
}

/** Whether a child may have the connection too, by `send` with `keepOpen`. For a socket without a server this is unknown. */
function mayBeKept({ server }: HandleOwner): boolean {
  return hasStartedProcess && server?._usingWorkers !== false;
}

/** Whether the socket is a standard stream of a child. The symbol is found on the first such socket. */
function isStdio(socket: HandleOwner): boolean {
  if (!hasStartedProcess) return false;
  stdioSymbol ??= symbolOf(socket, 'kIsUsedAsStdio');
  return stdioSymbol !== undefined && socket[stdioSymbol] === true;
}
