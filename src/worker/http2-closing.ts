// Http2Closing: ends the HTTP/2 sessions of a server, each at a moment when its client has no request on the way.
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

/** Counts the streams that have come or ended. */
interface Activity {
  changes: number;
}

/** The requests of a client whose answers to PING are slow wait no longer than this. */
const QUIET_MS = 1_000;

export class Http2Closing {
  readonly #sessions = new Map<Session, Activity>();
  #isDraining = false;

  /** To be made before the server gets connections: it tells of its sessions nowhere else. */
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

  /** What is open is finished, and what a client that waits for its answers has asked before it knows of the end, too. */
  drain(): void {
    this.#isDraining = true;
    for (const [session, activity] of this.#sessions) closeWhenQuiet(session, activity);
  }
}

/**
 * GOAWAY names the last stream that is served. The one that names none, to be sent a round trip earlier (RFC 9113, 6.8),
 * is not to be had: Node ignores each stream that comes behind a GOAWAY of its own, whatever stream that names. So new
 * requests wait here until none has come and none was answered for a whole round trip; a client that waits for answers
 * has none on the way then. They are served behind the GOAWAY.
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
    // Each on its own, so that an exception of the app's is an ordinary one, and concerns no other request.
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

/** Node exports no class to tell it by; no other server has this method. */
function isHttp2(server: object): boolean {
  return 'updateSettings' in server;
}

/** The app has no listener yet at a stream that is held back, and its client may reset it. */
function ignore(): void {
  // There is nobody who would want to know.
}
