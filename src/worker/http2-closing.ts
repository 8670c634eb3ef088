// Http2Closing: ends the HTTP/2 sessions of a server, each when its client has no request in transit.
import type { Server } from 'node:net';

/** The parts of an HTTP/2 session and of its streams that are used here (http2). */
interface Session {
  readonly closed: boolean;
  readonly destroyed: boolean;
  emit(event: string | symbol, ...args: unknown[]): boolean;
  on(event: 'stream', listener: (stream: Stream) => void): unknown;
  once(event: 'close', listener: () => void): unknown;
  ping(callback: (error: Error | null) => void): boolean;
  close(): void;
}

interface Stream {
  readonly destroyed: boolean;
  on(event: 'error', listener: () => void): unknown;
  once(event: 'close', listener: () => void): unknown;
  off(event: 'error', listener: () => void): unknown;
}

/** The number of streams that have come or ended. */
interface Activity {
  changes: number;
}

/** Requests wait no longer than this, when their client is slow to answer PING. */
const QUIET_MS = 1_000;

export class Http2Closing {
  readonly #sessions = new Map<Session, Activity>();
  #isDraining = false;

  /** Make it before the server gets connections: there is no list of its sessions. */
  constructor(server: Server) {
    if (!isHttp2(server)) return;
    server.on('session', (session: Session) => {
      const activity = { changes: 0 };
      this.#sessions.set(session, activity);
      session.once('close', () => this.#sessions.delete(session));
      session.on('stream', (stream) => {
        activity.changes++;
        stream.once('close', () => activity.changes++);
      });
      if (this.#isDraining) closeWhenQuiet(session, activity);
    });
  }

  /** Finishes open requests, and those that a client sends before it learns of the end. */
  drain(): void {
    this.#isDraining = true;
    for (const [session, activity] of this.#sessions) closeWhenQuiet(session, activity);
  }
}

/**
 * GOAWAY names the last stream that is served. RFC 9113 (6.8) recommends a first GOAWAY without a limit, one round trip
 * earlier. That does not work with Node, which ignores every stream after a GOAWAY of its own. So new requests wait here
 * until no request came and none was answered for a whole round trip. A client that waits for answers has no request in
 * transit then. The waiting requests are served after the GOAWAY.
 */
function closeWhenQuiet(session: Session, activity: Activity): void {
  const waiting: (() => void)[] = [];
  const original = Object.getOwnPropertyDescriptor(session, 'emit');
  const emit = session.emit.bind(session);
  session.emit = (event, ...args) => {
    if (event !== 'stream') return emit(event, ...args);
    activity.changes++;
    const stream = args[0] as Stream;
    stream.on('error', ignore);
    waiting.push(() => {
      if (stream.destroyed) return;
      stream.off('error', ignore);
      emit(event, ...args);
    });
    return true;
  };
  let isOver = false;
  const end = (): void => {
    if (isOver) return;
    isOver = true;
    clearTimeout(deadline);
    if (original) Object.defineProperty(session, 'emit', original);
    else Reflect.deleteProperty(session, 'emit');
    if (!session.destroyed) session.close();
    // In a tick each. So an exception of the app is an ordinary one, and no other request suffers from it.
    for (const serve of waiting) process.nextTick(serve);
  };
  const deadline = setTimeout(end, QUIET_MS);
  const look = (): void => {
    if (isOver) return;
    if (session.destroyed || session.closed) {
      end();
      return;
    }
    const { changes } = activity;
    session.ping((error) => {
      if (error || activity.changes === changes) end();
      else look();
    });
  };
  look();
}

/** Node exports no class for HTTP/2 servers. No other server has this method. */
function isHttp2(server: object): boolean {
  return 'updateSettings' in server;
}

/** The app has no listener yet on a stream that waits here, and the client may reset the stream. */
function ignore(): void {
  // The app does not know the stream.
}
