// Intercept: `listen` of every net.Server in this process goes to the dispatcher, as `cluster` sends it to its primary.
import { Server } from 'node:net';
import { parse, resolve } from 'node:path';

import { PassfdError } from '../fd/index.js';
import type { WantedAddress } from '../handoff/index.js';
import { privateServer, type PrivateServer } from './node-handles.js';
import { failListen, type ListenArguments } from './server-handle.js';
import type { Worker } from './worker.js';

/** `UV_TCP_IPV6ONLY` and `UV_TCP_REUSEPORT` of libuv's uv.h. */
const IPV6_ONLY = 1;
const REUSE_PORT = 2;

/** The default of Node's own `listen`. */
const DEFAULT_BACKLOG = 511;

/** An `int` in listen(2). The kernel limits it to `net.core.somaxconn`. */
const MAX_BACKLOG = 0x7fff_ffff;

/** The length of `sun_path` (unix(7)). */
const ABSTRACT_NAME_BYTES = 108;

/**
 * libuv before 1.48 fills an abstract name with NULs, for `listen` and `connect`. They are part of the name
 * (https://github.com/libuv/libuv/pull/4266).
 */
const [major = 0, minor = 0] = process.versions.uv.split('.').map(Number);
const padsAbstractNames = major === 1 && minor < 48;

const EVERYONE_READS = 0o444;
const EVERYONE_WRITES = 0o222;

/** Options of `listen` that it does not pass on to `_listen2`. */
interface ListenOptions {
  readonly exclusive?: boolean;
  readonly readableAll?: boolean;
  readonly writableAll?: boolean;
}

type ServerPrototype = Pick<Server, 'listen'> & Pick<PrivateServer, '_listen2'>;

/** From now on, the servers of this process listen through `worker`. */
export function interceptListen(worker: Worker): void {
  const prototype = Server.prototype as unknown as ServerPrototype;
  const { listen: nodeListen, _listen2: nodeListen2 } = prototype;
  const options = new WeakMap<Server, ListenOptions>();
  const counter = { withoutPort: 0 };

  const listen = function (this: Server, ...args: unknown[]): Server {
    const [first] = args;
    options.set(this, typeof first === 'object' && first !== null ? first : {});
    return Reflect.apply(nodeListen, this, args) as Server;
  } as Server['listen'];
  prototype.listen = Object.defineProperty(listen, 'name', { value: nodeListen.name });

  prototype._listen2 = function setupListenHandle(
    this: Server,
    ...[address, port, addressType, backlog, fd, flags]: Parameters<PrivateServer['_listen2']>
  ): void {
    const { exclusive: isExclusive, ...modes } = options.get(this) ?? {};
    // Node sets `exclusive` where an app asks for `reusePort`, since each of its processes has a socket of its own then. Here the
    // workers share one, and no client must come past it.
    const exclusive = ((flags ?? 0) & REUSE_PORT) === 0 ? isExclusive : undefined;
    const server = privateServer(this);
    const listenStandalone = (): void => {
      Reflect.apply(nodeListen2, this, [address, port, addressType, backlog, fd, flags]);
      worker.watchStandalone(this);
    };
    // `server.address()` returns a path as the app gave it.
    if (server._handle && address && server._pipeName === toBoundPath(address)) server._pipeName = address;
    // No drain waits for its connections: a launcher's child stays connected for as long as it lives.
    if (isOwnSocket(address, addressType)) {
      Reflect.apply(nodeListen2, this, [address, port, addressType, backlog, fd, flags]);
      return;
    }
    const isStandalone = Boolean(exclusive) || server._handle !== null || (worker.isFinishing && port === 0);
    // An open session can need a socket of its own, as in FTP. Its connections must not go to another worker.
    const isOfSession = exclusive === undefined && port === 0 && worker.active > 0 && !worker.mayServe(this);
    if (isStandalone || isOfSession) {
      listenStandalone();
      return;
    }
    // The app's first server gets the dispatcher's own addresses. When it is closed, the next server that listens gets them.
    const wanted =
      worker.mayServe(this) && !worker.isFinishing
        ? undefined
        : toWanted({ address, port, addressType, fd, flags }, modes, counter);
    const listen = {
      address,
      port,
      addressType,
      backlog: toBacklog(backlog),
      fd,
      flags,
    };
    listenThrough(worker, this, { wanted, listen, listenStandalone });
  };
}

/**
 * Whether the file is named after the id of this process, like the socket between a launcher and the processes it starts.
 * Its name changes with each start, so it is no address of a service.
 */
function isOwnSocket(address: string | null, addressType: unknown): boolean {
  return addressType === -1 && address !== null && parse(address).name === String(process.pid);
}

function listenThrough(
  worker: Worker,
  server: Server,
  {
    wanted,
    listen,
    listenStandalone,
  }: {
    readonly wanted: WantedAddress | undefined;
    readonly listen: ListenArguments;
    readonly listenStandalone: () => void;
  },
): void {
  const { _listeningId: call } = privateServer(server);
  worker.listenWith(server, wanted, listen).catch((error: unknown) => {
    // The drain began before the answer came.
    if (worker.isFinishing) {
      if (privateServer(server)._listeningId === call) listenStandalone();
      return;
    }
    const isClosed = error instanceof PassfdError && error.code === 'ERR_CLOSED';
    if (!isClosed) failListen(server, listen, codeOf(error, wanted));
  });
}

function toWanted(
  { address, port, addressType, fd, flags }: Omit<ListenArguments, 'backlog'>,
  { readableAll = false, writableAll = false }: ListenOptions,
  counter: { withoutPort: number },
): WantedAddress {
  if (typeof fd === 'number') return { fd };
  if (addressType === -1) {
    // Node has no other way to read it. This sets the umask and sets it back, and no file is made in between.
    // eslint-disable-next-line @typescript-eslint/no-deprecated
    const umask = process.umask();
    const mode = (0o777 & ~umask) | (readableAll ? EVERYONE_READS : 0) | (writableAll ? EVERYONE_WRITES : 0);
    return { path: toBoundPath(address ?? ''), mode };
  }
  return {
    host: address,
    port: port ?? 0,
    ipv6Only: ((flags ?? 0) & IPV6_ONLY) !== 0,
    index: port ? 0 : counter.withoutPort++,
  };
}

/** The path that the kernel gets when Node listens at this one. */
function toBoundPath(path: string): string {
  if (!path.startsWith('\0')) return resolve(path);
  const padding = padsAbstractNames ? ABSTRACT_NAME_BYTES - Buffer.byteLength(path) : 0;
  return path + '\0'.repeat(Math.max(0, padding));
}

/** Some forms of Node's `listen` pass `false` for a missing backlog. A backlog of 0 means the default. */
function toBacklog(backlog: number | false | undefined): number {
  if (typeof backlog !== 'number' || !(backlog >= 1)) return DEFAULT_BACKLOG;
  return Math.min(Math.floor(backlog), MAX_BACKLOG);
}

/** The code of the system error that the dispatcher got. */
function codeOf(error: unknown, wanted: WantedAddress | undefined): string {
  const { code } = (error instanceof PassfdError ? (error.cause ?? {}) : {}) as { code?: unknown };
  // For a number that is no descriptor, Node reports EINVAL (`createServerHandle` in lib/net.js).
  if (code === 'EBADF' && wanted && 'fd' in wanted) return 'EINVAL';
  // For a missing directory, libuv reports EACCES on every system (uv_pipe_bind).
  if (code === 'ENOENT') return 'EACCES';
  return typeof code === 'string' ? code : 'ECONNREFUSED';
}
