// Closes a server so that its clients end soon by themselves, and none of them is cut off in a request.
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Server } from 'node:net';

/** What of an HTTP server keeps connections open, and of its answers. */
interface HttpServer {
  keepAliveTimeout: number;
}

/** The part of an HTTP/2 session that is used here (http2, Http2Session). */
interface Session {
  once(event: 'close', listener: () => void): unknown;
  close(): void;
}

/** Shortest there is: with 0, connections would stay open for ever (http, server.keepAliveTimeout). */
const SHORTEST_KEEP_ALIVE_MS = 1;

const sessionsOf = new WeakMap<Server, Set<Session>>();

/** To be called before the server gets connections: the sessions of an HTTP/2 server are told nowhere else. */
export function prepareClosing(server: Server): void {
  if (sessionsOf.has(server)) return;
  const sessions = new Set<Session>();
  sessionsOf.set(server, sessions);
  server.on('session', (session: Session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
  });
}

/**
 * Takes nothing new, and finishes what is open. Connections that HTTP keeps alive end behind their next answer, idle
 * ones at once (Node's `close` sees to these), and HTTP/2 sessions behind the requests that they have.
 */
export function closeGracefully(server: Server): void {
  if (isHttp(server)) {
    server.keepAliveTimeout = SHORTEST_KEEP_ALIVE_MS;
    server.prependListener('request', (_request: IncomingMessage, response: ServerResponse) => {
      response.shouldKeepAlive = false;
    });
  }
  server.close();
  for (const session of sessionsOf.get(server) ?? []) session.close();
}

function isHttp(server: Server): server is Server & HttpServer {
  return 'keepAliveTimeout' in server;
}
