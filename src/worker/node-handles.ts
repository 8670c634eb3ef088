// What Node keeps to itself about connections: the handle under a net.Socket, made from a descriptor.
// The one file of this part that knows private things of Node.
import { subscribe } from 'node:diagnostics_channel';
import { Socket, type NetConnectOpts, type Server } from 'node:net';

import type { Descriptor } from '../fd/index.js';
import type { SocketIdentity } from '../fd/internal.js';
import { identify } from './passed-on.js';

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
  onconnection?: (this: ListeningHandle, status: number, connection: ConnectionHandle) => void;
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
  readonly fd: number;
  /** Set by `passfd` itself where it has passed the connection on. */
  readonly isPassedOn?: boolean;
  open(fd: number): number;
  /** Of TCP alone: closes with a reset, for `socket.resetAndDestroy()`. */
  reset(callback?: () => void): number;
}

type StreamHandleClass = new (type: number) => StreamHandle;

/** `TCPConstants.SOCKET` and `PipeConstants.SOCKET`. */
const SOCKET = 0;
/** `TCPConstants.SERVER` and `PipeConstants.SERVER`. */
const SERVER = 1;

/**
 * Whoever has a connection closes it here.
 * @param passedOn what the kernel knows it by, where another process may have it open
 */
export type OnClosing = (passedOn: SocketIdentity | undefined) => void;

interface ReportingHandle extends Omit<StreamHandle, 'reset'>, Partial<Pick<StreamHandle, 'reset'>> {
  onClosing: OnClosing | undefined;
}

type ReportingHandleClass = new (type: number) => ReportingHandle;

/** By the family of the connection: `TCP` and `Pipe`, which Node does not export. */
const classes = new Map<'tcp' | 'unix', ReportingHandleClass>();

type ListeningHandleClass = new (type: number) => ListeningHandle;

/** Under which a handle has its `net.Socket` (`initSocketHandle` in lib/net.js). */
let ownerSymbol: symbol | undefined;
/** Under which a `net.Socket` is marked that a child process has as a standard stream. No other socket has it. */
let stdioSymbol: symbol | undefined;
let hasStartedProcess = false;
subscribe('child_process', () => {
  hasStartedProcess = true;
});

/** Those of servers that have no socket of their own. */
const standIns = new WeakSet<object>();

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

/** The same, as a socket that is paused. @throws {TypeError} when it is no connection */
export function openSocket(descriptor: Descriptor, onClosing: OnClosing): Socket {
  const family = descriptor.describe().family === 'unix' ? 'unix' : 'tcp';
  const handle = openConnection(descriptor, family, onClosing);
  const options = { handle, pauseOnCreate: true, readable: true, writable: true };
  return new Socket(options);
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
    onClosing: OnClosing | undefined = undefined;

    override close(callback?: () => void): void {
      const passedOn = identityOfPassedOn(this);
      super.close(callback);
      tellClosing(this, passedOn);
    }

    override reset(callback?: () => void): number {
      const passedOn = identityOfPassedOn(this);
      const status = super.reset(callback);
      tellClosing(this, passedOn);
      return status;
    }
  }
  // A socket that is transferred to another thread is closed in this one by Node itself, without a call of `close`; this
  // is what it calls then, where `close` has not put the callback of its caller (HandleWrap::OnClose).
  const onClosed = symbolOf(handle, 'handle_onclose');
  if (onClosed) {
    Object.defineProperty(ReportingStreamHandle.prototype, onClosed, {
      value(this: ReportingHandle): void {
        tellClosing(this, undefined);
      },
      // Else `close` could not put its own in front of it.
      writable: true,
    });
  }
  // What looks into a socket finds the name that it knows.
  return Object.defineProperty(ReportingStreamHandle, 'name', { value: Base.name });
}

/** What a server that listens by itself does. */
export interface StandaloneEvents {
  /** It has accepted a connection. @returns what to call when that is closed */
  accepted(): OnClosing;
  /** It listens no more. */
  closed(): void;
}

const watchedHandles = new WeakSet<object>();

