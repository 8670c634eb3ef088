// A TLS client that connects once, and tells whether its session was resumed, and which session it can resume next.
import { text } from 'node:stream/consumers';
import { connect, type ConnectionOptions } from 'node:tls';

export interface Visit {
  readonly isResumed: boolean;
  /** All that the server has said, until it ended the connection. */
  readonly said: string;
  /** The last session that the server has given. */
  readonly session: Buffer | undefined;
}

/** Says an HTTP/1 request unless the options say something else, and waits for the end of the connection. */
export async function visit(
  port: number,
  options: ConnectionOptions,
  request = 'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
): Promise<Visit> {
  const socket = connect({ host: '127.0.0.1', port, servername: 'localhost', ...options });
  let session: Buffer | undefined;
  let isResumed = false;
  socket.on('session', (given: Buffer) => {
    session = given;
  });
  // Node knows it only while the connection is open.
  socket.once('secureConnect', () => {
    isResumed = socket.isSessionReused();
  });
  socket.write(request);
  const said = await text(socket);
  return { isResumed, said, session };
}

/** Visits in a row, each with the session of the one before it. @returns what the next visit can resume, and each visit */
export async function visits(
  count: number,
  port: number,
  options: ConnectionOptions,
): Promise<{ readonly session: Buffer | undefined; readonly made: readonly Visit[] }> {
  let { session } = options;
  const made: Visit[] = [];
  while (made.length < count) {
    const visited = await visit(port, session ? { ...options, session } : options);
    session = visited.session ?? session;
    made.push(visited);
  }
  return { session, made };
}