/** Tells what a server does that has a listening socket of its own. @returns whether it has */
export function watchStandalone(server: Server, events: StandaloneEvents): boolean {
  const handle = privateServer(server)._handle;
  if (!handle || standIns.has(handle) || watchedHandles.has(handle)) return false;
  watchedHandles.add(handle);
  let { onconnection } = handle;
  // A `cluster` of the app's puts another function there, when the server listens.
  Object.defineProperty(handle, 'onconnection', {
    configurable: true,
    enumerable: true,
    get: () => counting,
    set: (replacement: typeof onconnection) => {
      onconnection = replacement;
    },
  });
  const counting = function (this: ListeningHandle, status: number, connection: ConnectionHandle): void {
    // There is none where accept(2) has failed.
    if (status === 0) reportClosing(connection as ReportingHandle, events.accepted());
    if (onconnection) Reflect.apply(onconnection, this, [status, connection]);
  };
  const close = handle.close.bind(handle);
  handle.close = (callback) => {
    events.closed();
    close(callback);
  };
  return true;
}

/** Not a private method, since each connection would pay for that. */
function tellClosing(handle: ReportingHandle, passedOn: SocketIdentity | undefined): void {
  const { onClosing } = handle;
  handle.onClosing = undefined;
  onClosing?.(passedOn);
}

/** Of a handle that Node has made by itself. */
function reportClosing(handle: ReportingHandle, onClosing: OnClosing): void {
  handle.onClosing = onClosing;
  const close = handle.close.bind(handle);
  handle.close = (callback) => {
    const passedOn = identityOfPassedOn(handle);
    close(callback);
    tellClosing(handle, passedOn);
  };
  if (handle.reset) {
    const reset = handle.reset.bind(handle);
    handle.reset = (callback) => {
      const passedOn = identityOfPassedOn(handle);
      const status = reset(callback);
      tellClosing(handle, passedOn);
      return status;
    };
  }
  const onClosed = symbolOf(handle, 'handle_onclose');
  if (onClosed) {
    Object.defineProperty(handle, onClosed, {
      value: () => {
        tellClosing(handle, undefined);
      },
      writable: true,
    });
  }
}

interface HandleOwner {
  readonly _handle?: unknown;
  /** Which has accepted it. `_usingWorkers`: it has sent a connection to a child process (`_setupWorker` in lib/net.js). */
  readonly server?: { readonly _usingWorkers?: boolean } | null;
  readonly [symbol: symbol]: unknown;
}

function symbolOf(object: object, name: string): symbol | undefined {
  return Object.getOwnPropertySymbols(object).find(({ description }) => description === name);
}

/**
 * A socket closes its handle while it still has it. Node's own code closes a handle that no socket has, when it was given
 * to another process (`send`, the round robin of `cluster`), or when it is one too many (`maxConnections`). A socket that a
 * child has as one of its standard streams is marked. With `keepOpen` a socket that is sent keeps its handle, and nothing
 * marks it but its server. So the kernel is asked about few that were not passed on.
 */
function identityOfPassedOn(handle: ReportingHandle): SocketIdentity | undefined {
  if (!ownerSymbol || !handle.onClosing) return undefined;
  const owner = (handle as unknown as Record<symbol, HandleOwner | undefined>)[ownerSymbol];
  const isPlain =
    owner?._handle === handle && handle.isPassedOn !== true && !isStdio(owner) && !mayBeKept(owner);
  return isPlain || handle.fd < 0 ? undefined : identify(handle.fd);
}

/** Whether a child may have it too, by `send` with `keepOpen`. That is not known of a socket without a server. */
function mayBeKept({ server }: HandleOwner): boolean {
  return hasStartedProcess && server?._usingWorkers !== false;
}

/** The symbol is not known before one such socket was seen. */
function isStdio(socket: HandleOwner): boolean {
  if (!hasStartedProcess) return false;
  stdioSymbol ??= symbolOf(socket, 'kIsUsedAsStdio');
  return stdioSymbol !== undefined && socket[stdioSymbol] === true;
}
